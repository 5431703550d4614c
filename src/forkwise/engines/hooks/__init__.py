"""Hooks for engines that take a function: one module per engine, which nothing here imports.

Each names in its first lines what to write into the engine's configuration. `docs/engines.md` says how it was tested.
"""
