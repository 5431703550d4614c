"""The base of all importers: a record's place in its file, the notes about it, and the reading of its values."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from forkwise.errors import InputError
from forkwise.samples.fields import ABSENT, WrongField, checked, optional
from forkwise.samples.importers.reader import Record
from forkwise.samples.store import SCHEMA
from forkwise.terminal import counted

Row = dict[str, Any]
"""A row of the samples table. Without `sample_id` it is numbered within its problem; without `answer`, it is extracted
from the completion."""


@dataclass(frozen=True)
class Options:
    """The options that the user gives beyond the files."""

    run: str | None = None
    """Name of the run; default: the file's name. A file of several runs puts it in front of their own names."""

    model: str | None = None
    """Name of the model; default: what the file says, else `unknown`."""

    threshold: float | None = None
    """An answer is correct from this score on. Needed where a file holds scores other than 0 and 1."""

    score: str | None = None
    """Which score decides, where a file holds several: a metric of lm-eval, a scorer of inspect_ai, a field of verl."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """For plain files: column of the samples table -> field of the file (dots reach into objects)."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise InputError(f"The threshold is {self.threshold}: give a number.")


def parse_columns(pairs: Sequence[str]) -> dict[str, str]:
    """Reads `Options.columns` from `COLUMN=FIELD` arguments."""
    columns: dict[str, str] = {}
    for pair in pairs:
        column, equals, name = pair.partition("=")
        if not (column and equals and name):
            raise InputError(f"--map is given '{pair}': write COLUMN=FIELD, such as completion=response.")
        columns[column] = name
    return columns


class Importer(Protocol):
    """One file format. Modules of this package implement it."""

    USES: frozenset[str]
    """Fields of a record that find their way into the table, or decide how."""

    def matches(self, record: Record) -> bool:
        """Tells whether a record has this format's shape."""

    def rows(self, record: Record, source: Source) -> Iterator[Row]:
        """Yields the samples in a record. May raise `Undecided`; then there is a survey of all records first."""


class Undecided(Exception):
    """The meaning of a column shows only over the whole file: the importer's `survey` must see it first."""


@dataclass
class Documents:
    """Which documents of a file share a problem id, so that they can be told apart.

    A document is known by what the file says of it besides the text that gave the id (gold answer, options, a hash),
    and by its number there. Alone in its file it keeps the plain id, so that runs of other tools pair with it; all
    documents that share one get what tells them apart behind it, whatever their order.
    """

    _first: dict[str, tuple[str, str]] = field(default_factory=dict)
    _shared: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    _settled: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def name(self, problem_id: str, content: Any, number: Any) -> str:
        """Returns the id of a document, as far as the documents are known."""
        known = {} if content is None else {"content": content}
        digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:8]
        document = (digest if known else "", "" if number is None else str(number))
        first = self._first.setdefault(problem_id, document)
        if document != first:
            self._shared.setdefault(problem_id, {first}).add(document)
        settled = self._settled.get(problem_id)
        if settled is None:
            return problem_id
        same = [other for other in settled if other[0] == document[0]]
        apart = [document[0]] if len(same) < len(settled) else []
        return "-".join([problem_id, *(part for part in (*apart, *([document[1]] if len(same) > 1 else [])) if part)])

    def settle(self) -> bool:
        """Tells apart the documents that share an id, from now on; whether that is new."""
        new = self.open()
        self._settled = {problem_id: set(documents) for problem_id, documents in self._shared.items()}
        return new

    def open(self) -> bool:
        """Tells whether `settle` would change ids."""
        return self._shared.keys() != self._settled.keys()

    def shared(self) -> tuple[int, int]:
        """Tells how many documents share an id with others, and how many ids those are."""
        return sum(map(len, self._settled.values())), len(self._settled)

    def contents(self) -> dict[str, str]:
        """Maps each problem id of one document alone to the digest of what the file says of that document."""
        return {
            problem_id: digest
            for problem_id, (digest, _) in self._first.items()
            if digest and problem_id not in self._shared
        }


