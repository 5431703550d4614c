"""One POST over HTTP within a total time, as careful with the answer of a stranger as with the user's key.

By the standard library: the timeouts of httpx, as of urllib, are of each read and not of the whole, so that the clock
and the limits on size would be ours there too.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import partial
from typing import Any, NoReturn

from forkwise.errors import InputError

API_KEY = "FORKWISE_API_KEY"
"""Environment variable whose value is sent as the bearer token, where it is set."""

_AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))  # statuses that may pass
_LARGEST_REPLY = 1 << 28  # bytes
_LOOK = 60.0  # seconds after which one looks whether the server still takes connections, and then again
_REFUSALS = 2  # in a row, after which nobody listens
_HIDDEN = "[the key]"
_SECRET = 12  # characters from which on a key is looked for in whole replies; "EMPTY" is a word


class FailedTry(Exception):
    """A failed try that may work when repeated; `wait` is the pause that the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class RefusedError(Exception):
    """The server understood and refuses; `status` and `content` (its error object, or {}) say why."""

    def __init__(self, reason: str, status: int, content: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.status, self.content = status, content


class Address:
    """A server with the key for it.

    Args:
        url: the server's URL, with or without `/v1`.
        timeout: seconds for a whole request: connection, headers and body together.

    Raises:
        InputError: the URL cannot be used, or no header can carry the key.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.base = base_url(url)
        self._timeout = timeout
        self._key = api_key()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Posts a request and returns the JSON that the server answers.

        Raises:
            FailedTry: the request may work when repeated.
            RefusedError: the request cannot work.
            InputError: the server sends the request elsewhere, or answers without end.
        """
        request = urllib.request.Request(
            f"{self.base}/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        with _Deadline(self._timeout) as deadline:
            data = self._exchange(request, deadline)
        if len(data) > _LARGEST_REPLY:
            raise InputError(f"The server at {self.base} sends replies of more than {_LARGEST_REPLY >> 20} MB.")
        content = _parsed(data)
        if self._key and len(self._key) >= _SECRET:
            try:
                return _without(content, self._key)
            except RecursionError as error:
                raise FailedTry("its reply is nested too deeply") from error
        return content

    def _exchange(self, request: urllib.request.Request, deadline: _Deadline) -> bytes:
        opener = urllib.request.build_opener(_Http(deadline), _Https(deadline), _NoRedirect)
        try:
            with opener.open(request, timeout=self._timeout) as response:
                data: bytes = response.read(_LARGEST_REPLY + 1)
        except urllib.error.HTTPError as error:
            with error:
                self._raise_status(error)
        except (OSError, http.client.HTTPException, ValueError) as error:  # refused, reset, timed out, cut off
            cause = getattr(error, "reason", None) or error
            if deadline.over or isinstance(cause, TimeoutError):
                raise FailedTry(deadline.sentence) from error
            raise FailedTry(self.clean(cause) or type(cause).__name__) from error
        if deadline.over:  # a body without length ends where the connection does
            raise FailedTry(deadline.sentence)
        return data

    def clean(self, text: object) -> str:
        """Shortens the server's words to a line without the key and without characters that steer a terminal."""
        line = str(text)
        line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
        if self._key:
            for written in (self._key, urllib.parse.quote(self._key, safe=""), urllib.parse.quote(self._key)):
                line = line.replace(written, _HIDDEN)
        return line[:300]

    def _raise_status(self, error: urllib.error.HTTPError) -> NoReturn:
        content: Any = {}
        with suppress(OSError, http.client.HTTPException, ValueError, FailedTry):
            content = _parsed(error.read(1 << 16))
        if 300 <= error.code < 400:
            target = error.headers.get("Location")
            raise InputError(
                f"The server at {self.base} sends requests elsewhere ({error.code}"
                + (f", to {self.clean(_without_user(target))}" if target else "")
                + "), where neither prompts nor keys are sent: give the address that answers itself to --server."
            ) from error
        if isinstance(content, dict):
            content = content.get("error", content)
        message = content.get("message") or content.get("detail") if isinstance(content, dict) else content
        reason = f"{error.code} {self.clean(message if isinstance(message, str) and message else error.reason)}"
        if error.code in _AGAIN:
            raise FailedTry(reason, retry_after(error.headers.get("Retry-After"))) from error
        raise RefusedError(reason, error.code, content if isinstance(content, dict) else {}) from error


class _Deadline:
    """A time limit that shuts the connection down, whatever it is waiting for; earlier where nobody listens any more.

    A vLLM that is told to stop (SIGTERM, 0.32) stops its engine, takes no connections, and keeps those open whose
    requests it will never answer.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._socket: socket.socket | None = None
        self._server: Any = None  # its address, as the socket has it
        self._done = threading.Event()
        self.over = False
        self.sentence = f"no whole reply within {seconds:g} s"

    def __enter__(self) -> _Deadline:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._socket is not None:
            self._socket.close()

    def _watch(self) -> None:
        refused = 0
        while not self._done.wait(min(_LOOK, max(self._end - time.monotonic(), 0.0))):
            if time.monotonic() >= self._end:
                return self._shut()
            refused = refused + 1 if self._is_refused() else 0
            if refused == _REFUSALS:
                self.sentence = "it takes no connections any more, and left a request without an answer"
                return self._shut()
        return None

    def _is_refused(self) -> bool:
        if self._socket is None:
            return False
        try:
            with closing(socket.socket(self._socket.family, socket.SOCK_STREAM)) as another:
                another.settimeout(5)
                another.connect(self._server)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    def dial(self, address: tuple[str, int], *_: Any) -> socket.socket:
        """Connects like `socket.create_connection`, with one time limit for all addresses of a host."""
        refused: OSError | None = None
        for family, kind, protocol, _name, socket_address in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(max(self._end - time.monotonic(), 1e-3))
                connection.connect(socket_address)
            except OSError as error:
                connection.close()
                refused = error
                continue
            self._server = socket_address
            self._socket = connection.dup()  # stays ours when TLS takes the other over
            return connection
        raise refused or OSError("the host has no address")

    def _shut(self) -> None:
        self.over = True
        if self._socket is not None:
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_connection, http.client.HTTPConnection, self._deadline), req)  # type: ignore[arg-type]


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_connection, http.client.HTTPSConnection, self._deadline), req)  # type: ignore[arg-type]


def _connection(
    kind: type[http.client.HTTPConnection], deadline: _Deadline, host: str, **options: Any
) -> http.client.HTTPConnection:
    connection = kind(host, **options)
    connection._create_connection = deadline.dial  # type: ignore[attr-defined]
    return connection


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Refuses redirects: a redirected POST would become a GET without the prompt, and its answer a sample."""


def base_url(url: str) -> str:
    """Returns the address that paths are put behind, such as http://localhost:8000/v1.

    Raises:
        InputError: the text is no address, or holds a secret.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and " " not in url
        parts.port  # noqa: B018  # a number that is no port raises
    except ValueError:
        fits = False
    if "@" in url or "?" in url or "#" in url:  # never printed
        raise InputError(
            f"Put no user, password or query into the address of the server: a key goes into the variable {API_KEY}."
        )
    if not fits:
        raise InputError(f"{url[:100]!r} is not the address of a server: write it like http://localhost:8000.")
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _without_user(url: str) -> str:
    """Returns a URL without user, password and query, which may hold secrets."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "an address that is none"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def api_key() -> str | None:
    """Returns the user's key, or None. Blanks and line ends around it, which files and shells leave, are no part of it.

    Raises:
        InputError: the key has characters that no header carries; the key itself is not printed.
    """
    key = os.environ.get(API_KEY, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise InputError(
            f"The key in {API_KEY} has characters that no HTTP header carries (blanks, line ends, or letters beyond "
            "ASCII): copy it again."
        )
    return key or None


def is_secret(text: str) -> bool:
    """Tells whether the text holds the user's key."""
    key = api_key()
    return key is not None and len(key) >= _SECRET and key in text


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FailedTry("its reply is not JSON") from error


def _without(content: Any, key: str) -> Any:
    """Returns parsed JSON with `_HIDDEN` in place of the key, however the texts were escaped."""
    if isinstance(content, str):
        return content.replace(key, _HIDDEN)
    if isinstance(content, list):
        return [_without(value, key) for value in content]
    if isinstance(content, dict):
        return {_without(name, key): _without(value, key) for name, value in content.items()}
    return content


def retry_after(value: str | None) -> float | None:
    """Returns the seconds to wait by a Retry-After header, which holds seconds or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None
