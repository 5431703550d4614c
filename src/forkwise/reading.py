"""Reads the small files that people write or edit, within bounds: one sentence says what is wrong with a file."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from forkwise.errors import InputError

_TAG = "tag:yaml.org,2002:"
_KINDS = ("map", "seq", "str", "int", "float", "bool", "null", "merge", "value")
_LARGEST = 1 << 18  # bytes of a YAML file
_EXPANDED = 1 << 20  # values and their characters in a YAML file, each alias counted as what it stands for
_DEEPEST = 50  # levels of nesting
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LONGEST_NUMBER = 400  # characters of a number in YAML
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_yaml(path: Path) -> Any:
    """Reads a YAML file: mappings, lists and plain values.

    Raises:
        InputError: it cannot be read, is no YAML, or is huge or endless once its aliases are followed.
    """
    return parse_yaml(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """Reads the bytes of a file of settings.

    Raises:
        InputError: the file cannot be read, or is too large for one of settings.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InputError(f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(data) > _LARGEST:
        raise InputError(f"'{path}' has more than {_LARGEST:,} bytes, which is too much for a file of settings.")
    return data


def parse_yaml(data: bytes, name: str) -> Any:
    """Parses YAML in UTF-8 or UTF-16; `name` is what messages call it.

    Raises:
        InputError: as `read_yaml`.
    """
    try:
        loader = yaml.SafeLoader(data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    except RecursionError as error:
        raise InputError(f"'{name}' is not YAML: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        explains = isinstance(error, yaml.YAMLError | ValueError)
        reason = getattr(error, "problem", None) or (str(error) if explains else "a value does not fit its tag")
        raise InputError(f"'{name}' is not YAML{line}: {' '.join(reason.split())}.") from error


def _check(root: yaml.Node) -> None:
    """Raises ValueError for nodes that would be too many once aliases and merged keys are followed."""
    sizes: dict[int, int] = {}  # nodes whose children are done -> characters and values under them
    open_nodes = {id(root)}
    path = [(root, iter(_below(root)))]
    while path:
        node, children = path[-1]
        child = next(children, None)
        if child is None:
            characters = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
            sizes[id(node)] = 1 + characters + sum(sizes[id(child_node)] for child_node in _below(node))
            if sizes[id(node)] > _EXPANDED:
                raise ValueError("its aliases stand for too much")
            open_nodes.discard(id(node))
            path.pop()
        elif id(child) in open_nodes:
            raise ValueError("an alias stands for something that holds it")
        elif id(child) not in sizes:
            open_nodes.add(id(child))
            path.append((child, iter(_below(child))))
            if len(path) > _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _below(node: yaml.Node) -> list[yaml.Node]:
    if node.tag == _TAG + "timestamp":
        node.tag = _TAG + "str"  # nothing here is a date: 2026-01-02 is a name
    if node.tag.removeprefix(_TAG) not in _KINDS:
        raise ValueError(f"the tag {node.tag} means nothing here")
    if isinstance(node, yaml.MappingNode):
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"the key '{twice[0]}' is there twice in one mapping")
        return [entry for pair in node.value for entry in pair]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
        raise ValueError(f"a number has more than {_LONGEST_NUMBER} characters")
    return []


def parse_json(text: str | bytes) -> Any:
    """Parses JSON, and raises nothing but ValueError whatever the text, also if it is no UTF-8 or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def without_surrogates(value: Any) -> Any:
    """Returns a JSON value with U+FFFD for each lone surrogate, which neither UTF-8 nor a tokenizer takes."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {key: without_surrogates(item) for key, item in value.items()}
    return value
