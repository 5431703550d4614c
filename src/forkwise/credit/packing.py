"""Makes groups from samples and their model, and a bank from the folder of `forkwise forks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forkwise.credit.bank import Bank, Groups, rounded
from forkwise.credit.policy import Policy, token_numbers
from forkwise.errors import InputError
from forkwise.explore.contrast import FloatArray
from forkwise.explore.tokenisation import prompt_ids
from forkwise.folders.results import inputs_of
from forkwise.forks import results
from forkwise.forks.continuing import Continued, read_continued
from forkwise.forks.estimators import halved
from forkwise.forks.frame import load_pool
from forkwise.forks.options import ForksOptions
from forkwise.progress import Meter
from forkwise.samples import read_samples
from forkwise.version import __version__

_AGREE = 0.05  # nats: entropies of the same model, computed anew, differ by less


def make_bank(folder: Path) -> Bank:
    """Makes a bank from what `forkwise forks` left in a folder.

    Raises:
        InputError: the folder is of something else, its model is not there any more, or samples are missing.
    """
    forks = results.read(folder)
    if forks.outcome != "correct":
        raise InputError(
            f"'{folder}' asks which answer comes out, and training is rewarded for right ones: run forkwise forks with "
            "--outcome correct."
        )
    settings = forks.settings
    known = {name: settings[name] for name in ("temperature", "top_p", "max_tokens", "device", "dtype")}
    pool = load_pool(folder / "tokens", ForksOptions(model=forks.model, out=folder, **known))
    if pool.sampling.top_p < 1:
        raise InputError(
            f"'{folder}' is of samples with top-p {pool.sampling.top_p:g}, and training draws from everything: sample "
            "with top-p 1."
        )
    policy = Policy(forks.model, pool.sampling.temperature, device=settings["device"], dtype=settings["dtype"])
    stored = read_samples(folder / "tokens", ["problem_id", "sample_id", "token_ids", "entropies"]).to_pylist()
    tokens = {(row["problem_id"], row["sample_id"]): row for row in stored}
    rows = [{**row, **tokens[row["problem_id"], row["sample_id"]]} for row in pool.rows]
    groups = make_groups(rows, policy, str(folder))
    start_of = {
        (groups.problems[q], int(s)): at
        for q, s, at in zip(
            groups.problem_S, groups.sample_S, np.cumsum(groups.length_S) - groups.length_S, strict=True
        )
    }
    continued = read_continued(folder, len(forks.states))
    if len(rows) != forks.traces or any((s.problem_id, s.sample_id) not in start_of for s in forks.states):
        raise InputError(
            f"The samples in '{folder / 'tokens'}' are not those of its states, as where some have no text: groups "
            "must be whole, so draw samples that all have text."
        )
    halves = np.array([_halves(state) for state in continued])
    order = np.argsort([start_of[s.problem_id, s.sample_id] + s.position for s in forks.states], kind="stable")
    states = [forks.states[i] for i in order]
    return Bank(
        name=pool.rows[0]["run"],
        about={
            "model": forks.model,
            "weights": policy.fingerprint,
            "temperature": pool.sampling.temperature,
            "max_tokens": pool.sampling.max_tokens,
            "continuations": forks.cost.continuations,
            "of_problems": forks.of_problems,
            "forks": inputs_of([folder / results.FILE])[0].sha256,
            "samples": [{"path": file.path, "sha256": file.sha256} for file in forks.inputs],
            "forkwise": __version__,
        },
        groups=groups,
        at_K=np.array([start_of[s.problem_id, s.sample_id] + s.position for s in states], dtype=np.int64),
        chance_K=_stored([s.chance for s in states]),
        advantage_K=_stored([_number(s.forced[0].advantage, folder) for s in states]),
        error_K=_stored([_number(s.forced[0].error, folder) for s in states]),
        half_K2=_stored(halves[order]),
    )


def _stored(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float32).astype(np.float64)  # as the file has them


def _number(value: float | None, folder: Path) -> float:
    if value is None:
        raise InputError(
            f"Some continuations in '{folder}' have no verdict, so their tokens have no true advantage: use a task or "
            "verifier that always gives one."
        )
    return value


def _halves(state: Continued) -> tuple[float, float]:
    """Estimates the sample's own token from each half of a state's continuations."""
    right_R = np.array([verdict is True for verdict in state.correct], dtype=np.float64)
    first, second = halved(state.first.branches, right_R)
    return float(first), float(second)


def make_groups(rows: Sequence[Mapping[str, Any]], policy: Policy, where: str) -> Groups:
    """Makes groups of rows of a samples table that have token ids; those of a problem are put side by side.

    Raises:
        InputError: token ids or verdicts are missing, or the stored entropies are another model's.
    """
    problems = list(dict.fromkeys(row["problem_id"] for row in rows))
    by_problem: dict[str, list[Mapping[str, Any]]] = {problem: [] for problem in problems}
    for row in rows:
        if not row["token_ids"] or row["correct"] is None:
            what = "token ids" if row["correct"] is not None else "verdict"
            raise InputError(
                f"Sample {row['sample_id']} of problem '{row['problem_id']}' in '{where}' has no {what}: groups are "
                "made of samples that forkwise sample drew with token data and verified."
            )
        by_problem[row["problem_id"]].append(row)
    numbers: dict[str, list[FloatArray]] = {}
    apart: list[float] = []
    with Meter(len(problems), 0, what="scoring groups", unit="groups") as meter:
        for group in by_problem.values():
            completions = [row["token_ids"] for row in group]
            scored = policy.score(prompt_ids(policy.tokenizer, group[0]["prompt"]), completions)
            flat = torch.tensor([i for completion in completions for i in completion], device=policy.model.device)
            for name, values in token_numbers(scored.log_probs_LV, flat).items():
                numbers.setdefault(name, []).append(values.cpu().numpy())
            known = np.array([h for row in group for h in row["entropies"] or ()])
            if known.size == len(flat):
                apart.append(float(np.abs(known - numbers["entropy"][-1]).mean()))
            meter.add(samples=1)
    if apart and np.mean(apart) > _AGREE:
        raise InputError(
            f"The model '{policy.name}' did not draw the samples in '{where}': their stored entropies differ from its "
            f"own by {np.mean(apart):.2f} nats on the average. Give the model that drew them."
        )
    ordered = [row for group in by_problem.values() for row in group]
    index = {problem: q for q, problem in enumerate(problems)}
    return Groups(
        problems,
        np.array([index[row["problem_id"]] for row in ordered], dtype=np.int64),
        np.array([row["sample_id"] for row in ordered], dtype=np.int64),
        np.array([row["correct"] for row in ordered], dtype=np.bool_),
        np.array([row["finish_reason"] == "length" for row in ordered], dtype=np.bool_),
        np.array([len(row["token_ids"]) for row in ordered], dtype=np.int64),
        np.array([i for row in ordered for i in row["token_ids"]], dtype=np.int64),
        **{f"{name}_N": rounded(name, np.concatenate(values)) for name, values in numbers.items()},
    )
