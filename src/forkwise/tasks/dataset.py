"""Problems with gold answers from a Hugging Face dataset or a local file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import IO, Any, Literal, get_args

from forkwise.errors import InputError, nearest
from forkwise.reading import without_surrogates
from forkwise.tasks.answers import MathVerifier, compare_exactly, extract_answer, find_answer, require_math_verify
from forkwise.tasks.base import Problem, Prompt, Split, Verdict
from forkwise.terminal import counted

PROMPT_COLUMNS = ("prompt", "problem", "question")
ANSWER_COLUMNS = ("answer", "ground_truth", "reward_model.ground_truth")
ID_COLUMNS = ("id", "problem_id", "unique_id")
_FORMATS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".csv.gz", ".parquet")
_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "valid": "validation",
    "test": "test",
}

Row = Mapping[str, Any]


class DatasetTask:
    """Problems of a dataset: a Hub id, a directory that `datasets` can load, or a JSONL, JSON, CSV or Parquet file.

    Splits: those of the dataset, where it names them. A dataset with `test` alone has only that; for any other, a
    missing `test` or `validation` is cut from `train` by the hash of the prompt (10 % each by default), so that a row
    stays where it is when rows are added or reordered. A file counts as `train`. A prompt that occurs twice is kept
    once, in `test` rather than `validation` rather than `train`: the splits are disjoint.

    Args:
        source: Hub id or path.
        config: configuration of a Hub dataset ("main" of openai/gsm8k).
        prompt_column: text or chat messages; `a.b` looks into a nested column. By default the first there of
            `prompt`, `problem`, `question`.
        answer_column: gold answer, or a solution that states it (`\\boxed{}`, `####`). By default the first there of
            `answer`, `ground_truth`, `reward_model.ground_truth`.
        verifier: `"math"` compares as `MathVerifier` does; `"exact"` compares text and integers only and needs no
            extra package. Without a stated answer ("answer: ...") the whole completion is the answer of `"exact"`.
        last_number: whether the last number of a completion is its answer where it states none (GSM8K's habit).
        test_fraction, validation_fraction: of the prompts, for what has to be cut. `test_fraction=1.0` evaluates on
            a whole file.

    Ids come from a column `id`, `problem_id` or `unique_id`, otherwise from the hash of the prompt. A column `cluster`
    says what problems share (topic, source, template); comparisons then generalise over clusters.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        config: str | None = None,
        prompt_column: str | None = None,
        answer_column: str | None = None,
        verifier: Literal["math", "exact"] = "math",
        last_number: bool = False,
        test_fraction: float = 0.1,
        validation_fraction: float = 0.1,
        math_verifier: MathVerifier | None = None,
    ) -> None:
        if verifier not in ("math", "exact"):
            raise InputError(f"There is no verifier '{verifier}': use 'math' or 'exact'.")
        if not (0 <= test_fraction <= 1 and 0 <= validation_fraction <= 1):
            raise InputError("test_fraction and validation_fraction must be between 0 and 1.")
        if verifier == "math":
            require_math_verify()  # now, and not in the middle of a training run
        self.name = self.source = str(source)
        self.config = config
        self.prompt_column, self.answer_column = prompt_column, answer_column
        self.last_number = last_number
        self.test_fraction, self.validation_fraction = test_fraction, validation_fraction
        self._verifier = None if verifier == "exact" else math_verifier or MathVerifier()
        self._splits: dict[Split, list[Problem]] | None = None

    def problems(self, split: Split, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        """Returns the first `n` problems (None: all) of a split in the order of `seed`; a larger `n` only appends.

        Raises:
            InputError: the source cannot be read, lacks a column or an answer, or has fewer problems than asked for.
        """
        if split not in get_args(Split):
            raise InputError(f"There is no split '{split}': use train, validation or test.")
        if self._splits is None:
            self._splits = self._read()
        problems = self._splits[split]
        if not problems:
            held = ", ".join(f"{len(listed)} in {name}" for name, listed in self._splits.items() if listed)
            raise InputError(f"{self.source} has no problems in its {split} split, but {held}.")
        if n is not None and not 0 <= n <= len(problems):
            raise InputError(f"{self.source} has {len(problems)} {split} problems; ask for at most that many, not {n}.")
        problems = list(problems)
        Random(seed).shuffle(problems)
        return problems[:n]

    def summary(self) -> str:
        """Tells how many problems each split has, and what was left out, in one sentence."""
        splits = self._splits = self._splits if self._splits is not None else self._read()
        sizes = ", ".join(f"{len(problems)} {name}" for name, problems in splits.items() if problems)
        left_out = f"; left out: {counted(self._duplicates, 'row')} with a prompt that was there before"
        return f"{self.source}: {sizes} problems{left_out if self._duplicates else ''}."

    def verify(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Returns one verdict per completion; see `MathVerifier` for what `Verdict.by` says."""
        golds = [gold_answer(problem) for problem in problems]
        if self._verifier is not None:
            return self._verifier.verify(golds, completions, last_number=self.last_number)
        return [verify_exactly(gold, text, self.last_number) for gold, text in zip(golds, completions, strict=True)]

    def _read(self) -> dict[Split, list[Problem]]:
        tables = dict(_tables(self.source, self.config))
        named: dict[Split, Iterable[Row]] = {}
        for name, rows in tables.items():
            if name in _SPLIT_NAMES:
                named.setdefault(_SPLIT_NAMES[name], rows)
        if not named:
            if len(tables) > 1:
                raise InputError(
                    f"{self.source} has the splits {', '.join(tables)}, none of which is train, validation or test."
                )
            named = {"train": next(iter(tables.values()))}
        splits: dict[Split, list[Problem]] = {"train": [], "validation": [], "test": []}
        known_ids: set[str] = set()
        self._duplicates = 0
        ids: dict[str, int] = {}
        only_test = set(named) == {"test"}
        order: tuple[Split, ...] = ("test", "validation", "train")
        for split in order:
            for number, row in enumerate(named.get(split, ()), start=1):
                prompt, answer, row_id = self._problem(row, number)
                digest = hashlib.sha256(json.dumps(prompt).encode()).hexdigest()
                if digest in known_ids:
                    self._duplicates += 1
                    continue
                known_ids.add(digest)
                identity = row_id if row_id is not None else digest[:16]
                if identity in ids:
                    # Files that were put together often restart their numbering; ids must tell problems apart.
                    identity = f"{identity}-{digest[:8]}"
                ids[identity] = number
                target = split
                if split == "train" and not only_test:
                    position = int(digest[:8], 16) / 2**32
                    test = 0.0 if "test" in named else self.test_fraction
                    validation = 0.0 if "validation" in named else self.validation_fraction
                    if position < test:
                        target = "test"
                    elif position < test + validation:
                        target = "validation"
                cluster = None if row.get("cluster") is None else str(row["cluster"])
                splits[target].append(Problem(id=identity, prompt=prompt, answer=answer, cluster=cluster))
        if not known_ids:
            raise InputError(f"{self.source} is empty: it needs rows with a prompt and an answer.")
        return splits

    def _problem(self, row: Row, number: int) -> tuple[Prompt, str, str | None]:
        prompt = _prompt(self._cell(row, self.prompt_column, PROMPT_COLUMNS, "prompt_column"))
        answer = self._cell(row, self.answer_column, ANSWER_COLUMNS, "answer_column")
        if isinstance(answer, list | tuple) and len(answer) == 1:
            answer = answer[0]
        if prompt is None or answer is None or isinstance(answer, list | dict) or str(answer).strip() == "":
            field = "prompt" if prompt is None else "answer"
            raise InputError(f"Row {number} of {self.source} has no usable {field}: remove it or name another column.")
        row_id = next((str(row[column]) for column in ID_COLUMNS if row.get(column) is not None), None)
        return prompt, str(answer), row_id

    def _cell(self, row: Row, column: str | None, candidates: Sequence[str], option: str) -> Any:
        for name in candidates if column is None else (column,):
            value: Any = row
            for part in [name] if name in row else name.split("."):
                value = value[part] if isinstance(value, Mapping) and part in value else _MISSING
            if value is not _MISSING:
                return value
        wanted = column or candidates[0]
        raise InputError(
            f"{self.source} has no column '{wanted}', only {', '.join(row)}; name the right one with {option}."
            + nearest(wanted, row)
        )


_MISSING = object()


def gold_answer(problem: Problem) -> str:
    """Returns the gold answer; raises InputError where the problem has none."""
    if problem.answer is None:
        raise InputError(f"Problem '{problem.id}' has no gold answer to compare with.")
    return problem.answer


def verify_exactly(gold: str, completion: str, last_number: bool = False) -> Verdict:
    """Returns the verdict by comparing text and numbers alone; a completion that states no answer is one as a whole."""
    gold = extract_answer(gold) or gold
    answer = (
        find_answer(completion, last_number=last_number).answer
        or completion.strip().encode("utf-8", "replace").decode()
    )
    if not answer:
        return Verdict(False, None, "no-answer")
    return compare_exactly(gold, answer) or Verdict(False, answer, "exact")


def _prompt(value: Any) -> Prompt | None:
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, list | tuple) and value:
        if not all(isinstance(message, Mapping) for message in value):
            return None
        messages = [dict(message) for message in value]
        if all(isinstance(message.get("content"), str) and "role" in message for message in messages):
            # One user message is what a chat template makes of plain text, so keep the plain text.
            return messages[0]["content"] if [m["role"] for m in messages] == ["user"] else messages
    return None


def _tables(source: str, config: str | None) -> Iterator[tuple[str, Iterable[Row]]]:
    """Yields `(split name, rows)`; a file is one table by the name of no split, `"all"`."""
    path = Path(source).expanduser()
    if path.is_file():
        yield "all", read_rows(path)
        return
    looks_like_path = source.endswith(_FORMATS) or source.startswith(("/", ".", "~")) or source.count("/") > 1
    if looks_like_path and not path.exists():
        names = os.listdir(path.parent) if path.parent.is_dir() else []
        raise InputError(f"There is no file {source}.{nearest(path.name, names)}")
    if importlib.util.find_spec("datasets") is None:
        raise InputError(f'Reading {source} needs the datasets library: pip install "forkwise[train]".')
    import datasets

    try:
        dataset = datasets.load_dataset(source, name=config)
    except Exception as error:  # dozens of kinds: no network, no such id, gated, wrong config, broken file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"Cannot load the dataset '{source}' ({reason}); check the id, the network and HF_HUB_OFFLINE."
        ) from error
    for name, table in dataset.items():
        yield str(name), _batched(table)


def _batched(table: Any) -> Iterator[Row]:
    # Row by row, the 1.8 million rows of DAPO-Math-17k take minutes.
    for batch in table.with_format("arrow").iter(4096):
        yield from batch.to_pylist()


def read_rows(path: Path) -> Iterator[Row]:
    """Returns the rows of a JSONL, JSON, CSV or Parquet file; InputError where it cannot be read."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(1024):
                    yield from batch.to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise InputError(f"{path} cannot be read as Parquet: {error}.") from error
        return
    if not name.endswith((".jsonl", ".json", ".csv")):
        raise InputError(f"{path} has no known format: use {', '.join(_FORMATS)}.")
    opener: Any = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="" if name.endswith(".csv") else None) as file:
            yield from _csv_rows(path, file) if name.endswith(".csv") else _json_rows(path, file)
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:  # also a file that was cut off
        raise InputError(f"{path} cannot be read: {error}.") from error


def _csv_rows(path: Path, file: IO[str]) -> Iterator[Row]:
    # Cells stay text: 042, 1/2 and 1e3 are answers, not numbers to be rewritten.
    reader = csv.DictReader(file)
    for row in reader:
        if None in row or None in row.values():
            more = "more" if None in row else "fewer"
            raise InputError(
                f"{path}, line {reader.line_num} has {more} cells than the header: put cells that hold commas into "
                "double quotes."
            )
        yield row


def _json_rows(path: Path, file: IO[str]) -> Iterator[Row]:
    if path.name.endswith(".json"):
        try:
            rows = json.load(file)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON: {error}.") from error
        numbered: Iterable[tuple[int, Any]] = enumerate(rows if isinstance(rows, list) else [rows], start=1)
    else:
        numbered = _parse_lines(path, file)
    for number, row in numbered:
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number} must be an object with a prompt and an answer.")
        yield without_surrogates(row)


def _parse_lines(path: Path, file: IO[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number} is not JSON: {error}.") from error
