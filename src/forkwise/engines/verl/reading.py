"""Reads methods out of a verl configuration. Imports neither verl nor torch."""

from __future__ import annotations

from typing import Any

from forkwise.constants import ALPHA, ALPHA_PPO, KAPPA, check_alpha, check_kappa
from forkwise.engines.verl.refusals import refuse
from forkwise.engines.verl.settings import SECTIONS, VerlSettings
from forkwise.errors import InputError, nearest
from forkwise.methods import Method, SettingsMethod, parse_methods
from forkwise.methods.entropy_advantage import EntropyAdvantage

_PAPER = f"the paper has +algorithm.entropy_shaping.alpha={ALPHA} for GRPO and {ALPHA_PPO} for PPO"


def read_settings(config: Any) -> VerlSettings:
    """Returns the settings in a whole verl configuration.

    Raises:
        InputError: keys that are missing, unknown or out of range; methods that do not exist or do not go together;
            and other settings of verl under which they would not act.
    """
    algorithm = config.algorithm
    for section, part in (("", config), ("algorithm.", algorithm)):
        if "method" in part:
            raise InputError(f"{section}method={part['method']} has no effect: write it as +algorithm.forkwise.method.")
    named, short = algorithm.get("forkwise"), algorithm.get("entropy_shaping")
    if named is not None and short is not None:
        raise InputError(
            "algorithm.entropy_shaping is the shorthand of one method; beside algorithm.forkwise write "
            "entropy_advantage:alpha=... there."
        )
    if named is not None:
        methods, settings = _named(named)
    elif short is not None:
        settings = _shorthand(short)
        methods = settings.methods
    else:
        raise InputError(f"This trainer mode needs an alpha or methods: {_PAPER}; or +algorithm.forkwise.method=[...].")
    refuse(config, settings, methods)
    return settings


def _named(section: Any) -> tuple[tuple[Method, ...], VerlSettings]:
    """Returns all methods of `algorithm.forkwise`, and the settings with those that act."""
    _check_keys("forkwise", section)
    specs = section.get("method")
    if isinstance(specs, str):
        specs = [specs]
    if specs is None or isinstance(specs, dict) or not hasattr(specs, "__iter__"):
        raise InputError(
            "algorithm.forkwise.method must be a list of methods, such as "
            "'+algorithm.forkwise.method=[\"forking_tokens:share=0.2\"]'; an empty one is verl itself."
        )
    methods = parse_methods([str(spec) for spec in specs])
    seed = section.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"algorithm.forkwise.seed must be a whole number of at least 0, not {seed!r}.")
    acting = tuple(method for method in methods if not isinstance(method, SettingsMethod))
    return methods, VerlSettings(acting, _policy("algorithm.forkwise.policy", section.get("policy", "old")), seed)


def _shorthand(section: Any) -> VerlSettings:
    """Returns the settings of `algorithm.entropy_shaping`."""
    if not hasattr(section, "get") or section.get("alpha") is None:
        raise InputError(f"This trainer mode needs an alpha: {_PAPER}.")
    _check_keys("entropy_shaping", section)
    numbers = {"alpha": section["alpha"], "kappa": section.get("kappa", KAPPA)}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"algorithm.entropy_shaping.{name} must be a number, not {value!r}.")
    check_alpha(numbers["alpha"], "algorithm.entropy_shaping.alpha")
    check_kappa(numbers["kappa"], "algorithm.entropy_shaping.kappa")
    policy = _policy("algorithm.entropy_shaping.entropy", section.get("entropy", "old"))
    return VerlSettings((EntropyAdvantage(**numbers),) if numbers["alpha"] > 0 else (), policy)


def _check_keys(section: str, keys: Any) -> None:
    known = SECTIONS[section]
    for key in keys:
        if key not in known:
            raise InputError(
                f"algorithm.{section}.{key} does not exist: the keys are {', '.join(known)}.{nearest(key, known)}"
            )


def _policy(key: str, value: object) -> str:
    if value not in ("old", "current"):
        raise InputError(f"{key} must be old or current, not {value!r}.")
    return str(value)
