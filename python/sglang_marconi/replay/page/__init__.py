"""Plots and a page of a trace replay, made from its record files alone."""

from sglang_marconi.replay.page.write import write_report

__all__ = ["write_report"]
