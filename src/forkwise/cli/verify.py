"""The command `forkwise verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import CONTINUES, long_command
from forkwise.cli.options import with_options
from forkwise.sampling.options import JudgeOptions
from forkwise.terminal import echo


@with_options
def verify(
    samples: Annotated[Path, typer.Argument(help="Samples table: a Parquet file or a folder of them.")],
    options: JudgeOptions,
    force: Annotated[bool, typer.Option("--force", help="Verify again what has a verdict.")] = False,
) -> None:
    """Verify the samples of any table against gold answers; killed anywhere, the same command continues."""
    with long_command(CONTINUES):
        from forkwise.report.sampling import verified
        from forkwise.sampling import verify as verification

        judge = verification.find_judge(samples, options)
        echo(f"{samples}: {verified(verification.verify(samples, judge, force=force))}")
