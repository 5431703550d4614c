"""What comes before states are drawn and continued: samples, verifier and model are loaded, and must fit each other."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from forkwise.embedded import model_path
from forkwise.errors import InputError
from forkwise.explore.draws import refuse_other_draws, with_their_ends
from forkwise.explore.lexicon import Lexicon, ReflectivePatterns, load_lexicon, load_reflective
from forkwise.explore.sentences import words_of
from forkwise.explore.teacher import MANIFEST, scorer_of, write_entropies
from forkwise.explore.tokenisation import prompt_ids
from forkwise.folders import only_process
from forkwise.folders.results import Input, inputs_of
from forkwise.folders.settings import same_settings
from forkwise.forks.continuing import Continuer
from forkwise.forks.cost import Cost
from forkwise.forks.frame import Frame, Pool, load_frame, load_pool
from forkwise.forks.options import FEWEST, ForksOptions
from forkwise.forks.serving import (
    PLAIN,
    Connection,
    ServerContinuer,
    changing_draws,
    compare,
    not_continued,
    write_tokens,
)
from forkwise.forks.stored import (
    FOLDER,
    TOKENS,
    Continued,
    Continues,
    State,
    continue_states,
    count_stored,
    refuse_random,
)
from forkwise.loading import load_tokenizer
from forkwise.passk.intervals import check_level
from forkwise.progress import Meter
from forkwise.samples import read_samples
from forkwise.samples.direct import OpenTable, source_files
from forkwise.sampling.forward import check_length
from forkwise.sampling.generate import end_tokens
from forkwise.sampling.manifest import MANIFEST as SAMPLING
from forkwise.sampling.manifest import read_manifest
from forkwise.sampling.options import JudgeOptions
from forkwise.sampling.verify import Judge, find_judge
from forkwise.tasks import Problem

_SETTINGS = "continuations.json"
_OF_ANALYSIS = ("level", "permutations", "further", "bisect", "token_budget", "workers", "timeout", "memory_mb")
"""Settings that may differ in a folder that is continued; the others decide what is drawn."""
_ELSEWHERE = 0.05  # nats: so far apart, on the average, log-probs are of another model


@dataclass(frozen=True)
class Engine:
    """The model that continues states, on this machine or behind a server."""

    tokenizer: Any
    prompts: dict[str, list[int]]
    """Token ids of each problem's prompt."""
    log_prob_difference: float | None
    """Mean absolute difference of stored log-probs from the model's, nats; None where none can be compared."""
    continuer: Callable[[int, Callable[[str], None]], Continues]
    """Makes what draws so many continuations of a state; told how to print a line."""


@dataclass(frozen=True)
class Prepared:
    """Samples, verifier and model, which fit each other."""

    options: ForksOptions
    settings: dict[str, Any]
    inputs: list[Input]
    lexicon: Lexicon
    reflective: ReflectivePatterns
    breaks: list[str]
    pool: Pool
    frame: Frame
    judge: Judge
    golds: Mapping[str, Any]
    engine: Engine

    @property
    def folder(self) -> Path:
        """Returns the folder in which continuations are kept."""
        return self.options.out / FOLDER

    def state(self, trace: int, at: int, index: int, *, force: bool) -> State:
        """Makes the state before the token `at` of a trace; `force` forces that token and the likeliest."""
        sample, ids = self.frame.traces[trace], self.frame.ids[trace]
        return State(
            index=index,
            name=f"{sample.problem_id}/{sample.sample_id}/{at}",
            prompt=self.engine.prompts[sample.problem_id],
            prefix=ids[:at],
            token=ids[at] if force else None,
            problem=_problem(self.judge, self.golds, sample.problem_id),
        )


def prepare(table: OpenTable, options: ForksOptions, judging: JudgeOptions) -> Prepared:
    """Loads and checks everything.

    Raises:
        InputError: something given cannot be used.
    """
    _check(options)
    pool = load_pool(table.path, options)
    judge = find_judge(table.path, judging)
    golds = _golds(table.path, judge)
    _check_judge(pool, judge, golds)
    lexicon, reflective = load_lexicon(options.lexicon), load_reflective(options.reflective)
    tokens = options.out / TOKENS
    load = _local if options.server is None else _served
    engine = load(table, tokens, options, pool, judge)
    breaks = words_of(options.breaks)
    return Prepared(
        options=options,
        settings=_settings(options, judging),
        inputs=inputs_of(source_files(table.given)),
        lexicon=lexicon,
        reflective=reflective,
        breaks=breaks,
        pool=pool,
        frame=load_frame(tokens, pool, breaks, lexicon, reflective, len(engine.tokenizer)),
        judge=judge,
        golds=golds,
        engine=engine,
    )


