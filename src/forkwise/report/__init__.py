"""Reports: one HTML file that needs no network, the same figures as files, and a text summary."""

from __future__ import annotations

from forkwise.report.command import write_report
from forkwise.report.content import Content, gather
from forkwise.report.figures import training_figure
from forkwise.report.page import render, write_page
from forkwise.report.sources import Source, find_source, find_sources
from forkwise.report.text import summary

__all__ = [
    "Content",
    "Source",
    "find_source",
    "find_sources",
    "gather",
    "render",
    "summary",
    "training_figure",
    "write_page",
    "write_report",
]
