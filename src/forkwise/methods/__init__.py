"""Published methods of the family, each one file: a frozen config and a pure function on whole-batch tensors."""

from forkwise.methods.base import (
    Condition,
    LossMethod,
    Method,
    Need,
    RewardMethod,
    Rollout,
    Scope,
    SettingsMethod,
    State,
    TokenMethod,
    Tokens,
)
from forkwise.methods.registry import all_methods, describe, parse_method, parse_methods, settings_of
from forkwise.methods.replay import ReplayMethod
from forkwise.methods.terms import EntropyTermMethod

__all__ = [
    "Condition",
    "EntropyTermMethod",
    "LossMethod",
    "Method",
    "Need",
    "ReplayMethod",
    "RewardMethod",
    "Rollout",
    "Scope",
    "SettingsMethod",
    "State",
    "TokenMethod",
    "Tokens",
    "all_methods",
    "describe",
    "parse_method",
    "parse_methods",
    "settings_of",
]
