"""Makes SGLang's in-process kits build our cache with our component."""

from __future__ import annotations

import pytest
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.test.kits.unified_radix_cache import fixtures
from sglang_marconi.cache.mamba_component import MarconiMambaComponent
from sglang_marconi.cache.radix_cache import MarconiRadixCache


def build_marconi_cache(params: CacheInitParams) -> MarconiRadixCache:
    """What the kits call in place of SGLang's ``UnifiedRadixCache``."""
    params.component_registry_override = {
        **(params.component_registry_override or {}),
        ComponentType.MAMBA: MarconiMambaComponent,
    }
    return MarconiRadixCache(params=params)


@pytest.fixture(autouse=True)
def marconi_in_the_kits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tree that a kit builds is ours, on the CPU."""
    monkeypatch.setattr(fixtures, "UnifiedRadixCache", build_marconi_cache)
    monkeypatch.setattr(fixtures, "get_device", lambda: "cpu")