@dataclass
class Source:
    """A file that is being imported, with the notes that are printed when it is done."""

    path: Path
    options: Options
    place: str = ""
    """Where the present record stands, such as `line 12`."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Reason -> how many samples (or what the reason names) were left out."""

    notes: Counter[str] = field(default_factory=Counter)
    """Remark -> how many samples it is about."""

    scores: Counter[float] = field(default_factory=Counter)
    """Score -> samples; the first thousand different ones."""

    names_runs: bool = False
    """Whether the file itself says which run a sample belongs to, so that a run may be spread over files."""

    memo: dict[str, str] = field(default_factory=dict)
    """Facts that an importer remembers from record to record."""

    documents: Documents = field(default_factory=Documents)

    surveyed: bool = False
    """Whether the importer's `survey` saw the file."""

    readings: dict[str, str] = field(default_factory=dict)
    """Decisions of the survey, by column."""

    remarks: list[str] = field(default_factory=list)
    """Sentences about the file as a whole."""

    used: set[str] = field(default_factory=set)
    """Fields that were used besides the format's usual ones."""

    def restart(self) -> None:
        """Forgets the counts; the decisions of a survey and the documents stay."""
        self.place, self.names_runs = "", False
        for counter in (self.dropped, self.notes, self.scores, self.memo):
            counter.clear()

    def problem(self, problem_id: str, content: Any = None, number: Any = None) -> str:
        """Returns `problem_id`, or an id that tells apart the documents of this file which share it.

        Args:
            problem_id: the digest of the text that is asked, or the file's own id.
            content: what else the file says of the document: gold answer, options, a hash. None: nothing.
            number: the document's number in the file.
        """
        return self.documents.name(problem_id, content, number)

    @property
    def stem(self) -> str:
        """Returns the file's name without its endings."""
        name = self.path.name
        for ending in (".gz", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".eval"):
            name = name.removesuffix(ending)
        return name

    def error(self, fault: str) -> InputError:
        """Returns an InputError that begins with the file and the place in it."""
        return InputError(f"'{self.path}', {self.place}: {fault}" if self.place else f"'{self.path}': {fault}")

    def run(self, named: str | None = None) -> str:
        """Returns the run's name: the user's, else the file's own, else the file's name."""
        if named is None:
            return self.options.run or self.stem
        return f"{self.options.run}/{named}" if self.options.run else named

    def verdict(self, score: Any) -> bool | None:
        """Returns what a score says: None for no score, NaN included; a fractional one needs the threshold."""
        if score is None or score == "" or isinstance(score, bool):
            return score if isinstance(score, bool) else None
        try:
            number = float({"true": 1, "yes": 1, "false": 0, "no": 0}.get(str(score).strip().lower(), score))
        except (TypeError, ValueError) as error:
            raise self.error(f"the score is {score!r:.40}: give true or false, 0 or 1, or a number.") from error
        if math.isnan(number):
            self.notes["with NaN for a score, taken as unscored"] += 1
            return None
        if number in self.scores or len(self.scores) < 1000:
            self.scores[number] += 1
        return number >= (1.0 if self.options.threshold is None else self.options.threshold)

    def check_scores(self) -> None:
        """Refuses fractional scores without a threshold."""
        if self.options.threshold is None and not self.scores.keys() <= {0.0, 1.0}:
            shown = [f"{score:.4g} ({counted(count, 'time')})" for score, count in self.scores.most_common(5)]
            more = f" and {len(self.scores) - 5} other values" if len(self.scores) > 5 else ""
            raise InputError(
                f"'{self.path}' holds scores other than 0 and 1, {', '.join(shown)}{more}: say from which score on an "
                "answer is correct, for example --threshold 1.0 for full marks only."
            )


def gold_text(gold: Any) -> str | None:
    """Returns a gold answer as text: a string or number, or the only entry of a list; None for anything else."""
    if isinstance(gold, list | tuple) and len(gold) == 1:
        gold = gold[0]
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        return None
    return str(gold) if str(gold).strip() else None


def gold_of(value: Any, source: Source) -> str | None:
    """Returns the text of a gold answer, or None, with a note where something else is left out."""
    text = gold_text(value)
    if text is None and value not in (None, "", []):
        source.notes["whose gold answer is neither text nor a number, kept without it"] += 1
    return text


def sampling(record: Mapping[str, Any], where: str = "", **names: str) -> Row | None:
    """Reads the `sampling` column from fields of `record` (`names`: other names of them); None if none is there."""
    values: Row = {key: optional(record, names.get(key, key), float, where) for key in ("temperature", "top_p")}
    values["max_tokens"] = optional(record, names.get("max_tokens", "max_tokens"), int, where)
    return values if any(v is not None for v in values.values()) else None


