"""Waiting for what other processes do, and for their end."""

import time
from pathlib import Path

PATIENCE = 30.0


def until(condition, step=lambda: time.sleep(0.01)):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        step()


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
