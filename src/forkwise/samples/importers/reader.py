"""Records out of files: JSON, JSONL, CSV (these also gzipped), Parquet and inspect_ai's zip.

JSONL, CSV and Parquet are streamed. A JSON document is parsed whole, and so is each sample of an inspect_ai log.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from forkwise.errors import InputError
from forkwise.progress import watch
from forkwise.reading import without_surrogates
from forkwise.samples.store import check_names, open_parquet

Record = dict[str, Any]
"""A record of a file: a line of JSONL, a row of a table, or a whole document."""

DOCUMENT_LIMIT = 1 << 30
"""Bytes, uncompressed, of one JSON document, one line of JSONL or one member of a zip file."""

_NEITHER = "is neither JSON, JSONL, CSV, Parquet nor an inspect_ai log: give a file of one of these kinds"
_ZSTD = 93  # zipfile knows this method from Python 3.14 on; inspect_ai writes it, and pyarrow decodes it


def read_records(path: Path) -> Iterator[tuple[str, Record]]:
    """Yields a file's records and the place of each: `line 12` of JSONL, `row 12` of a table, `""` for a document.

    Raises:
        InputError: the file is absent, empty, cut off, not UTF-8, or of a kind that is not read here.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}.") from error
    if not magic:
        raise InputError(f"'{path}' is empty: nothing was written into it.")
    if magic == b"PAR1":
        yield from _parquet_rows(path)
    elif magic == b"PK\x03\x04":
        yield from _inspect_samples(path)
    else:
        with path.open("rb") as file, _uncompressed(file) as stream:
            is_csv = re.search(r"\.[ct]sv(\.gz)?$", path.name.lower())
            records = _csv_rows(path, stream) if is_csv else _json_records(path, stream)
            kilobytes = path.stat().st_size // 1000
            yield from watch(records, f"reading {path.name}", "kB", kilobytes, lambda: file.tell() // 1000)


@contextmanager
def _uncompressed(file: io.BufferedReader) -> Iterator[BinaryIO]:
    if file.peek(2)[:2] == b"\x1f\x8b":
        with gzip.open(file, "rb") as stream, io.BufferedReader(stream, 1 << 20) as buffered:  # type: ignore[type-var]
            yield buffered
    else:
        yield file


def _read_line(path: Path, stream: BinaryIO, number: int) -> bytes:
    try:
        line = stream.readline(DOCUMENT_LIMIT + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"'{path}' is a gzip file that is damaged or cut off after line {number - 1:,}: copy it again."
        ) from error
    _check_size(path, len(line))
    return line


def _check_size(path: Path, size: int) -> None:
    if size > DOCUMENT_LIMIT:
        raise InputError(f"'{path}' holds a JSON document of more than 1 GiB: write one JSON object per line (JSONL).")


def _json_records(path: Path, stream: BinaryIO) -> Iterator[tuple[str, Record]]:
    number, line = 1, _read_line(path, stream, 1)
    line = line.removeprefix(b"\xef\xbb\xbf")
    while line and not line.strip():
        number, line = number + 1, _read_line(path, stream, number + 1)
    if not line:
        raise InputError(f"'{path}' is empty: it holds only white space.")
    try:
        first = _parse(path, line, f"line {number:,}")
    except InputError:
        raise
    except ValueError:
        yield from _json_document(path, line, stream)
        return
    if isinstance(first, list):
        yield from _items(path, first)
        return
    while line:
        position = f"line {number:,}"
        if line.strip():
            try:
                record = _parse(path, line, position)
            except InputError:
                raise
            except ValueError as error:
                if not line.endswith(b"\n"):
                    raise InputError(f"'{path}': its last line ({number:,}) is cut off: remove that line.") from error
                raise InputError(f"'{path}', {position} is not JSON ({error}): correct or remove that line.") from error
            yield position, _object(path, position, record)
        number, line = number + 1, _read_line(path, stream, number + 1)


def _json_document(path: Path, start: bytes, stream: BinaryIO) -> Iterator[tuple[str, Record]]:
    try:
        text = start + stream.read(DOCUMENT_LIMIT + 1 - len(start))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"'{path}' is a gzip file that is damaged or cut off: copy it again.") from error
    _check_size(path, len(text))
    try:
        document = _parse(path, text, "")
    except json.JSONDecodeError as error:
        if start.lstrip()[:1] not in (b"{", b"["):
            problem = _NEITHER
        elif error.pos >= len(error.doc.rstrip()) - 1 or "Unterminated" in error.msg:
            problem = "is a JSON document that is cut off: copy it again"
        else:
            problem = f"is not JSON ({error}): correct it there"
        raise InputError(f"'{path}' {problem}.") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"'{path}' is not JSON ({error}).") from error
    if isinstance(document, list):
        yield from _items(path, document)
    else:
        yield "", _object(path, "", document)


