"""A bank: the groups of completions that one policy drew, with the true advantages of some of their tokens.

It is made from the folder of `forkwise forks`: the samples that its states are from are the groups, and the forced
tokens of its states have true advantages, Q - V. A bank is kept in one Parquet file, a row per completion; numbers of
tokens are rounded there, and so they are in banks that come from a folder: both give the same results.

Suffixes: S completions, N their tokens, K states, Q problems.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forkwise.errors import InputError
from forkwise.explore.contrast import BoolArray, FloatArray, IntArray
from forkwise.folders import write_bytes

SCHEMA = 1
"""Version of a bank's file."""
_KEY = b"forkwise.credit"
_UNITS = {"entropy": 1e-3, "logprob": 1e-3, "sum_p2": 1e-4, "sum_p2_log": 1e-4}
"""What numbers of tokens are rounded to."""
_LARGEST = 32_767  # of the 16-bit integers that hold them
_OF_STATES = ("chance", "advantage", "error", "half_a", "half_b")

SHIPPED = Path(__file__).parent / "banks"
"""The banks of the embedded models that the package holds."""


@dataclass(frozen=True)
class Groups:
    """Completions, those of a problem side by side, and their tokens in the same order.

    Attributes:
        problem_S: index of the problem, from 0, never falling.
        cut_S: whether the completion reached the limit of tokens.
        entropy_N, logprob_N, sum_p2_N, sum_p2_log_N: of the policy that drew them, in nats where they have a unit, as
            `forkwise.core.Extras` defines them.
    """

    problems: list[str]
    problem_S: IntArray
    sample_S: IntArray
    correct_S: BoolArray
    cut_S: BoolArray
    length_S: IntArray
    ids_N: IntArray
    entropy_N: FloatArray
    logprob_N: FloatArray
    sum_p2_N: FloatArray
    sum_p2_log_N: FloatArray

    @property
    def problem_N(self) -> IntArray:
        """Returns the index of each token's problem."""
        return np.repeat(self.problem_S, self.length_S)

    @property
    def score_N(self) -> FloatArray:
        """Computes the squared length of each token's score in the logits, `1 - 2 p + sum of p^2`."""
        return np.maximum(1 - 2 * np.exp(self.logprob_N) + self.sum_p2_N, 0.0)

    def with_contrast(self) -> int:
        """Counts the groups in which some completions are right and some wrong."""
        right_Q = np.bincount(self.problem_S, weights=self.correct_S, minlength=len(self.problems))
        size_Q = np.bincount(self.problem_S, minlength=len(self.problems))
        return int(((right_Q > 0) & (right_Q < size_Q)).sum())

    def of(self, problems: IntArray) -> tuple[Groups, IntArray]:
        """Returns the groups of these problems, and the indices of their tokens."""
        kept_S = np.isin(self.problem_S, problems)
        kept_N = np.flatnonzero(np.repeat(kept_S, self.length_S))
        kept = Groups(
            problems=[self.problems[q] for q in problems],
            problem_S=np.searchsorted(problems, self.problem_S[kept_S]),
            sample_S=self.sample_S[kept_S],
            correct_S=self.correct_S[kept_S],
            cut_S=self.cut_S[kept_S],
            length_S=self.length_S[kept_S],
            ids_N=self.ids_N[kept_N],
            entropy_N=self.entropy_N[kept_N],
            logprob_N=self.logprob_N[kept_N],
            sum_p2_N=self.sum_p2_N[kept_N],
            sum_p2_log_N=self.sum_p2_log_N[kept_N],
        )
        return kept, kept_N


@dataclass(frozen=True)
class Bank:
    """Groups, and states: tokens of theirs with a true advantage.

    Attributes:
        about: what it was made from, and how: plain values by name.
        at_K: which token of the groups.
        chance_K: with which the token was drawn from all.
        advantage_K, error_K: Q - V, an estimate without bias, and its standard error.
        half_K2: two estimates from halves of the continuations, whose errors have nothing to do with each other.
    """

    name: str
    about: dict[str, Any]
    groups: Groups
    at_K: IntArray
    chance_K: FloatArray
    advantage_K: FloatArray
    error_K: FloatArray
    half_K2: FloatArray

    @property
    def problem_K(self) -> IntArray:
        """Returns the index of each state's problem."""
        return self.groups.problem_N[self.at_K]

    def of(self, problems: IntArray) -> Bank:
        """Returns the bank of these problems alone."""
        groups, tokens = self.groups.of(problems)
        kept_K = np.isin(self.at_K, tokens)
        return replace(
            self,
            groups=groups,
            at_K=np.searchsorted(tokens, self.at_K[kept_K]),
            chance_K=self.chance_K[kept_K],
            advantage_K=self.advantage_K[kept_K],
            error_K=self.error_K[kept_K],
            half_K2=self.half_K2[kept_K],
        )


