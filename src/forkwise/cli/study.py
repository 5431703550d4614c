"""The commands of `forkwise study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import CONTINUES, cores, long_command
from forkwise.cli.layout import example, make_app
from forkwise.errors import InputError
from forkwise.progress import Meter
from forkwise.terminal import complain, echo

app = make_app("Compare methods by training runs: plan, register, run, analyse.")

_File = Annotated[Path, typer.Argument(help="The study, a YAML file.", metavar="FILE")]


@app.command("plan", epilog=example("forkwise study plan studies/central-grpo.yaml --minutes-per-run 4"))
def plan(
    file: _File,
    pilot: Annotated[Path | None, typer.Option(help="Folder of a pilot, or of its receipts: power and cost.")] = None,
    components: Annotated[Path | None, typer.Option(help="Instead: stated variances, as forkwise plan takes.")] = None,
    minutes_per_run: Annotated[float | None, typer.Option(min=0, help="Of training (default: the pilot's).")] = None,
    minutes_per_100k: Annotated[
        float | None, typer.Option(min=0, help="Of drawing 100,000 samples (default: the pilot's).")
    ] = None,
) -> None:
    """Say how large a study is, what it tests and when, what it can find and costs; refuse what could not run."""
    with long_command("run it again"):
        from forkwise.progress import Console
        from forkwise.report.terminal import print_blocks
        from forkwise.study.power import minutes, power, read_pilot
        from forkwise.study.reading import read_study
        from forkwise.study.run import check_study
        from forkwise.study.words import cost, design

        with Meter(phase="checking the study (1 of 2)"):
            study = read_study(file)
            arms, receipts = read_pilot(pilot) if pilot else ([], [])
            known = minutes(receipts) if receipts else (0.0, 0.0)
            costs = (minutes_per_run, minutes_per_100k)
            run_minutes, sample_minutes = (known[i] if costs[i] is None else costs[i] or 0.0 for i in (0, 1))
            blocks = [*design(study), *cost(study, run_minutes, sample_minutes)]
            if arms or components:
                blocks += power(study, pilot=arms, components=components, run=run_minutes, samples=sample_minutes)
            else:
                blocks.append("What it can find takes --pilot or --components: how much runs and problems differ.")
        with Meter(phase="checking that it could run (2 of 2)"):  # slow, so what is wrong with the above is said before
            check_study(study)
        print_blocks(blocks, Console())


@app.command("register", epilog=example("forkwise study register mine.yaml"))
def register(file: _File) -> None:
    """Freeze a study before its first run, in FILE.registered.yaml: hash, versions, date. Commit that file."""
    with long_command("run it again"):
        from forkwise.study.reading import read_study
        from forkwise.study.registration import register as freeze
        from forkwise.study.run import check_study

        with Meter(phase="checking the study"):
            study = read_study(file)
            check_study(study)
        echo(f"{freeze(file, study)}: the plan {study.sha256()[:16]} is registered; commit the file.")


@app.command("run", epilog=example("forkwise study run mine.yaml --out runs/mine --jobs 2"))
def run(
    file: _File,
    out: Annotated[Path, typer.Option(help="Folder of the study; the same command continues in it.")],
    receipts: Annotated[
        Path | None, typer.Option(help="Folder for the receipts of finished runs (default: receipts in --out).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Runs side by side (0: one per core).")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: the GPUs if there are any.")] = "auto",
    ray: Annotated[str | None, typer.Option(help="Instead of this machine: address of a Ray cluster, or auto.")] = None,
    cpus_per_run: Annotated[float, typer.Option(min=0, help="Cores of a run on Ray.")] = 1.0,
    gpus_per_run: Annotated[float, typer.Option(min=0, help="GPUs of a run on Ray (0: the CPU).")] = 0.0,
) -> None:
    """Train and sample every run of a study that has no receipt yet; killed anywhere, the same command continues."""
    with long_command(CONTINUES):
        from forkwise.study.places import LocalPlace, RayPlace, Resources, RunPlace
        from forkwise.study.reading import read_study
        from forkwise.study.registration import registration_of
        from forkwise.study.run import check_study
        from forkwise.study.run import run as run_study

        with Meter(phase="checking the study"):
            study = read_study(file)
            record = registration_of(file, study)
            check_study(study)
        if record is None and study.primary is not None:
            complain("the study is not registered, so all of it will count as exploratory.")
        workers: RunPlace
        if ray is None:
            workers = LocalPlace(jobs or max(1, cores() // study.processes), device, study.processes)
        else:
            workers = RayPlace(ray, Resources(cpus_per_run, gpus_per_run))
        try:
            date = None if record is None else str(record.get("date"))
            echo(run_study(study, out, workers, receipts=receipts, registered=date))
        finally:
            workers.close()
        echo(f"Read it with: forkwise study analyse {receipts or out}")


@app.command("analyse", epilog=example("forkwise study analyse runs/mine"))
def analyse(
    folder: Annotated[Path, typer.Argument(help="Folder of a study, or of its receipts alone.")],
    early: Annotated[bool, typer.Option("--early", help="Compare now, which makes it exploratory.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write every number as JSON; - prints them alone.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write what is printed as Markdown; - prints it so.")] = None,
) -> None:
    """Say what a study found, from its receipts: the registered comparison first, the rest as exploratory."""
    if str(json) == str(markdown) == "-":
        raise InputError("--json - and --markdown - both print their result alone: give one of them a file.")
    with long_command("run it again"):
        from forkwise.folders import write_text
        from forkwise.folders.results import result_text, write_result
        from forkwise.progress import Console
        from forkwise.report.markdown import markdown_blocks
        from forkwise.report.terminal import print_blocks
        from forkwise.study.analysis import read_study_folder
        from forkwise.study.words import report

        with Meter(phase="reading and comparing receipts"):
            study, receipts, reading = read_study_folder(folder, early=early)
        blocks = report(study, receipts, reading)
        try:  # before anything is printed, since whoever reads that may stop
            if json is not None and str(json) != "-":
                write_result(json, reading)
            if markdown is not None and str(markdown) != "-":
                write_text(markdown, markdown_blocks(blocks))
        finally:
            if str(json) == "-":
                echo(result_text(reading), end="")
            elif str(markdown) == "-":
                echo(markdown_blocks(blocks), end="")
            else:
                print_blocks(blocks, Console())
