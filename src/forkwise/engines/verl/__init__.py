"""verl's plugin: verl imports this package at the end of `import verl`, and that registers all (see `plugin`)."""

from forkwise.engines.verl.plugin import MODES, registration_errors

__all__ = ["MODES", "registration_errors"]
