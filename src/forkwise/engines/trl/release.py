"""Which TRL is installed, and whether it can be used."""

from __future__ import annotations

import trl
from packaging.version import Version

from forkwise.engines.base import Host

TRL = Version(trl.__version__)
if Version("1.9") > TRL:
    raise ImportError(f"forkwise.engines.trl needs trl>=1.9, found {TRL}: pip install 'forkwise[train]'")

HOST = Host("TRL", f"trl {TRL}", "docs/trl.md", "alpha", "set alpha=0 for plain GRPO")
not_shaped = HOST.not_shaped
