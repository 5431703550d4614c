"""The engines that forkwise has a hook for, and how it was tested with them; docs/engines.md has every feature."""

from __future__ import annotations

from typing import NamedTuple


class TestedEngine(NamedTuple):
    """An engine.

    Attributes:
        name: as its makers write it.
        package: the installed distribution.
        tested: with what, and how.
    """

    name: str
    package: str
    tested: str


ENGINES = (
    TestedEngine("TRL", "trl", "whole runs with 1.9 to 1.16; asynchronous GRPO with 1.16"),
    TestedEngine("verl", "verl", "whole runs on CPUs with 0.9.1"),
    TestedEngine("slime", "slime", "on a stand-in for its interface"),
    TestedEngine("vime", "vime", "on slime's interface, which it shares"),
    TestedEngine("miles", "miles", "its loss hook, on a stand-in for its interface"),
    TestedEngine("AReaL", "areal", "its own loss and tracker, of 1.0.4"),
    TestedEngine("Unsloth", "unsloth", "its own loss, of unsloth_zoo 2026.10.9; its hook in TRL"),
    TestedEngine("ms-swift", "ms-swift", "its own loss, with 4.6.0"),
    TestedEngine("OpenRLHF", "openrlhf", "its own loss, with 0.11.2"),
    TestedEngine("ROLL", "roll", "on a stand-in for its interface"),
    TestedEngine("prime-rl", "prime-rl", "on a stand-in for its interface"),
    TestedEngine("NeMo-RL", "nemo-rl", "on a stand-in for its interface"),
    TestedEngine("tinker-cookbook", "tinker-cookbook", "surprisal only, on the data of tinker 0.38.0"),
)
