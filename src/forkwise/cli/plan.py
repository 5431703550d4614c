"""The command `forkwise plan`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import long_command
from forkwise.cli.options import with_options
from forkwise.parameters import Brief, Intersect, Level, PairedSeeds
from forkwise.progress import Meter
from forkwise.terminal import echo


@dataclass(frozen=True)
class PlanOptions:
    """The options of `forkwise plan`."""

    components: Annotated[
        Path | None, "Stated variances (YAML or JSON), or an earlier --json, in place of a pilot."
    ] = None
    k: Annotated[str | None, "Endpoints, such as 1,16,curve (default: a few K, and the curve's mean)."] = None
    runs: Annotated[int | None, "Runs per arm of the study (default: the pilot's, or 5).", {"min": 1}] = None
    problems: Annotated[int | None, "Problems of the study (default: the pilot's).", {"min": 2}] = None
    samples: Annotated[int | None, "Samples of each problem (default: the pilot's).", {"min": 1}] = None
    detect: Annotated[str, "Differences to be found."] = ".01,.02,.03"
    power: Annotated[float, "Wanted chance to find them."] = 0.8
    level: Level = 0.95
    contrasts: Annotated[int, "Comparisons with the reference, between which 1 - level is split.", {"min": 1}] = 1
    endpoints: Annotated[int, "Endpoints tested together, between which it is split too.", {"min": 1}] = 1
    paired_seeds: PairedSeeds = False
    rho: Annotated[float | None, "Correlation of runs that share a seed (default: the pilot's)."] = None
    fixed: Annotated[bool, "The reference is one model that is not trained again."] = False
    method_problem_sd: Annotated[float | None, "SD over problems of the arms' difference (default: the pilot's)."] = (
        None
    )
    cost_run: Annotated[float | None, "Cost of training a run, in any unit."] = None
    cost_sample: Annotated[float | None, "Cost of drawing a sample, in the same unit."] = None
    budget: Annotated[float | None, "Cost that is there: what can be found with it."] = None
    max_problems: Annotated[int, "Problems that there are, for the cheapest study.", {"min": 2}] = 1000
    intersect: Intersect = False


@dataclass(frozen=True)
class PlanOutputs:
    """Where a plan goes. None is nowhere; with `-` as JSON path, the standard output holds the JSON alone."""

    brief: Brief = False
    json: Annotated[Path | None, "Write the plan here; - prints it alone. --components reads it."] = None
    figure: Annotated[Path | None, "Write the power curves here (.png, .svg or .pdf)."] = None


@with_options
def plan(
    options: PlanOptions,
    outputs: PlanOutputs,
    pilot: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARM", help="Pilot: [NAME=]TABLE[,TABLE...] per arm, the reference first."),
    ] = None,
) -> None:
    """How many runs, problems and samples a study needs, and what it cannot claim: from a pilot, before training."""
    with long_command("run it again"):
        from forkwise.folders.results import result_text, write_result
        from forkwise.passk.arguments import parse_arm
        from forkwise.passk.plan import plan_file
        from forkwise.passk.planning import parse_differences, parse_endpoints, plan_study
        from forkwise.progress import Console
        from forkwise.report import plan as words
        from forkwise.report.terminal import print_blocks, print_sentences

        chosen = asdict(options)
        arguments = chosen | {"ks": parse_endpoints(chosen["k"]), "detect": parse_differences(options.detect)}
        del arguments["k"]
        with Meter(phase="reading the pilot (1 of 2)"):
            arms = [parse_arm(text) for text in pilot or ()]
        with Meter(phase="planning (2 of 2)"):
            study_plan, inputs, notes = plan_study(arms, **arguments)
        sentence, limits = words.conclusion(study_plan), words.limits(study_plan, notes)
        settings = {"pilot": pilot or [], **chosen, "components": chosen["components"] and str(chosen["components"])}
        content = plan_file(study_plan, settings, inputs, sentence, limits)
        try:  # before anything is printed, since whoever reads that may stop
            if outputs.json and str(outputs.json) != "-":
                write_result(outputs.json, content)
            if outputs.figure:
                from forkwise.report.passk_figures import save
                from forkwise.report.plan_figure import plan_figure

                save(plan_figure(study_plan), outputs.figure)
        finally:
            if str(outputs.json) == "-":
                echo(result_text(content), end="")
            else:
                console = Console()
                print_sentences([sentence], console)
                if not outputs.brief:
                    print_blocks(words.tables(study_plan), console)
                    print_sentences(limits, console, "- ")
