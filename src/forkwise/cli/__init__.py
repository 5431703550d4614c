"""The `forkwise` command, one file per command; `root` puts them together."""

from forkwise.cli.root import app, main, run

__all__ = ["app", "main", "run"]
