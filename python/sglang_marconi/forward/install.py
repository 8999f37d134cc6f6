"""The operations that states are taken from, put in place in a process that serves a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_marconi.forward import cca, delta, graphs, jet, layers, lightning, ple, scan, windows
from sglang_marconi.seams import Seam, hook
from sglang_marconi.seams import forward as seams

_TAKERS: tuple[tuple[Seam, Callable[..., Any]], ...] = (
    (seams.LAYER_STATES, layers.note_layer),
    (seams.CAN_RUN_GRAPH, graphs.can_run_graph),
    (seams.CONVOLVE, windows.take_windows),
    (seams.CONVOLVE_TRITON, windows.take_windows),
    (seams.SCAN, scan.take_scanned),
    (seams.SCAN_STATES, scan.take_in_rounds),
    (seams.CONVOLVE_GATED, windows.take_gated_windows),
    (seams.CONVOLVE_CCA, cca.take_convolved),
    (seams.CONVOLVE_EMBEDDINGS, ple.take_embedded),
    (seams.COMMIT_NGRAMS, ple.take_ngrams),
    (seams.EXTEND_GDN, delta.take_gdn),
    (seams.EXTEND_KDA, delta.take_kda),
    (seams.LIGHTNING, lightning.take_lightning),
    (seams.JET_WINDOWS, jet.take_jet_windows),
    (seams.JET, jet.take_jet),
)


def install() -> None:
    """Hook all of them; `sglang_marconi.seams.apply_hooks` is still to be called."""
    for seam, taker in _TAKERS:
        hook(seam, taker)
