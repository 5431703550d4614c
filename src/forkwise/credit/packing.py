"""Makes groups from samples and their model, and a bank from the folder of `forkwise forks`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forkwise.credit.arms import More
from forkwise.credit.bank import Bank, Groups, rounded
from forkwise.credit.policy import Policy, ScoredGroup, token_numbers
from forkwise.errors import InputError
from forkwise.explore.contrast import FEWEST_PROBLEMS, FloatArray
from forkwise.explore.draws import refuse_other_draws, with_their_ends
from forkwise.explore.tokenisation import prompt_ids
from forkwise.folders.results import Input, inputs_of
from forkwise.forks import results
from forkwise.forks.estimators import halved
from forkwise.forks.frame import load_pool
from forkwise.forks.options import ForksOptions
from forkwise.forks.stored import Continued, read_continued, refuse_random
from forkwise.progress import Meter
from forkwise.samples import read_samples
from forkwise.sampling.generate import end_tokens
from forkwise.tasks import Verdict
from forkwise.terminal import counted
from forkwise.version import __version__

_COLUMNS = ("run", "problem_id", "sample_id", "prompt", "correct", "finish_reason", "sampling", "token_ids", "gold")
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
    if settings.get("server"):
        raise InputError(
            f"'{folder}' was continued through a server, which forces no tokens, so nobody knows what they are worth: "
            "run forkwise forks without --server."
        )
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
            "samples": _digest(forks.inputs),
            "forkwise": __version__,
        },
        groups=groups,
        at_K=np.array([start_of[s.problem_id, s.sample_id] + s.position for s in states], dtype=np.int64),
        chance_K=_stored([s.chance for s in states]),
        advantage_K=_stored([_number(s.forced[0].advantage, folder) for s in states]),
        error_K=_stored([_number(s.forced[0].error, folder) for s in states]),
        half_K2=_stored(halves[order]),
    )


def _digest(files: Sequence[Input]) -> dict[str, Any]:
    """Names many files by one hash: of their own, in their order."""
    whole = hashlib.sha256("".join(file.sha256 for file in files).encode())
    return {"files": len(files), "sha256": whole.hexdigest()}


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


def temperature_of(rows: Sequence[Mapping[str, Any]], where: str) -> float:
    """Returns the temperature at which the samples were drawn.

    Raises:
        InputError: nobody knows, there are several, or they were not drawn from the whole distribution, as training
            does.
    """
    recipes = [row["sampling"] or {} for row in rows]
    stored: set[Any] = {recipe.get("temperature") for recipe in recipes}
    if len(stored) > 1 or None in stored:
        fault = "do not say" if stored == {None} else f"differ in ({', '.join(map(str, sorted(stored, key=str)))})"
        raise InputError(f"The samples in '{where}' {fault} temperature: give a table of forkwise sample, of one run.")
    temperature = float(stored.pop())
    if temperature == 0:
        raise InputError(f"The samples in '{where}' are greedy (temperature 0), and training draws: sample at 1.")
    least = min(recipe.get("top_p") or 1.0 for recipe in recipes)
    if least < 1:
        raise InputError(
            f"'{where}' is of samples with top-p {least:g}, and training draws from everything: sample with top-p 1."
        )
    return temperature


def group_rows(table: Path, size: int) -> tuple[list[dict[str, Any]], int]:
    """Reads the samples that make whole groups, each group named by its problem and its number.

    Returns:
        The rows, whose `problem_id` is the group's name and whose `problem` is the problem's, and how many samples the
        table has.
    """
    stored = read_samples(table, [*_COLUMNS, "entropies"]).to_pylist()
    runs = {row["run"] for row in stored}
    if len(runs) != 1:
        raise InputError(f"'{table}' holds {len(runs)} runs: groups are of one model, so give a table of one.")
    size_of = Counter(row["problem_id"] for row in stored)
    count: Counter[str] = Counter()
    whole = []
    for row in stored:
        problem = row["problem_id"]
        if count[problem] < size_of[problem] // size * size:
            whole.append({**row, "problem": problem, "problem_id": group_name(problem, count[problem] // size)})
        count[problem] += 1
    if not whole:
        raise InputError(
            f"No problem in '{table}' has {size} samples, a group: draw more, or give a smaller --group-size."
        )
    return whole, len(stored)


def refuse_too_little(rows: Sequence[Mapping[str, Any]], kept: set[str], table: Path) -> None:
    """Raises `InputError` where the groups are of too few problems, or none has right and wrong samples."""
    verdicts: dict[str, set[bool | None]] = {}
    for row in rows:
        verdicts.setdefault(row["problem_id"], set()).add(row["correct"])
    with_contrast = sum({True, False} <= of for of in verdicts.values())
    without_verdict = any(None in of for of in verdicts.values())  # which is said when groups are made
    if len(kept) < FEWEST_PROBLEMS or not (with_contrast or without_verdict):
        raise InputError(
            f"{counted(len(kept), 'problem')} of '{table}' would be scored, with "
            f"{counted(with_contrast, 'group')} of right and wrong samples: updates are compared over at least "
            f"{FEWEST_PROBLEMS} problems, some of them with contrast."
        )


def group_name(problem: str, number: int) -> str:
    """Names one of several groups of a problem; any text may be a problem's name."""
    return f"{problem}\0{number}"


