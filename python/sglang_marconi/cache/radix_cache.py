"""The tree cache that ``--radix-cache-backend marconi`` selects."""

from __future__ import annotations

from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache


class MarconiRadixCache(UnifiedRadixCache):
    """SGLang's unified radix cache with Marconi's components.

    The behaviour lives in the components (``mamba_component``) and in the cut of
    prefills at branch points (``branch_cut``); the class is what both of them, and
    an operator reading the log, recognise the backend by.
    """
