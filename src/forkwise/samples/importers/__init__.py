"""Importers: files of other tools in, shards of the samples table out.

An importer of your own has the three names of `Importer`. `register` makes it known to this process; an entry point of
the group `forkwise.importers` makes it known to `forkwise import`.
"""

from __future__ import annotations

from forkwise.samples.importers.base import Importer, Options, Row, Source, Undecided, parse_columns
from forkwise.samples.importers.reader import Record
from forkwise.samples.importers.run import FORMATS, FileReport, RunReport, all_formats, import_files, register

__all__ = [
    "FORMATS",
    "FileReport",
    "Importer",
    "Options",
    "Record",
    "Row",
    "RunReport",
    "Source",
    "Undecided",
    "all_formats",
    "import_files",
    "parse_columns",
    "register",
]
