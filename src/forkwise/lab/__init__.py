"""The embedded lab: a small reasoning model, how it was made, and the quickstart that trains it."""

from __future__ import annotations

from forkwise.embedded import EMBEDDED_MODEL as BASE_MODEL

__all__ = ["BASE_MODEL"]
