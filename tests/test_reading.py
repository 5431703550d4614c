"""YAML and JSON that people write: what is small stays small, and what is wrong is one sentence."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import yaml

from forkwise.errors import InputError
from forkwise.reading import parse_json, parse_yaml, read_yaml


def bomb(first: str, of: str) -> str:
    letters = "abcdefghi"
    lines = [f"a: &a {first}"]
    for before, name in itertools.pairwise(letters):
        lines.append(f"{name}: &{name} " + of.replace("?", ", ".join([f"*{before}"] * 9)))
    return "\n".join(lines)


BOMBS = {
    "lists": bomb("[x, x, x, x, x, x, x, x, x]", "[?]"),
    "mappings": bomb("{k: x}", "{p: [?]}"),
    "merge keys": bomb("{k: 1, l: 2}", "{<<: [?]}"),
    "long text": "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 1000) + "]",
    "itself": "a: &a [*a]",
    "itself merged": "&a {<<: *a}",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(InputError, match="'f.yaml' is not YAML: "):
        parse_yaml(text.encode(), "f.yaml")
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 5000, "nested too deeply"),
        (b"[" * 60 + b"]" * 60, "more than 50 levels"),
        (b"a: 1\na: 2", "'a' is there twice"),
        (b"a: " + b"9" * 5000, "a number has more than 400"),
        (b"a: " + b"1:" * 5000 + b"1", "a number has more than 400"),
        (b"a: !!int ''", "does not fit its tag"),
        (b"a: !!bool x", "does not fit its tag"),
        (b"!!python/object/apply:os.system [echo]", "the tag tag:yaml.org,2002:python"),
        (b"a: !!binary aGk=", "the tag"),
        (b"\xff\xfe\xff", "decode"),
        (b"a: \x1b", "special characters"),
        (b"a: 1\n---\nb: 2", "another document"),
        (b"a: [1", "line 1"),
    ],
)
def test_what_is_no_yaml_of_settings(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        parse_yaml(data, "f.yaml")
    assert "\n" not in str(caught.value)


def test_what_settings_hold_is_read_as_yaml_reads_it_but_for_dates() -> None:
    text = "a: &a {x: 1, y: [1.5, true, null, no, 'no', 0x1f, .inf]}\nb: {<<: *a, x: 2}\nc: *a\n"
    assert parse_yaml(text.encode(), "f") == yaml.safe_load(text)
    assert parse_yaml(("title: é\n").encode("utf-16"), "f") == {"title": "é"}
    assert parse_yaml(b"\xef\xbb\xbftitle: x\n", "f") == {"title": "x"}
    assert parse_yaml(b"title: 2026-01-02", "f") == {"title": "2026-01-02"}  # a name, not a date
    assert parse_yaml(b"", "f") is None


def test_a_file_too_large_or_absent(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"a: 1\n" * 60_000)
    with pytest.raises(InputError, match=r"large.yaml' has more than 262,144 bytes"):
        read_yaml(tmp_path / "large.yaml")
    with pytest.raises(InputError, match=r"absent.yaml' cannot be read: No such file"):
        read_yaml(tmp_path / "absent.yaml")


def test_deep_json_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
