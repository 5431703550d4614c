"""What the importers share: the place a record comes from, what is said about it, and how its values are read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from forkwise.errors import InputError
from forkwise.samples.importers.reader import Record

Row = dict[str, Any]
"""A row of the samples table. Without `sample_id` it is numbered within its problem; without `answer`, it is extracted
from the completion."""


@dataclass(frozen=True)
class Options:
    """What the user says beyond the files."""

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
    """`Options.columns` from `COLUMN=FIELD` arguments."""
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
        """Whether a record has this format's shape."""

    def rows(self, record: Record, source: Source) -> Iterator[Row]:
        """The samples in a record."""


@dataclass
class Source:
    """A file being imported, and what is to be said about it when it is done."""

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
    """What an importer remembers from record to record."""

    @property
    def stem(self) -> str:
        """The file's name without its endings."""
        name = self.path.name
        for ending in (".gz", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".eval"):
            name = name.removesuffix(ending)
        return name

    def error(self, what: str) -> InputError:
        """An InputError that begins with the file and the place in it."""
        return InputError(f"'{self.path}', {self.place}: {what}" if self.place else f"'{self.path}': {what}")

    def run(self, own: str | None = None) -> str:
        """The run's name: the user's, else the file's own, else the file's name."""
        if own is None:
            return self.options.run or self.stem
        return f"{self.options.run}/{own}" if self.options.run else own

    def verdict(self, score: Any) -> bool | None:
        """What a score says: None for no score, NaN included; a fractional one needs the threshold."""
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
            seen = [f"{score:.4g} ({counted(count, 'time')})" for score, count in self.scores.most_common(5)]
            more = f" and {len(self.scores) - 5} other values" if len(self.scores) > 5 else ""
            raise InputError(
                f"'{self.path}' holds scores other than 0 and 1, {', '.join(seen)}{more}: say from which score on an "
                "answer is correct, for example --threshold 1.0 for full marks only."
            )


def counted(count: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def chat_text(messages: Any) -> str | None:
    """A prompt as one text: itself, the only message's content, or all messages with their roles."""
    if isinstance(messages, str) or not isinstance(messages, list):
        return messages if isinstance(messages, str) else None
    texts = [(str(m.get("role", "")), content_text(m.get("content"))) for m in messages if isinstance(m, dict)]
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{role}: {text or ''}" for role, text in texts) or None


def content_text(content: Any) -> str | None:
    """The text of a message: a string, or a list of parts of which text and reasoning count."""
    if isinstance(content, str) or not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts = [part for part in content if isinstance(part, dict)]
    reasoning = "".join(str(part["reasoning"]) for part in parts if part.get("type") == "reasoning")
    text = "".join(str(part["text"]) for part in parts if isinstance(part.get("text"), str))
    return with_reasoning(reasoning, text)


def with_reasoning(reasoning: Any, text: str | None) -> str | None:
    """The completion as a reasoning model wrote it, where a server split it in two."""
    return f"<think>{reasoning}</think>{text or ''}" if isinstance(reasoning, str) and reasoning else text


def finish_reason(reason: Any) -> str | None:
    """`stop` or `length` under whatever name; other reasons in lower case as they are."""
    if not isinstance(reason, str):
        return None
    known = {
        "max_tokens": "length",
        "model_length": "length",
        "end_turn": "stop",
        "eos": "stop",
        "stop_sequence": "stop",
    }
    return known.get(reason.lower(), reason.lower())


def sampling(record: Mapping[str, Any], **names: str) -> Row | None:
    """The `sampling` column from fields of `record`, `names` where they are called otherwise; None if none is there."""
    values = {key: record.get(names.get(key, key)) for key in ("temperature", "top_p", "max_tokens")}
    values = {key: v if isinstance(v, (int, float)) and not isinstance(v, bool) else None for key, v in values.items()}
    return values if any(v is not None for v in values.values()) else None


def token_columns(
    source: Source,
    tokens: Sequence[str],
    logprobs: Sequence[float | None],
    top: Sequence[Sequence[tuple[str, float]]] | None = None,
    token_ids: Sequence[int] | None = None,
) -> Row:
    """The token-level columns: log-probs in nats, `top` the candidates of each position with theirs.

    Raises:
        InputError: raw logits where log-probs should be (a value above 0, or candidates with a mass above 1).
    """
    if len(tokens) != len(logprobs) or (top is not None and len(top) != len(tokens)):
        raise source.error(f"there are {len(tokens)} tokens but {len(logprobs)} log-probs: the file is inconsistent.")
    for i, token in enumerate(tokens):
        candidates = [value for _, value in top[i]] if top is not None else []
        own = logprobs[i]
        # Rounded log-probs go up to some 1e-6 above; raw logits are off by units.
        highest = max([*candidates, -math.inf if own is None else own], default=-math.inf)
        if highest > 1e-3:
            raise source.error(f"the log-prob at token {token!r} is {highest:.4g}, above 0: {_RAW_LOGITS}")
        mass = sum(math.exp(value) for value in candidates)
        if mass > 1.01:
            raise source.error(f"the candidates at token {token!r} have a probability of {mass:.3g}: {_RAW_LOGITS}")
    columns: Row = {"tokens": list(tokens), "logprobs": list(logprobs)}
    if top is not None and any(top):
        columns["top_logprobs"] = [[{"token": t, "logprob": v} for t, v in candidates] for candidates in top]
    if token_ids is not None:
        columns["token_ids"] = list(token_ids)
    return columns


_RAW_LOGITS = "these are raw logits; apply log_softmax before you write them."
