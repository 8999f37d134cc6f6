"""States of any shapes, dtypes and strides."""

from __future__ import annotations

import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_states import POISON, Pages, active_tensors, bits, encodings_of
from marconi_kernels import Encoding, StateLayout, StatePart, load, store
from torch import Tensor

SLOTS = 4
# Compiled, each example has kernels of its own, which take seconds.
EXAMPLES = 12 if torch.cuda.is_available() else 60

shapes = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)
own_layers = st.none() | st.integers(1, 3)
windows = st.builds(
    StatePart,
    shapes,
    st.sampled_from(
        [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.int64]
    ),
    st.just(False),
    own_layers,
)


@st.composite
def parts_of_a_state(draw: st.DrawFn) -> list[StatePart]:
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    lossy_shapes = st.lists(st.integers(1, 140), min_size=1, max_size=2).map(tuple)
    lossy_shapes |= shapes
    lossy = st.builds(StatePart, lossy_shapes, st.just(dtype), st.just(True), own_layers)
    return draw(st.lists(windows | lossy, min_size=1, max_size=4))


def spread(tensor: Tensor, gap: int, device: torch.device) -> Tensor:
    """A copy whose slots lie `gap` elements apart, the layers of a slot side by side."""
    layers, slots, *shape = tensor.shape
    size = math.prod(shape)
    pitch = layers * size + gap
    storage = torch.zeros(slots * pitch + 1, dtype=tensor.dtype, device=device)
    inner = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    view = storage.as_strided(tensor.shape, (size, pitch, *inner))
    view.copy_(tensor)
    return view


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    parts=parts_of_a_state(),
    layers=st.integers(1, 3),
    page_bytes=st.none() | st.integers(32, 100).map(lambda units: 16 * units),
    gap=st.integers(0, 5),
    encoding=st.sampled_from(Encoding),
    slots=st.permutations(range(SLOTS)),
    count=st.integers(0, SLOTS),
)
def test_stored_and_loaded(
    device: torch.device,
    parts: list[StatePart],
    layers: int,
    page_bytes: int | None,
    gap: int,
    encoding: Encoding,
    slots: list[int],
    count: int,
) -> None:
    layout = StateLayout(layers, parts, page_bytes)
    plain = active_tensors(parts, layers, SLOTS, 7)
    active = [spread(tensor, gap, device) for tensor in plain]
    pages = Pages.of(layout, count, device)
    chosen = torch.tensor(slots[:count], dtype=torch.int64, device=device)
    store(active, chosen, *pages, encoding, layout)
    assert (pages.buffer[~pages.touched(layout, encoding)] == POISON).all()

    restored = [spread(torch.zeros_like(tensor), gap, device) for tensor in plain]
    encodings = encodings_of([encoding] * count, device)
    load(restored, chosen, *pages, encodings, layout)
    for before, after, part in zip(active, restored, parts, strict=True):
        here, there = before[:, slots[:count]], after[:, slots[:count]]
        if not part.lossy or encoding == Encoding.EXACT:
            assert torch.equal(bits(here), bits(there))
        else:
            # Half a step of INT8 is 1/254 of the largest of a group; half a step of FP8 is 1/16 of
            # the element, or less than that of INT8.
            largest = float(here.abs().max()) if here.numel() else 0.0
            torch.testing.assert_close(there, here, rtol=0.063, atol=largest / 250)
        assert not after[:, slots[count:]].any()
