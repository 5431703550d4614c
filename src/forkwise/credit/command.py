"""The command `forkwise credit`: it reads banks, scores every method on them, and writes `credit.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from forkwise.constants import check_number
from forkwise.credit.arms import Given, choose_arms, with_model
from forkwise.credit.bank import SHIPPED, Bank, read_bank, write_bank
from forkwise.credit.options import CreditOptions
from forkwise.credit.results import Credit, GradientCredit, write
from forkwise.credit.scoring import score_bank
from forkwise.errors import InputError
from forkwise.folders.results import Input, inputs_of
from forkwise.forks import results as forks
from forkwise.passk.intervals import check_level
from forkwise.samples.direct import source_files
from forkwise.version import __version__


def run_credit(paths: Sequence[Path], options: CreditOptions) -> Credit:
    """Scores methods on the banks, the package's own where none is given, and writes `credit.json` to `--out`.

    Raises:
        InputError: something given cannot be used, or a bank is too small for any claim.
    """
    check_level(options.level)
    if len(options.groups) != len(options.model):
        raise InputError(
            f"--groups is given {len(options.groups)} times and --model {len(options.model)} times: each table needs "
            "the model that drew it, in the same order."
        )
    if options.updates and not options.groups:
        raise InputError("--updates moves the policy of --groups, and there is none: give the table and its --model.")
    check_number("learning-rate", options.learning_rate, 0, above=True)
    banks, inputs = read_banks(paths) if paths or not options.groups else ([], [])
    arms, not_scored = choose_arms(options.method, Given(), only=options.only) if banks else ([], [])
    if options.pack is not None:
        if len(banks) != 1:
            raise InputError(f"--pack writes one bank, and there are {len(banks)}: give the one folder.")
        write_bank(options.pack, banks[0])
    result = Credit(
        banks=[score_bank(bank, arms, options) for bank in banks],
        not_scored=not_scored,
        settings=_settings(options),
        inputs=[*inputs, *inputs_of(file for table in options.groups for file in source_files(table))],
        forkwise=__version__,
        gradients=_gradients(options),
    )
    if options.out is not None:
        write(options.out, result)
    return result


def _gradients(options: CreditOptions) -> list[GradientCredit]:
    if not options.groups:
        return []
    from forkwise.credit.updates import score_updates  # loads transformers

    arms, not_scored = choose_arms(options.method, with_model(several=options.updates > 0), only=options.only)
    pairs = zip(options.groups, options.model, strict=True)
    scored = [score_updates(*pair, arms, options) for pair in pairs]
    return [replace(one, not_scored=[*not_scored, *one.not_scored]) for one in scored]


def read_banks(chosen: Sequence[Path]) -> tuple[list[Bank], list[Input]]:
    """Reads banks from files and from folders of `forkwise forks`, or those of the package.

    Raises:
        InputError: one of them is neither.
    """
    paths = list(chosen) or sorted(SHIPPED.glob("*.parquet"))
    if not paths:
        raise InputError("This package holds no banks: give one, or the folder of forkwise forks.")
    banks, sources = [], []
    for path in paths:
        if not path.exists():
            raise InputError(f"There is no '{path}': give a bank, or the folder of forkwise forks.")
        if path.is_dir():
            from forkwise.credit.packing import make_bank  # loads transformers

            banks.append(make_bank(path))
            sources.append(path / forks.FILE)
        else:
            banks.append(read_bank(path))
            sources.append(path)
    names = [bank.name for bank in banks]
    if len(set(names)) < len(names):
        raise InputError(f"Two of the banks have one name ({', '.join(names)}): give each once.")
    return banks, inputs_of(sources)


def _settings(options: CreditOptions) -> dict[str, Any]:
    settings = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in ("out", "pack")}
    return {**settings, "groups": [str(table) for table in options.groups]}
