"""The report of a run: one HTML page that needs nothing but itself."""

from surgery.evaluate.report.comparison import render_comparison
from surgery.evaluate.report.page import Report, render_report
from surgery.evaluate.report.words import count, verdict

__all__ = ["Report", "count", "render_comparison", "render_report", "verdict"]