def half_of(problems: int, half: str) -> IntArray:
    """Returns the problems of the first half, which choices are made on, of the second, which tests them, or all."""
    middle = (problems + 1) // 2
    return {"all": np.arange(problems), "first": np.arange(middle), "second": np.arange(middle, problems)}[half]


def rounded(name: str, values: FloatArray) -> FloatArray:
    """Rounds numbers of tokens as a bank's file does."""
    unit = _UNITS[name]
    return np.clip(np.rint(values / unit), -_LARGEST, _LARGEST) * unit


def write_bank(path: Path, bank: Bank) -> None:
    """Writes the bank to one Parquet file, whole or not at all; it may replace a bank, and no other file.

    Raises:
        InputError: the file is there and no bank, or it cannot be written.
    """
    if path.is_file() and not _is_bank(path):
        raise InputError(f"'{path}' is there, and is no bank of true advantages: give another file to --pack.")
    groups = bank.groups
    ends = np.cumsum(groups.length_S)[:-1]
    columns: dict[str, Any] = {
        "problem_id": pa.array([groups.problems[q] for q in groups.problem_S]).dictionary_encode(),
        "sample_id": pa.array(groups.sample_S, pa.int32()),
        "correct": pa.array(groups.correct_S),
        "cut": pa.array(groups.cut_S),
        "token_ids": pa.array(np.split(groups.ids_N.astype(np.uint32), ends)),
    }
    for name, unit in _UNITS.items():
        whole = np.rint(getattr(groups, f"{name}_N") / unit).astype(np.int16)
        columns[name] = pa.array(np.split(whole, ends))
    of_state = np.repeat(np.arange(groups.length_S.size), groups.length_S)[bank.at_K]
    cuts = np.searchsorted(of_state, np.arange(1, groups.length_S.size))
    place_N = np.arange(groups.ids_N.size) - np.repeat(np.cumsum(groups.length_S) - groups.length_S, groups.length_S)
    columns["state_position"] = pa.array(np.split(place_N[bank.at_K].astype(np.int32), cuts))
    for name, values in zip(_OF_STATES, _of_states(bank), strict=True):
        columns[f"state_{name}"] = pa.array(np.split(values.astype(np.float32), cuts))
    about = json.dumps({"schema": SCHEMA, "name": bank.name, "about": bank.about})
    table = pa.table(columns).replace_schema_metadata({_KEY: about.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=19)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def _is_bank(path: Path) -> bool:
    try:
        return _KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _of_states(bank: Bank) -> list[FloatArray]:
    return [bank.chance_K, bank.advantage_K, bank.error_K, bank.half_K2[:, 0], bank.half_K2[:, 1]]


def read_bank(path: Path) -> Bank:
    """Reads the file that `write_bank` wrote.

    Raises:
        InputError: it is no bank, or one of another version.
    """
    try:
        table = pq.read_table(path)
        if _KEY not in (table.schema.metadata or {}):
            raise ValueError("a Parquet file of something else")
        head = json.loads(table.schema.metadata[_KEY])
        if head["schema"] != SCHEMA:
            raise InputError(f"The bank '{path}' has schema {head['schema']}, not {SCHEMA}: make it again.")
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        flat = {name: column.flatten().to_numpy() for name, column in columns.items() if pa.types.is_list(column.type)}
        problem_ids = table.column("problem_id").to_pylist()
        length_S = np.diff(columns["token_ids"].offsets.to_numpy())
        states_S = np.diff(columns["state_position"].offsets.to_numpy())
        if not ((flat["state_position"] >= 0) & (flat["state_position"] < np.repeat(length_S, states_S))).all():
            raise ValueError("a state stands beyond its completion")
    except InputError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"'{path}' is no bank of true advantages ({error}): give the folder of forkwise forks, or a file that "
            "forkwise credit --pack wrote."
        ) from error
    problems = list(dict.fromkeys(problem_ids))
    index = {problem: q for q, problem in enumerate(problems)}
    starts = np.cumsum(length_S) - length_S
    groups = Groups(
        problems,
        np.array([index[p] for p in problem_ids], dtype=np.int64),
        columns["sample_id"].to_numpy().astype(np.int64),
        columns["correct"].to_numpy(zero_copy_only=False),
        columns["cut"].to_numpy(zero_copy_only=False),
        length_S.astype(np.int64),
        flat["token_ids"].astype(np.int64),
        *(flat[name].astype(np.float64) * unit for name, unit in _UNITS.items()),
    )
    of_state = {name: flat[f"state_{name}"].astype(np.float64) for name in _OF_STATES}
    return Bank(
        name=head["name"],
        about=head["about"],
        groups=groups,
        at_K=np.repeat(starts, states_S) + flat["state_position"],
        chance_K=of_state["chance"],
        advantage_K=of_state["advantage"],
        error_K=of_state["error"],
        half_K2=np.stack([of_state["half_a"], of_state["half_b"]], axis=1),
    )
