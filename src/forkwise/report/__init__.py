"""Figures and the self-contained HTML page."""

from __future__ import annotations

from forkwise.report.figures import Curve, passk_figure, training_figure
from forkwise.report.page import write_page

__all__ = ["Curve", "passk_figure", "training_figure", "write_page"]
