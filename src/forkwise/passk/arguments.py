"""Parses the arguments of `forkwise passk` and `forkwise compare`: arms, and whole numbers such as K."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from forkwise.errors import InputError
from forkwise.passk.differences import CURVE
from forkwise.passk.loading import load_arm
from forkwise.passk.outcomes import Arm


def parse_numbers(text: str, option: str) -> list[int]:
    """Parses numbers such as `"1,8,64"`.

    Raises:
        InputError: the text is anything else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} takes whole numbers with commas, such as 1,8,64, not '{text}'.") from error


def parse_ks(text: str | None, arms: Sequence[Arm]) -> list[int] | None:
    """Parses `--k`: `all` is every K that all arms can answer, None stays None."""
    if text == "all":
        return list(range(1, min(arm.largest_k() for arm in arms) + 1))
    return None if text is None else parse_numbers(text, "--k")


def parse_primary(text: str | None) -> int | Literal["curve"] | None:
    """Parses `--primary`: one K, or `curve`."""
    if text is None or text == CURVE:
        return "curve" if text else None
    if not text.isdecimal():
        raise InputError(f"--primary takes one K, such as 16, or {CURVE}, not '{text}'.")
    return int(text)


def parse_shares(text: str | None) -> list[float]:
    """Parses `--look-shares`: shares such as `0.5,1`."""
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise InputError(f"--look-shares takes shares with commas, such as 0.5,1, not '{text}'.") from error


def parse_arm(text: str, *, texts: bool = False) -> Arm:
    """Loads the arm `[NAME=]PATH[,PATH...]`; several paths, or several runs in one, are its training runs."""
    name, location = ("", text) if Path(text).exists() else _named(text)
    paths = [location] if Path(location).exists() else location.split(",")
    return load_arm(paths, name=name or None, texts=texts)


def _named(text: str) -> tuple[str, str]:
    """Splits `NAME=LOCATION`; a location alone has the empty name.

    Raises:
        InputError: nothing stands before the equals sign.
    """
    name, equals, location = text.partition("=")
    if equals and not name.strip():
        raise InputError(f"'{text}' has an empty name: write NAME{text.lstrip()}, or leave the = out.")
    return (name, location) if equals else ("", text)


def parse_benchmarks(arguments: Sequence[str]) -> dict[str, list[Arm]]:
    """Loads arms with samples of several benchmarks, `NAME=BENCHMARK:TABLE[,TABLE...],BENCHMARK:TABLE...`.

    Returns:
        The arms by benchmark, in the order of the first argument; empty where no argument names a benchmark.

    Raises:
        InputError: an arm without a name or without benchmarks, while others have some.
    """
    tables = {text: _tables_by_benchmark(text.partition("=")[2]) for text in arguments if not Path(text).exists()}
    if not any(tables.values()):
        return {}
    by_benchmark: dict[str, list[Arm]] = {}
    for text in arguments:
        name, named = _named(text)[0], tables.get(text, {})
        if not named:
            raise InputError(
                f"'{text}' names no benchmarks while another arm does: write NAME=BENCHMARK:TABLE,BENCHMARK:TABLE, "
                "such as rl=aime24:samples/rl-aime24,math500:samples/rl-math500."
            )
        for benchmark, paths in named.items():
            by_benchmark.setdefault(benchmark, []).append(load_arm(paths, name=name))
    return by_benchmark


def _tables_by_benchmark(location: str) -> dict[str, list[str]]:
    """Splits `BENCHMARK:TABLE[,TABLE...],...`; a table without a name is of the benchmark before it."""
    by_benchmark: dict[str, list[str]] = {}
    benchmark = ""
    for part in [] if Path(location).exists() else location.split(","):
        name, colon, table = part.partition(":")
        if colon and name and table and not Path(part).exists():
            benchmark = name
        else:
            table = part
        by_benchmark.setdefault(benchmark, []).append(table)
    return {} if "" in by_benchmark else by_benchmark


def parse_runs(arguments: Sequence[str], *, texts: bool = False) -> list[Arm]:
    """Loads every run of every argument as an arm of its own."""
    runs = [(text, run) for text in arguments for run in parse_arm(text, texts=texts).split()]
    return _apart([run for _, run in runs], [text for text, _ in runs])


def parse_arms(arguments: Sequence[str], *, texts: bool = False) -> list[Arm]:
    """Loads each argument as an arm; of a single argument, each run is one.

    Raises:
        InputError: there is one run in all.
    """
    arms = [parse_arm(text, texts=texts) for text in arguments]
    if len(arms) > 1:
        return _apart(arms, arguments)
    if len(arms[0].runs) == 1:
        raise InputError("A comparison needs at least two arms: name two tables, or one that holds several runs.")
    return arms[0].split()


def _apart(arms: Sequence[Arm], arguments: Sequence[str]) -> list[Arm]:
    """Puts the file or folder name before the names of arms that have the same, or all of the path where need be."""
    names = [arm.name for arm in arms]
    for before in (lambda text: Path(text).stem, str):
        uses = Counter(names)
        names = [
            f"{before(text)}/{arm.name}" if uses[name] > 1 else name
            for name, arm, text in zip(names, arms, arguments, strict=True)
        ]
    return [replace(arm, name=name) for arm, name in zip(arms, names, strict=True)]
