"""Importers: files of other tools in, shards of the samples table out."""

from __future__ import annotations

from forkwise.samples.importers.base import Options, parse_columns
from forkwise.samples.importers.run import FORMATS, FileReport, RunReport, all_formats, import_files

__all__ = ["FORMATS", "FileReport", "Options", "RunReport", "all_formats", "import_files", "parse_columns"]
