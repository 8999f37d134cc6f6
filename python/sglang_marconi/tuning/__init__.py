"""Alpha tuned while serving, as the Marconi paper does it (arXiv 2411.19379, section 4.3).

The scheduler records each finished request and never waits; a sidecar process replays a window
of them under candidate alphas and sends back the best. `TuningClient` is the scheduler's side.
"""

from sglang_marconi.tuning.client import TuningClient

__all__ = ["TuningClient"]
