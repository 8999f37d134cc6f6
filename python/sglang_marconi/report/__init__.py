"""Plots and report of a trace replay, made from its record files alone: `write.write_report`."""