def problem_of(group: str) -> str:
    """Returns the problem of a group that `group_name` named."""
    return group.rpartition("\0")[0]


def make_groups(rows: Sequence[Mapping[str, Any]], policy: Policy, where: str) -> Groups:
    """Makes groups of rows of a samples table that have token ids; those of a `problem_id` are put side by side.

    Where a problem has several groups, `problem_id` names the group and `problem` the problem.

    Raises:
        InputError: token ids or verdicts are missing, equal samples have other verdicts, or the stored entropies are
            another model's.
    """
    problems = list(dict.fromkeys(row["problem_id"] for row in rows))
    by_problem: dict[str, list[Mapping[str, Any]]] = {problem: [] for problem in problems}
    for row in rows:
        if not row["token_ids"] or row["correct"] is None:
            missing = "token ids" if row["correct"] is not None else "verdict"
            raise InputError(
                f"Sample {row['sample_id']} of problem '{row.get('problem', row['problem_id'])}' in '{where}' has no "
                f"{missing}: groups are made of samples that forkwise sample drew with token data and verified."
            )
        by_problem[row["problem_id"]].append(row)
    refuse_random(
        [(row.get("problem", row["problem_id"]), tuple(row["token_ids"])) for row in rows],
        [Verdict(row["correct"], None, "table") for row in rows],
        f"a sample in '{where}'",
    )
    numbers: dict[str, list[FloatArray]] = {}
    apart: list[float] = []
    with Meter(len(problems), 0, phase="scoring groups", unit="groups") as meter:
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
    if with_their_ends(ordered, end_tokens(policy.model, policy.tokenizer)):
        logprob_N, entropy_N = (np.concatenate(numbers[name]) for name in ("logprob", "entropy"))
        refuse_other_draws(-logprob_N, entropy_N, [len(row["token_ids"]) for row in ordered], policy.name)
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


def renewed(groups: Groups, policy: Policy, prompts: Mapping[str, Sequence[int]]) -> Groups:
    """Returns the same completions with the numbers of another policy.

    Args:
        prompts: token ids of the prompt of each of the groups' problems.
    """
    numbers: dict[str, list[FloatArray]] = {}
    for scored, ids_L in _scored(groups, policy, prompts, hidden=False):
        for name, values in token_numbers(scored.log_probs_LV, ids_L).items():
            numbers.setdefault(f"{name}_N", []).append(values.cpu().numpy())
    changed: dict[str, Any] = {name: np.concatenate(values) for name, values in numbers.items()}
    return replace(groups, **changed)


def more_of(
    groups: Groups, policy: Policy, prompts: Mapping[str, Sequence[int]], factors: Sequence[float], *, hidden: bool
) -> More:
    """Asks the policy that drew the groups for what few methods want: see `More`.

    Args:
        factors: of the sampling temperature, for log-probs at another one.
    """
    tempered: dict[float, list[FloatArray]] = {factor: [] for factor in factors}
    states = []
    for scored, ids_L in _scored(groups, policy, prompts, hidden=hidden):
        for factor, parts in tempered.items():
            log_p = (scored.log_probs_LV.double() / factor).log_softmax(-1)
            parts.append(log_p.gather(1, ids_L[:, None])[:, 0].cpu().numpy())
        if scored.hidden_LD is not None:
            states.append(scored.hidden_LD.to(torch.bfloat16).cpu())
    return More(
        {factor: np.concatenate(parts) for factor, parts in tempered.items()}, torch.cat(states) if hidden else None
    )


def _scored(
    groups: Groups, policy: Policy, prompts: Mapping[str, Sequence[int]], *, hidden: bool
) -> Iterator[tuple[ScoredGroup, torch.Tensor]]:
    for problem, completions in zip(groups.problems, completions_of(groups), strict=True):
        flat = torch.tensor([i for completion in completions for i in completion], device=policy.model.device)
        yield policy.score(prompts[problem], completions, hidden=hidden), flat


def completions_of(groups: Groups) -> list[list[list[int]]]:
    """Returns the token ids of the completions of each problem."""
    of: list[list[list[int]]] = [[] for _ in groups.problems]
    for q, ids in zip(groups.problem_S, np.split(groups.ids_N, np.cumsum(groups.length_S)[:-1]), strict=True):
        of[int(q)].append(ids.tolist())
    return of
