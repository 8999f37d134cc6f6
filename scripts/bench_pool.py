"""Times the checkpoint kernels beside torch's gather and scatter, SGLang's int8 pool and a copy.

    python scripts/bench_pool.py --json pool.json

For each model and number of states: microseconds, and GB/s of what the operation must read and
write. `of copy` compares these with a plain copy of as many exact states in the same run. On a GPU
every repeat is timed with events after the L2 cache was overwritten. Without one, the torch
implementation runs on the CPU with two layers of each model; this shows that the script works, not
how fast the kernels are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
import triton
from marconi_kernels import Encoding, StateLayout, StatePart, clear, load, reencode, store
from rich.console import Console
from rich.table import Table

# Layers, convolution windows (bfloat16) and recurrent state (float32) of one rank, as SGLang's
# config classes give them.
MODELS: dict[str, tuple[int, list[tuple[int, ...]], tuple[int, ...]]] = {
    "nemotron-h-8b": (24, [(10240, 3)], (128, 64, 128)),
    "nemotron-nano-9b-v2": (27, [(12288, 3)], (128, 80, 128)),
    "falcon-h1-7b": (44, [(3584, 3)], (24, 128, 256)),
    "granite-4.0-h-small": (36, [(8448, 3)], (128, 64, 128)),
    "qwen3-next-80b-a3b": (36, [(8192, 3)], (32, 128, 128)),
    "kimi-linear-48b-a3b": (20, [(3, 12288)], (32, 128, 128)),
}
CPU_LAYERS, CPU_STATES = 2, 4
L2_BYTES = 256 << 20
# Half a millisecond at 2 GHz, and 32: what takes longer to launch waits for the device itself.
FIRST_SLEEP_CYCLES, LONGEST_SLEEP_CYCLES = 1 << 20, 1 << 26


class Timing(NamedTuple):
    """One row: `moved` bytes are read or written in `microseconds`, or why there is none."""

    model: str
    states: int
    operation: str
    microseconds: float
    moved: int
    note: str = ""

    @property
    def gigabytes_per_second(self) -> float:
        return self.moved / self.microseconds / 1e3


class Clock:
    """Medians of repeated calls.

    On a GPU the device sleeps before the first event, for as long as the host needs to launch
    the call: between the events is then the device's work alone, however slowly it is launched.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self._device, self._repeats = device, repeats
        self._sleep_cycles = FIRST_SLEEP_CYCLES
        self._l2 = torch.empty(L2_BYTES if device.type == "cuda" else 0, dtype=torch.uint8,
                               device=device)  # fmt: skip

    def microseconds(self, call: Callable[[], object]) -> float:
        once = self._on_gpu if self._device.type == "cuda" else self._on_cpu
        # The first call compiles.
        call()
        self._sleep_cycles = FIRST_SLEEP_CYCLES
        for _ in range(2):
            once(call)
        return statistics.median(once(call) for _ in range(self._repeats))

    def _on_gpu(self, call: Callable[[], object]) -> float:
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        while True:
            self._l2.zero_()
            torch.cuda._sleep(self._sleep_cycles)  # type: ignore[no-untyped-call]
            start.record()
            call()
            end.record()
            launched_in_time = not start.query()  # type: ignore[no-untyped-call]
            end.synchronize()
            if launched_in_time or self._sleep_cycles >= LONGEST_SLEEP_CYCLES:
                return float(start.elapsed_time(end)) * 1e3
            self._sleep_cycles *= 2

    def _on_cpu(self, call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e6


class Setup:
    """A model's active tensors with `states` slots in use, and pages for as many, twice over."""

    def __init__(self, model: str, states: int, device: torch.device) -> None:
        layers, windows, temporal = MODELS[model]
        self.model, self.states, self.device = model, states, device
        parts = [StatePart(shape, torch.bfloat16, False) for shape in windows]
        parts.append(StatePart(temporal, torch.float32, True))
        self.layout = StateLayout(layers if device.type == "cuda" else CPU_LAYERS, parts)
        self.active = [
            torch.empty(self.layout.layers, states + 1, *part.shape, dtype=part.dtype,
                        device=device).normal_()
            for part in parts
        ]  # fmt: skip
        self.slots = torch.randperm(states, device=device) + 1
        pages = states * self.layout.max_pages
        self.pages = torch.zeros(
            2 * pages, self.layout.page_bytes, dtype=torch.uint8, device=device
        )
        order = torch.randperm(2 * pages, device=device).int()
        self.rows, self.others = order.view(2, states, -1).unbind()

    @staticmethod
    def bytes_needed(model: str, states: int) -> int:
        """About what a setup and the buffers of the peers take."""
        layers, windows, temporal = MODELS[model]
        parts = [StatePart(shape, torch.bfloat16, False) for shape in windows]
        parts.append(StatePart(temporal, torch.float32, True))
        return 7 * (states + 1) * StateLayout(layers, parts).state_bytes

    def rows_of_ours(self, clock: Clock) -> Iterator[Timing]:
        layout, states = self.layout, self.states
        exact = states * layout.state_bytes
        here = (self.active, self.slots, self.pages, self.rows)
        for encoding in Encoding:
            moved = exact + states * layout.encoded_bytes(encoding)
            encodings = torch.full_like(self.slots, int(encoding), dtype=torch.int32)
            stores = partial(store, *here, encoding, layout)
            loads = partial(load, *here, encodings, layout)
            yield self._timed(clock, f"store {encoding.name}", moved, stores)
            yield self._timed(clock, f"load {encoding.name}", moved, loads)
        store(*here, Encoding.EXACT, layout)
        for target in (Encoding.BF16, Encoding.INT8, Encoding.FP8):
            moved = sum(states * layout.encoded_bytes(e) for e in (Encoding.EXACT, target))
            call = partial(
                reencode, self.pages, self.rows, Encoding.EXACT, self.others, target, layout
            )
            yield self._timed(clock, f"reencode to {target.name}", moved, call)
        yield self._timed(clock, "clear", exact, partial(clear, self.active, self.slots, layout))

    def rows_of_torch(self, clock: Clock) -> Iterator[Timing]:
        moved = 2 * self.states * self.layout.state_bytes
        source = torch.empty(moved // 2, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        yield self._timed(clock, "copy", moved, partial(target.copy_, source))
        gathered = [tensor[:, 1:].contiguous() for tensor in self.active]

        def gather() -> None:
            for tensor, out in zip(self.active, gathered, strict=True):
                torch.index_select(tensor, 1, self.slots, out=out)

        def scatter() -> None:
            for tensor, values in zip(self.active, gathered, strict=True):
                tensor.index_copy_(1, self.slots, values)

        yield self._timed(clock, "torch index_select", moved, gather)
        yield self._timed(clock, "torch index_copy_", moved, scatter)

    def rows_of_sglang(self, clock: Clock) -> Iterator[Timing]:
        try:
            from sglang.srt.mem_cache.mamba_checkpoint_pool import MambaCheckpointPool
        except ImportError as error:
            yield Timing(self.model, self.states, "SGLang int8", 0, 0, f"not here: {error}")
            return
        *convs, temporal = self.active
        heads, rows, columns = temporal.shape[2:]
        pool = MambaCheckpointPool(
            num_layers=self.layout.layers,
            num_slots=self.states,
            num_heads=heads,
            head_v_dim=rows,
            head_k_dim=columns,
            conv_shapes=[tuple(conv.shape[2:]) for conv in convs],
            conv_dtype=torch.bfloat16,
            device=str(self.device),
            temporal_dtype=torch.float32,
        )
        active = SimpleNamespace(mamba_cache=SimpleNamespace(conv=convs, temporal=temporal))
        kept = torch.arange(1, self.states + 1, device=self.device)
        moved = self.states * (self.layout.state_bytes + self.layout.encoded_bytes(Encoding.INT8))
        yield self._timed(clock, "SGLang int8 store", moved,
                          partial(pool.store_from_active, active, self.slots, kept))  # fmt: skip
        yield self._timed(clock, "SGLang int8 load", moved,
                          partial(pool.load_to_active, active, kept, self.slots))  # fmt: skip

    def _timed(
        self, clock: Clock, operation: str, moved: int, call: Callable[[], object]
    ) -> Timing:
        return Timing(self.model, self.states, operation, clock.microseconds(call), moved)


def measure(models: Sequence[str], counts: Sequence[int], device: torch.device, repeats: int,
            console: Console) -> Iterator[Timing]:  # fmt: skip
    clock = Clock(device, repeats)
    for model in models:
        for states in counts:
            if device.type == "cuda" and (
                Setup.bytes_needed(model, states) > torch.cuda.mem_get_info()[0]
            ):
                console.print(f"{model}: too little free memory for {states} states")
                continue
            setup = Setup(model, states, device)
            timings = [
                *setup.rows_of_torch(clock),
                *setup.rows_of_sglang(clock),
                *setup.rows_of_ours(clock),
            ]
            console.print(table_of(timings))
            yield from timings
            del setup
            if device.type == "cuda":
                torch.cuda.empty_cache()


def table_of(timings: Sequence[Timing]) -> Table:
    copy = next(timing for timing in timings if timing.operation == "copy")
    table = Table(title=f"{copy.model}, {copy.states} states, {copy.moved / 2e6:.1f} MB")
    table.add_column("operation")
    for column in ("us", "GB/s", "of copy"):
        table.add_column(column, justify="right")
    for timing in timings:
        if timing.note:
            table.add_row(timing.operation, timing.note)
            continue
        speed = timing.gigabytes_per_second
        table.add_row(
            timing.operation,
            f"{timing.microseconds:.1f}",
            f"{speed:.1f}",
            f"{speed / copy.gigabytes_per_second:.0%}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--states", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=20, help="calls timed, for the median")
    parser.add_argument("--json", type=Path, help="file to write the record to")
    arguments = parser.parse_args()
    console = Console()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    console.print(f"{name}, torch {torch.__version__}, triton {triton.__version__}")
    counts = arguments.states
    if device.type == "cpu":
        counts = sorted({min(count, CPU_STATES) for count in counts})
        console.print(f"No GPU: torch on the CPU, {CPU_LAYERS} layers, {counts} states.")
    timings = list(measure(arguments.models, counts, device, arguments.repeats, console))
    if arguments.json:
        record = {
            "device": name,
            "torch": torch.__version__,
            "triton": triton.__version__,
            "repeats": arguments.repeats,
            "timings": [timing._asdict() for timing in timings],
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