def continue_all(
    ready: Prepared, states: Sequence[State], cost: Cost, announce: Callable[[Cost], None]
) -> tuple[list[Continued], Cost]:
    """Continues the states that the folder lacks; returns all, and the cost with its time.

    Args:
        announce: told the cost before the first continuation.

    Raises:
        InputError: the folder holds others, or the engine cannot go on. What was written stays.
    """
    options = ready.options
    recorded = {
        **{name: value for name, value in ready.settings.items() if name not in _OF_ANALYSIS},
        "table": _digest(ready.inputs),
        "lexicon": ready.lexicon.name,
        "reflective": ready.reflective.name,
    }
    with only_process(options.out):
        same_settings(
            ready.folder / _SETTINGS,
            recorded,
            content="continuations",
            remedy="give another --out, or delete that folder",
        )
        stored, continuer = count_stored(ready.folder, len(states)), None
        if stored < len(states):
            with Meter(phase="timing one state") as meter:
                continuer = ready.engine.continuer(options.continuations, meter.say)
                # One from the middle; its continuations are drawn again later.
                middle = sorted(states[stored:], key=lambda state: len(state.prefix))[(len(states) - stored) // 2]
                start = time.monotonic()
                continuer.draw(middle)
                later = cost.again * cost.further / options.continuations
                cost = replace(cost, seconds=(time.monotonic() - start) * (len(states) - stored + later))
        announce(cost)
        with Meter(len(states), stored, phase="continuing", unit="states") as meter:
            return continue_states(ready.folder, states, continuer, meter), cost


def continue_later(ready: Prepared, states: Sequence[State], stage: str, continuations: int) -> list[Continued]:
    """Continues the states of a later stage, which what the first one showed has chosen.

    Args:
        stage: names its folder, and its seeds, which are not those of the first stage.
    """
    folder = ready.folder / stage
    named = [replace(state, name=f"{state.name}/{stage}") for state in states]
    stored, continuer = count_stored(folder, len(named)), None
    meter = Meter(len(named), stored, phase=f"continuing, {stage}", unit="states")
    with only_process(ready.options.out), meter:
        if stored < len(named):
            continuer = ready.engine.continuer(continuations, meter.say)
        return continue_states(folder, named, continuer, meter)


def _local(table: OpenTable, tokens: Path, options: ForksOptions, pool: Pool, judge: Judge) -> Engine:
    """Loads the model with transformers, and computes the entropies of the samples."""
    if further := changing_draws(_keys_of_requests(table.path) or {}):
        raise InputError(
            f"The samples were drawn by a server with {_as_extra(further)}, which transformers does not do: continue "
            "through that server, with --server."
        )
    scorer = scorer_of(options.model, options)
    write_entropies(table.path, tokens, scorer, name=options.model, temperature=pool.sampling.temperature)
    difference = _check_policy(pool, tokens, options.model)
    if pool.sampling.top_p == 1:
        _check_draws(table.path, tokens, end_tokens(scorer.model, scorer.tokenizer), options.model)
    prompts = {row["problem_id"]: prompt_ids(scorer.tokenizer, row["prompt"]) for row in pool.rows}
    longest = max(map(len, prompts.values())) + pool.sampling.max_tokens - 1
    check_length(scorer.model, longest, "The longest prompt, with as many tokens as the samples' --max-tokens allows,")

    def continuer(number: int, say: Callable[[str], None]) -> Continues:
        return Continuer(scorer.model, scorer.tokenizer, pool.sampling, number, options.seed, judge, say)

    return Engine(scorer.tokenizer, prompts, difference, continuer)


def _served(table: OpenTable, tokens: Path, options: ForksOptions, pool: Pool, judge: Judge) -> Engine:
    """Proves that the server continues from tokens, and takes entropies, or bounds of them, from the table."""
    name = model_path(options.tokenizer or options.model)
    tokenizer = load_tokenizer(name, trust_remote_code=options.trust_remote_code)
    with only_process(tokens):
        recorded = {"samples": _digest(inputs_of(source_files(table.given))), "server": True, "tokenizer": name}
        same_settings(tokens / MANIFEST, recorded, content="tokens", remedy="give another --out, or delete that folder")
        write_tokens(table.path, tokens, tokenizer)
    prompts = {row["problem_id"]: prompt_ids(tokenizer, row["prompt"]) for row in pool.rows}
    connection = Connection(str(options.server), options.model, pool.sampling, further=_further_keys(table.path))
    connection.prove(prompts[pool.rows[0]["problem_id"]])
    used = {(row["problem_id"], row["sample_id"]) for row in pool.rows}
    columns = ["problem_id", "sample_id", "token_ids", "logprobs", "entropies"]
    rows = [r for r in read_samples(tokens, columns).to_pylist() if (r["problem_id"], r["sample_id"]) in used]
    # Log-probs that come without entropies are a server's, which are of temperature 1 however it draws.
    apart = compare(connection, [r for r in rows if pool.sampling.temperature == 1 or r["entropies"] is None], prompts)
    difference = float(np.mean(apart)) if apart else None
    _refuse_elsewhere(
        difference, options.model, " (or its server now has other defaults, of a generation config or --logprobs-mode)"
    )

    def continuer(number: int, say: Callable[[str], None]) -> Continues:
        return ServerContinuer(connection, tokenizer, pool.sampling, number, options.seed, judge)

    return Engine(tokenizer, prompts, difference, continuer)


def _keys_of_requests(path: Path) -> dict[str, Any] | None:
    """Returns the keys that the samples' requests had besides (`--extra`); None where no server drew them."""
    if not (path / SAMPLING).exists():
        return None
    manifest = read_manifest(path)
    if manifest["settings"].get("engine") != "server":
        return None
    keys: dict[str, Any] = json.loads(manifest.get("engine", {}).get("extra", "{}"))
    return keys


def _further_keys(path: Path) -> Mapping[str, Any]:
    """Returns the keys that requests get so that continuations are drawn as the samples were.

    Raises:
        InputError: the samples' keys changed the prompt, which is rendered here, or go by where a completion begins.
    """
    keys = _keys_of_requests(path)
    if keys is None:
        return PLAIN
    if changing := not_continued(keys):
        raise InputError(
            f"The samples were drawn with {_as_extra(changing)}: prompts or texts were changed in a way that is not "
            "known here, or it goes by where a completion begins, which a server that continues one does not know. "
            "Sample without it."
        )
    return keys


def _as_extra(keys: Mapping[str, Any]) -> str:
    return " ".join(f"--extra {name}={json.dumps(value)}" for name, value in keys.items())


def _check(options: ForksOptions) -> None:
    check_level(options.level)
    if options.tokenizer is not None and options.server is None:
        raise InputError("--tokenizer is of --server: without one, the tokenizer is the model's.")
    if options.further and options.unit == "sentence":
        raise InputError("--further is of tokens: leave it out with --unit sentence.")
    if 0 < options.further < FEWEST:
        raise InputError(f"--further is {options.further}: a state needs {FEWEST} continuations or more.")
    if options.bisect and options.unit == "token":
        raise InputError("--bisect looks for tokens within sentences: give --unit sentence with it.")
    if options.bisect and options.outcome == "answer":
        raise InputError("--bisect follows the chance of a right answer: leave it out with --outcome answer.")
    if not 0 < options.quantile < 1:
        raise InputError(f"--quantile is {options.quantile}: it must be between 0 and 1.")


def _digest(inputs: Sequence[Input]) -> str:
    return hashlib.sha256("".join(file.sha256 for file in inputs).encode()).hexdigest()[:16]


def _golds(path: Path, judge: Judge) -> dict[str, Any]:
    """Returns the gold answers of the table's own column by problem, where the judge wants them."""
    if judge.gold_column is None:
        return {}
    if judge.gold_column != "gold":
        raise InputError(
            f"--gold-column is '{judge.gold_column}': continuations can be judged by the column gold alone."
        )
    return {row["problem_id"]: row["gold"] for row in read_samples(path, ["problem_id", "gold"]).to_pylist()}


def _problem(judge: Judge, golds: Mapping[str, Any], problem_id: str) -> Problem:
    problem = judge.problem(problem_id, golds.get(problem_id))
    if problem is None:
        raise InputError(
            f"The problem '{problem_id}' of the table is not among those with gold answers, so its continuations "
            "cannot be judged: give the --task, --dataset or --answers that it is from."
        )
    return problem


def _check_judge(pool: Pool, judge: Judge, golds: Mapping[str, Any]) -> None:
    """Judges the used samples twice: a verifier must agree with itself, and with the verdicts of the table."""
    problems = [_problem(judge, golds, row["problem_id"]) for row in pool.rows]
    texts = [row["completion"] or "" for row in pool.rows]
    first, second = judge.verify(texts, problems), judge.verify(texts, problems)
    for row, *verdicts in zip(pool.rows, first, second, strict=True):
        subject = f"sample {row['sample_id']} of problem '{row['problem_id']}'"
        refuse_random([row["completion"]] * 2, verdicts, subject)
    other = [
        row
        for row, verdict in zip(pool.rows, first, strict=True)
        if None not in (row["correct"], verdict.correct) and row["correct"] != verdict.correct
    ]
    if other:
        row = other[0]
        raise InputError(
            f"The verdicts of the table are not those of the verifier: it judges {len(other)} of {len(pool.rows)} "
            f"samples otherwise, such as sample {row['sample_id']} of problem '{row['problem_id']}'. Name the task "
            "that the table is from, or run forkwise verify --force on it."
        )


def _check_policy(pool: Pool, tokens: Path, model: str) -> float | None:
    """Compares stored log-probs with the model's: continuations of another model's texts would mean nothing.

    Those that come without entropies are a server's, of temperature 1.
    """
    columns = ["problem_id", "sample_id", "logprobs"]
    table_logprobs = {
        (row["problem_id"], row["sample_id"]): row["logprobs"] for row in read_samples(tokens, columns).to_pylist()
    }
    apart: list[float] = []
    for row in pool.rows:
        if row["entropies"] is None and pool.sampling.temperature != 1:
            continue
        stored, now = row["logprobs"], table_logprobs.get((row["problem_id"], row["sample_id"]))
        if stored and now and len(stored) == len(now) and None not in stored:
            apart += np.abs(np.array(stored) - np.array(now)).tolist()
    if not apart:
        return None
    mean = float(np.mean(apart))
    _refuse_elsewhere(mean, model)
    return mean


def _check_draws(samples: Path, tokens: Path, ends: Sequence[int], model: str) -> None:
    """Refuses samples that were drawn otherwise than they say.

    It cannot tell where samples without text lack in `tokens`, where the end token does, or where nobody said which
    tokens were drawn: those that the text is cut into, and the end that is put behind, may be others.
    """
    given = read_samples(samples, ["token_ids", "tokens"]).to_pylist()
    rows = read_samples(tokens, ["finish_reason", "token_ids", "tokens", "logprobs", "entropies"]).to_pylist()
    as_drawn = len(given) == len(rows) and all(
        stored["token_ids"] or (stored["tokens"] or [None])[-1] == row["tokens"][-1]
        for stored, row in zip(given, rows, strict=True)
    )
    if as_drawn and with_their_ends(rows, ends):
        logprobs, entropies = (np.concatenate([row[name] for row in rows]) for name in ("logprobs", "entropies"))
        refuse_other_draws(-logprobs, entropies, [len(row["token_ids"]) for row in rows], model)


def _refuse_elsewhere(mean: float | None, model: str, otherwise: str = "") -> None:
    if mean is not None and mean > _ELSEWHERE:
        raise InputError(
            f"The model '{model}' did not draw these samples{otherwise}: their stored log-probs differ from its own by "
            f"{mean:.2f} nats on the average. Give the model that drew them, or samples of this one."
        )


def _settings(options: ForksOptions, judging: JudgeOptions) -> dict[str, Any]:
    """Returns the options that `forks.json` records: all but `out`."""
    settings = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "out"}
    settings |= {f.name: getattr(judging, f.name) for f in fields(judging)}
    settings["server"] = options.server is not None  # the same server may come back at another address
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
