"""Evaluations on the simulator: the paper's, and ours beside other policies."""
