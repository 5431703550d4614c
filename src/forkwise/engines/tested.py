"""The engines that forkwise has a hook for, and how it was tested with them; docs/engines.md has every feature."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from packaging.specifiers import SpecifierSet

_SOURCES = "from its sources"


class TestedEngine(NamedTuple):
    """An engine.

    Attributes:
        name: as its makers write it.
        package: the distribution.
        part: a folder or file of it by which it is known, since others have packages of these names too.
        tested: with what, and how.
        releases: those that it was tested with, as specifiers of which one must fit; none where there are no releases.
    """

    name: str
    package: str
    part: str
    tested: str
    releases: tuple[str, ...] = ()

    def version(self) -> str | None:
        """Returns the version that can be imported here, without importing it; None if there is none.

        "from its sources" is that of a checkout on the path.
        """
        package, _, part = self.part.partition("/")
        spec = find_spec(package)
        places = spec.submodule_search_locations if spec else None
        if not any((Path(place) / part).exists() for place in places or ()):
            return None
        try:
            return version(self.package)
        except PackageNotFoundError:
            return _SOURCES

    def says(self) -> str:
        """Returns the installed version, what was tested, and whether with that version; "" if there is none here."""
        release = self.version()
        if release is None:
            return ""
        text = f"{self.name} {release}; tested: {self.tested}"
        known = release == _SOURCES or any(SpecifierSet(some).contains(release, True) for some in self.releases)
        return text if known else f"{text}. Not with this version"

    def requires(self) -> list[str]:
        """Returns the requirements of the installed distribution, none if it is not here."""
        try:
            return requires(self.package) or [] if self.version() else []
        except PackageNotFoundError:
            return []


ENGINES = (
    TestedEngine(
        "TRL",
        "trl",
        "trl/trainer",
        "whole runs with 1.9 to 1.16; asynchronous GRPO with 1.16",
        (">=1.9,<1.17,!=1.15.0",),
    ),
    TestedEngine(
        "verl",
        "verl",
        "verl/trainer",
        "whole runs on CPUs with 0.9.1; the patches for older ones with 0.7.1",
        ("==0.9.1", "==0.7.1"),
    ),
    TestedEngine("slime", "slime", "slime/backends", "its own loss, at 624b824a; its rollout hook on a stand-in"),
    TestedEngine("vime", "vime", "vime/backends", "read: its interface is slime's"),
    TestedEngine("miles", "miles", "miles/backends", "its loss hook, on a stand-in for its interface"),
    TestedEngine("AReaL", "areal", "areal/trainer", "its own loss, update and tracker, of 1.0.4", ("==1.0.4",)),
    TestedEngine(
        "Unsloth",
        "unsloth",
        "unsloth/models",
        "its own loss, of unsloth_zoo 2026.10.9; its hook in TRL",
        ("==2026.10.9",),
    ),
    TestedEngine(
        "ms-swift",
        "ms-swift",
        "swift/rlhf_trainers",
        "its own loss, and whole runs on CPUs, with 4.6.0",
        ("==4.6.0",),
    ),
    TestedEngine(
        "OpenRLHF", "openrlhf", "openrlhf/trainer", "its own training step and loss, with 0.11.2", ("==0.11.2",)
    ),
    TestedEngine("ROLL", "roll", "roll/pipeline", "its own loss, at 8eb27cc2, RLVR pipeline"),
    TestedEngine(
        "prime-rl", "prime-rl", "prime_rl/trainer", "its own loss with the lines of the page Engines, at 559b4477"
    ),
    TestedEngine("NeMo-RL", "nemo-rl", "nemo_rl/algorithms", "its own loss, at 7ea279ab"),
    TestedEngine(
        "tinker-cookbook",
        "tinker-cookbook",
        "tinker_cookbook/rl",
        "surprisal only, on data of tinker 0.38.0; the cookbook was read",
        ("==0.6.1",),
    ),
)
