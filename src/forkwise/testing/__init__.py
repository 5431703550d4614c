"""Checks that a method, an importer or an engine's adapter of yours can run on itself; forkwise runs them on its own.

Each module stands alone: `methods`, `importers`, `engines`. A check that fails raises `AssertionError` with a sentence.
"""
