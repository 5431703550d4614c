"""The command `forkwise explore`: it loads traces, explores each run, and writes `explore.json`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forkwise.errors import InputError
from forkwise.explore.analysis import explore_run, training_row
from forkwise.explore.bounds import ASSUMED_VOCABULARY, check_vocabulary
from forkwise.explore.contrast import Resampling
from forkwise.explore.dependence import CrossLogprobs, read_cross, write_cross
from forkwise.explore.encoders import load_encoder, remembering
from forkwise.explore.lexicon import load_lexicon, load_reflective
from forkwise.explore.options import ExploreOptions
from forkwise.explore.results import Exploration, RunExploration, TrainingRow, write
from forkwise.explore.sentences import words_of
from forkwise.explore.settings import ExploreSettings
from forkwise.explore.traces import Origin, RunTraces, Trace, check_side_by_side, load_traces
from forkwise.folders.results import inputs_of
from forkwise.passk.intervals import check_level
from forkwise.progress import Meter
from forkwise.samples.direct import OpenTable, imported_from, open_tables, source_files
from forkwise.version import __version__

if TYPE_CHECKING:
    from forkwise.explore.teacher import Scorer

_STEP = re.compile(r"(?:step|checkpoint)[-_ ]?(\d+)", re.IGNORECASE)
_RESPONSES_PER_PROMPT = 4


def run_explore(options: ExploreOptions) -> Exploration:
    """Explores every run of every table, and writes `explore.json` to `--out`.

    Raises:
        InputError: something given cannot be used.
    """
    _check(options)
    with open_tables([*options.samples, *([options.base] if options.base else [])]) as tables:
        return _explore(options, tables[: len(options.samples)], tables[-1] if options.base else None)


def _explore(options: ExploreOptions, tables: Sequence[OpenTable], base_table: OpenTable | None) -> Exploration:
    """Explores every table; it has more than 60 lines because each step needs what those before it made."""
    settings = ExploreSettings(
        lexicon=load_lexicon(options.lexicon),
        reflective=load_reflective(options.reflective),
        quantile=options.quantile,
        k=options.k,
        rare_quantile=1 - options.rare,
        limit=options.max_sentences,
        vocabulary=options.vocabulary or ASSUMED_VOCABULARY,
        vocabulary_source="as given" if options.vocabulary else "assumed: not below any in common use",
        resampling=Resampling(options.level, options.resamples, options.seed),
    )
    breaks = words_of(options.breaks)
    base, encoder = _base(options, base_table, breaks), None
    scorer = _scorer(options)
    all_runs: list[RunTraces] = []
    runs: list[RunExploration] = []
    series: list[TrainingRow] = []
    token_data: list[Path] = []
    for table in tables:
        source: Origin = "stored" if scorer is None else "model"
        with_tokens = table.path if scorer is None else _teacher_force(table, scorer, options)
        token_data.append(table.given if scorer is None else with_tokens)
        which = f"table {len(token_data)} of {len(options.samples)}"
        with Meter(phase=f"reading {which}"):
            loaded = load_traces(
                with_tokens,
                breaks=breaks,
                vocabulary=settings.vocabulary,
                source=source,
                only_exact=options.only_exact,
                temperature=options.temperature if scorer else None,
            )
        all_runs += loaded
        check_side_by_side([(run.run, run.source, run.temperatures) for run in all_runs])
        if options.cross and len(loaded) > 1:
            raise InputError(
                f"--cross holds the responses of one run, but '{table.given}' has {len(loaded)}: give one run."
            )
        for traces in loaded:
            if base is not None and not options.intersect:
                _check_problems(traces, base)
            if base is not None and encoder is None:
                encoder = remembering(load_encoder(options.encoder, options.encoder_dtype))
            cross = _cross(traces, scorer, options)
            with Meter(phase=f"run {traces.run}, {which}"):
                explored = explore_run(traces, settings, base=base, encoder=encoder, cross=cross)
            runs.append(explored)
            step = _STEP.search(f"{traces.run} {table.given.name}")
            series.append(training_row(traces, explored, int(step[1]) if step else None))
    exploration = Exploration(
        samples=[str(path) for path in options.samples],
        token_data=[_relative(path, options.out) for path in token_data],
        inputs=inputs_of(file for table in (*options.samples, options.base) if table for file in source_files(table)),
        settings=_settings(options),
        lexicon=settings.lexicon.name,
        reflective=settings.reflective.name,
        breaks=breaks,
        runs=runs,
        series=series,
        full_logits=scorer.full_logits if scorer else None,
        imported=imported_from([*tables, *([base_table] if base_table else [])]),
        forkwise=__version__,
    )
    if options.out:
        write(options.out, exploration)
    return exploration


def _check(options: ExploreOptions) -> None:
    if not options.samples:
        raise InputError("There is nothing to explore: name a samples table, such as the folder of forkwise sample.")
    check_level(options.level)
    if options.vocabulary is not None:
        check_vocabulary(options.vocabulary)
    if not 0 < options.rare < 1:
        raise InputError(f"--rare is {options.rare}: give a share between 0 and 1, such as 0.1.")
    if options.model and options.out is None:
        raise InputError("--model computes entropies, and they need a place: give --out.")
    if options.cross_prompts and not options.model:
        raise InputError("--cross-prompts scores responses under other prompts, so it needs --model.")
    if options.cross_prompts == 1 or options.cross_prompts < 0:
        raise InputError(f"--cross-prompts is {options.cross_prompts}: it compares at least two prompts.")
    if options.cross and len(options.samples) > 1:
        raise InputError("--cross holds the responses of one run: give one table.")


def _settings(options: ExploreOptions) -> dict[str, Any]:
    """Returns the options that `explore.json` records: all but `samples`, `out` and `breaks`."""
    options_by_name = {field.name: getattr(options, field.name) for field in fields(options)}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options_by_name.items()}
    return {name: value for name, value in plain.items() if name not in ("samples", "out", "breaks")}


def _base(options: ExploreOptions, table: OpenTable | None, breaks: Sequence[str]) -> list[Trace] | None:
    if table is None:
        if options.encoder:
            raise InputError("--encoder compares sentences with a base model's: give --base.")
        return None
    with Meter(phase="reading the base's table"):
        runs = load_traces(table.path, breaks=breaks, token_data=False)
    if len(runs) > 1:
        raise InputError(
            f"'{options.base}' holds {len(runs)} runs ({', '.join(run.run for run in runs[:4])}): give a table of the "
            "base model alone."
        )
    return runs[0].traces


def _check_problems(run: RunTraces, base: Sequence[Trace]) -> None:
    """Refuses a base with other problems than the run: what is far from it may be another topic."""
    of_run, of_base = {trace.problem_id for trace in run.traces}, {trace.problem_id for trace in base}
    if of_run == of_base:
        return
    if not of_run & of_base:
        raise InputError(
            f"The base and the run '{run.run}' share no problem, so any of its sentences would be far from the base: "
            "give samples of the base model on the same problems."
        )
    raise InputError(
        f"The base lacks {len(of_run - of_base)} of the {len(of_run)} problems of the run '{run.run}', and has "
        f"{len(of_base - of_run)} others: sentences about another problem are far from any base. Draw the same "
        "problems of both, or pass --intersect to compare those that they share."
    )


def _scorer(options: ExploreOptions) -> Scorer | None:
    if options.model is None:
        return None
    from forkwise.explore.teacher import scorer_of

    return scorer_of(options.model, options)


def _teacher_force(table: OpenTable, scorer: Scorer, options: ExploreOptions) -> Path:
    from forkwise.explore.teacher import write_entropies

    assert options.out is not None
    assert options.model is not None
    folder = options.out / "tokens"
    if len(options.samples) > 1:
        number = list(options.samples).index(table.given)
        folder = folder / f"{number:02d}-{table.given.stem}"
    forced = write_entropies(table.path, folder, scorer, name=options.model, temperature=options.temperature)
    if forced.samples == 0:
        raise InputError(f"'{table.given}': every sample is empty, so there is nothing to explore.")
    return folder


def _cross(traces: RunTraces, scorer: Scorer | None, options: ExploreOptions) -> CrossLogprobs | None:
    if options.cross is not None:
        return read_cross(options.cross)
    if not options.cross_prompts or scorer is None:
        return None
    assert options.out is not None
    from forkwise.explore.teacher import cross_logprobs
    from forkwise.explore.tokenisation import completion_ids, prompt_ids

    by_prompt: dict[str, list[str]] = {}
    for trace in traces.traces:
        if trace.prompt:
            by_prompt.setdefault(trace.prompt, []).append(trace.text)
    chosen = list(by_prompt)[: options.cross_prompts]
    if len(chosen) < 2:
        return None
    responses = [(j, text) for j, prompt in enumerate(chosen) for text in by_prompt[prompt][:_RESPONSES_PER_PROMPT]]
    matrix = cross_logprobs(
        scorer,
        [prompt_ids(scorer.tokenizer, prompt) for prompt in chosen],
        [completion_ids(scorer.tokenizer, {"completion": text}, f"run '{traces.run}'") for _, text in responses],
    )
    cross = CrossLogprobs(matrix, np.array([j for j, _ in responses]))
    write_cross(options.out / f"cross-{re.sub(r'[^A-Za-z0-9._-]', '_', traces.run)}.npz", cross)
    return cross


def _relative(path: Path, out: Path | None) -> str:
    """Returns the path as seen from the folder of `explore.json`."""
    return str(path) if out is None else os.path.relpath(path, out)