def _items(path: Path, items: list[Any]) -> Iterator[tuple[str, Record]]:
    if not items:
        raise InputError(f"'{path}' is empty: it holds an empty JSON list.")
    for i, item in enumerate(watch(items, f"reading {path.name}", "records"), start=1):
        yield f"item {i:,}", _object(path, f"item {i:,}", item)


def _object(path: Path, position: str, value: Any) -> Record:
    if not isinstance(value, dict):
        where = f"'{path}', {position}" if position else f"'{path}'"
        raise InputError(f"{where} holds {value!r:.40} where a JSON object is needed.")
    return value


def _parse(path: Path, text: bytes, position: str) -> Any:
    """Returns what a piece of JSON holds; ValueError when it is not JSON."""
    try:
        value = json.loads(text.decode())
    except UnicodeDecodeError as error:
        if error.start == 0 and position in ("", "line 1") and text[:1] not in (b"\xff", b"\xfe"):  # nor UTF-16
            raise InputError(f"'{path}' {_NEITHER}.") from error
        where = f"'{path}', {position}" if position else f"'{path}'"
        raise InputError(
            f"{where} is not UTF-8 text (byte 0x{text[error.start]:02x} at position {error.start}): "
            "convert it, for example with iconv -t UTF-8."
        ) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    # Half a character, as a tokenizer that cuts inside one leaves it, cannot be stored as UTF-8.
    return without_surrogates(value) if b"\\ud" in text or b"\\uD" in text else value


def _csv_rows(path: Path, stream: BinaryIO) -> Iterator[tuple[str, Record]]:
    csv.field_size_limit(DOCUMENT_LIMIT)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    reader = csv.DictReader(text, delimiter="\t" if ".tsv" in path.name.lower() else ",", strict=True)
    try:
        for record in reader:
            position = f"row {reader.line_num:,}"
            if None in record or None in record.values():
                raise InputError(f"'{path}', {position} has another number of cells than the header: correct it there.")
            yield position, {key: cell or None for key, cell in record.items()}  # a cell cannot be null
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{path}' is not UTF-8 text (after row {reader.line_num:,}): convert it, for example with iconv -t UTF-8."
        ) from error
    except csv.Error as error:
        raise InputError(f"'{path}', row {reader.line_num:,} is not CSV ({error}): correct it there.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"'{path}' is a gzip file that is damaged or cut off after row {reader.line_num:,}: copy it again."
        ) from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        with open_parquet(path) as file:
            check_names(file.schema_arrow.names, path)
            # Threads read ahead until they hold the whole file.
            batches = file.iter_batches(batch_size=256, use_threads=False)
            rows = (row for batch in batches for row in _checked_rows(batch))
            for number, row in enumerate(watch(rows, f"reading {path.name}", "rows", file.metadata.num_rows), start=1):
                yield f"row {number:,}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"'{path}' is a Parquet file that is damaged or cut off: copy it again ({reason})") from error


def _checked_rows(batch: pa.RecordBatch) -> list[Record]:
    batch.validate(full=True)  # text that is not UTF-8
    rows: list[Record] = batch.to_pylist()
    return rows


def _inspect_samples(path: Path) -> Iterator[tuple[str, Record]]:
    """Yields each sample of an inspect_ai `.eval` file as a log of its own: the log's header with this one sample."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            members = [
                info for info in archive.infolist() if re.fullmatch(r"samples/.+\.json", info.filename, re.DOTALL)
            ]
            # A log that was cut short by a kill has no header yet, only the journal's first page.
            headers = {info.filename: info for info in archive.infolist()}
            header = headers.get("header.json") or headers.get("_journal/start.json")
            if header is None:
                raise InputError(f"'{path}' is a zip file but no inspect_ai log: unpack it and give the files in it.")
            log = _parse(path, _member(path, archive, file, header), header.filename)
            if not members:
                yield "", {**log, "samples": []}
            for info in watch(members, f"reading {path.name}", "samples"):
                sample = _parse(path, _member(path, archive, file, info), info.filename)
                yield info.filename, {**log, "samples": [sample]}
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, pa.ArrowException, EOFError, OSError) as error:
        raise InputError(f"'{path}' is a zip file that is damaged or cut off: copy it again.") from error
    except (NotImplementedError, RuntimeError) as error:  # another compression, or a password
        raise InputError(f"'{path}' is a zip file that cannot be unpacked ({error}): pack it again.") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{path}' holds a log that is not JSON ({error}).") from error


def _member(path: Path, archive: zipfile.ZipFile, file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    _check_size(path, info.file_size)
    if info.compress_type != _ZSTD:
        return archive.read(info)
    # Local file header (APPNOTE 4.3.7): 30 bytes, the last four of them the lengths of name and extra field.
    file.seek(info.header_offset + 26)
    lengths = file.read(4)
    file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), io.SEEK_CUR)
    raw = file.read(info.compress_size)
    data: bytes = pa.CompressedInputStream(pa.BufferReader(raw), "zstd").read(DOCUMENT_LIMIT + 1)
    _check_size(path, len(data))
    if zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(info.filename)
    return data
