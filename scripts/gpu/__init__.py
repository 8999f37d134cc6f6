"""Shows on a machine with a GPU that the backend is right, and what it gives: `make gpu`.

A table of steps (`steps.py`), each a program of its own with a limit; a runner (`runner.py`) that
runs one after another and writes each result as it ends (`report.py`). The runner needs the
standard library and psutil alone, so that nothing a step breaks can break it.
"""
