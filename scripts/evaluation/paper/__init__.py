"""The evaluation of the Marconi paper (arXiv 2411.19379), run again on the simulator."""

from evaluation.paper.page import draw_paper
from evaluation.paper.run import run_paper

__all__ = ["draw_paper", "run_paper"]