def scored(entry: Mapping[str, Any], where: str, token: str = "token", logprob: str = "logprob") -> tuple[Any, Any]:
    """Reads a token and its log-prob, checked further by `token_columns`; null is a value, a missing field is none."""
    for name, wanted in ((token, "text"), (logprob, "a number")):
        if name not in entry:
            raise WrongField(f"{where}{name}", wanted, ABSENT)
    return entry[token], entry[logprob]


def token_columns(
    source: Source,
    tokens: Sequence[Any],
    logprobs: Sequence[Any],
    top: Sequence[Sequence[tuple[Any, Any]]] | None = None,
    token_ids: Sequence[int] | None = None,
) -> Row:
    """Makes the token-level columns: log-probs in nats, `top` with each position's candidates; null is unknown.

    Raises:
        InputError: raw logits where log-probs should be (a value above 0, or candidates with a mass above 1), or what
            is neither a token nor a number.
    """
    if len(tokens) != len(logprobs) or (top is not None and len(top) != len(tokens)):
        sizes = f"{len(tokens)} tokens, {len(logprobs)} log-probs"
        sizes += "" if top is None else f" and {len(top)} lists of candidates"
        raise source.error(f"there are {sizes}: the file is inconsistent; remove the record.")
    values: list[float | None] = []
    candidates: list[list[tuple[str, float | None]]] = []
    for i, token in enumerate(tokens):
        value = _logprob(token, logprobs[i], source)
        values.append(value)
        candidates.append(
            [(text, _logprob(text, logprob, source)) for text, logprob in (top[i] if top is not None else ())]
        )
        known = [logprob for _, logprob in candidates[i] if logprob is not None]
        # Rounded log-probs go up to some 1e-6 above; raw logits are off by units.
        highest = max([*known, -math.inf if value is None else value])
        if highest > 1e-3:
            raise source.error(f"the log-prob at token {token!r} is {highest:.4g}, above 0: {_RAW_LOGITS}")
        # Some servers write the sampled token into its own list again.
        mass = sum(math.exp(logprob) for _, logprob in set(candidates[i]) if logprob is not None)
        if mass > 1.01:
            raise source.error(f"the candidates at token {token!r} have a probability of {mass:.3g}: {_RAW_LOGITS}")
    unknown = sum(value is None for value in values)
    if unknown == len(values) and not any(value is not None for ranked in candidates for _, value in ranked):
        source.notes["whose log-probs are all null, kept without them"] += bool(values)
        return {}
    if unknown or any(value is None for ranked in candidates for _, value in ranked):
        source.notes["with a null among the log-probs, which tells nothing there"] += 1
    columns: Row = {"tokens": list(tokens), "logprobs": values}
    if any(candidates):
        columns["top_logprobs"] = [[{"token": t, "logprob": v} for t, v in ranked] for ranked in candidates]
    if token_ids is not None:
        columns["token_ids"] = list(token_ids)
    return columns


def _logprob(token: Any, value: Any, source: Source) -> float | None:
    """Returns a log-prob of a token; None where it is null or NaN."""
    check_token(token, source)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise source.error(f"the log-prob of token {token!r:.40} is {value!r:.40}: it must be a number.")
    return float(max(-9999, min(value, 9999)))


_KINDS: dict[str, type] = {
    field.name: kind
    for kind, type_ in ((str, pa.string()), (int, pa.int64()), (float, pa.float64()))
    for field in SCHEMA
    if field.type == type_
}


def check_types(row: Row, source: Source) -> None:
    """Refuses a value of another type than its column's; an answer may be a number."""
    if isinstance(row.get("answer"), int | float):
        row["answer"] = str(row["answer"])
    for column, kind in _KINDS.items():
        if row.get(column) is not None:
            try:
                row[column] = checked(row[column], kind, column)
            except WrongField as error:
                raise source.error(f"the {column} is {row[column]!r:.40}: it must be {error.wanted}.") from error


def check_token(token: Any, source: Source) -> None:
    """Refuses a token that is no text."""
    if not isinstance(token, str):
        raise source.error(f"a token is {token!r:.40}: it must be text.")


_RAW_LOGITS = "these are raw logits; apply log_softmax before you write them."
