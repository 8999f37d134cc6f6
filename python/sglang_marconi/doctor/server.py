"""The checks that need torch and SGLang.

``python -m sglang_marconi.doctor.server SGLANG-ARGUMENTS`` writes each finding as a line of JSON
as soon as it is made, so that what was found before a crash is not lost.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sglang_marconi import units
from sglang_marconi.compatibility import (
    BACKEND,
    REFUSALS,
    UnsupportedConfiguration,
    attention_ranks,
    cuts_prefills,
)
from sglang_marconi.cost import ModelCost, UnsupportedModelError, from_config
from sglang_marconi.cost.sglang_pools import SGLANG_RATIO
from sglang_marconi.doctor.findings import Finding, Status
from sglang_marconi.doctor.memory import Plan, memory_finding
from sglang_marconi.doctor.model import model_findings
from sglang_marconi.doctor.options import SETTINGS_REMEDY, read_options
from sglang_marconi.seams import SEAMS, IncompatibleSGLang, Seam, seam_differences
from sglang_marconi.settings.schema import Settings, SettingsError, parse_settings

_CPU_ARGUMENTS = (
    *("--device", "cpu"),
    *("--attention-backend", "torch_native"),
    *("--sampling-backend", "pytorch"),
)
_REINSTALL = "reinstall it: pip install --force-reinstall"
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
_KV_BYTES = {"bfloat16": 2, "bf16": 2, "float16": 2, "float32": 4}

Say = Callable[[Finding], None]


class _Stopped(Exception):
    """A check failed on which the later ones stand; it was reported."""


class _Device(NamedTuple):
    """Where a server would run: torch's name of the device.

    ``stands_in`` are arguments for a CPU, to check the others where the accelerator that they
    ask for is missing.
    """

    kind: str
    stands_in: tuple[str, ...] = ()


def main() -> None:
    """Write findings to standard output, and all else that SGLang prints to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def say(finding: Finding) -> None:
            out.write(msgspec.json.encode(finding) + b"\n")
            out.flush()

        check_server(sys.argv[1:], say)


def check_server(arguments: Sequence[str], say: Say) -> None:
    """Report on the device, SGLang's seams and, if arguments name a model, on its server."""
    try:
        device = _check_device(arguments, say)
        registered = _check_loader(say)
        _check_seams(say)
        if registered and read_options(arguments).model is not None:
            _check_arguments([*arguments, *device.stands_in], device, say)
    except _Stopped:
        pass


def _check_device(arguments: Sequence[str], say: Say) -> _Device:
    with _stage(say, "torch", f"{_REINSTALL} torch"):
        import torch

        options = read_options(arguments)
        if torch.cuda.is_available() and options.device in (None, "cuda"):
            free, total = torch.cuda.mem_get_info(0)
            found = f"{torch.cuda.get_device_name(0)}, {units.byte_size(free)} free"
            say(Finding("device", "ok", f"{found} of {units.byte_size(total)}"))
            return _Device("cuda")
        other = torch.accelerator.current_accelerator(check_available=True)
        if options.device == "cpu":
            if other is None:
                say(Finding("device", "ok", "the CPU, with our recurrent operations"))
            else:
                say(
                    Finding(
                        "device",
                        "warning",
                        f"the CPU, beside {other.type}, where our recurrent operations stay out",
                        "omit --device cpu, or hide the accelerator: CUDA_VISIBLE_DEVICES=''",
                    )
                )
            return _Device("cpu")
        if other is not None:
            say(Finding("device", "ok", f"{other.type}, on which this backend was not tried"))
            return _Device(other.type)
    if options.file is not None:
        say(Finding("device", "ok", f"no accelerator; {options.file} may say --device"))
        return _Device("cpu")
    status: Status = "warning" if options.model is None else "problem"
    say(
        Finding(
            "device",
            status,
            "no accelerator that torch sees; the rest is checked as far as it goes without",
            f"drivers and a torch build for the accelerator, or pass {' '.join(_CPU_ARGUMENTS)}",
        )
    )
    return _Device("cpu", _CPU_ARGUMENTS)


def _check_loader(say: Say) -> bool:
    """Whether SGLang loaded the plugin, and the plugin found SGLang to fit."""
    with _stage(say, "loader", f"{_REINSTALL} sglang"):
        from sglang.srt.mem_cache.registry import registered_radix_cache_backends
        from sglang.srt.plugins import load_plugins

        load_plugins()
        if BACKEND not in registered_radix_cache_backends():
            say(
                Finding(
                    "loader",
                    "problem",
                    f"SGLang's plugin loader did not register the backend {BACKEND}",
                    "see the rows above and below, and SGLang's log at its start",
                )
            )
            return False
    say(Finding("loader", "ok", f"SGLang's plugin loader registered the backend {BACKEND}"))
    return True


def _check_seams(say: Say) -> None:
    differences = list(seam_differences(_seams_here()))
    if not differences:
        say(Finding("seams", "ok", "every function of SGLang that is patched is as expected"))
    for number, difference in enumerate(differences, 1):
        check = "seams" if number == 1 else f"seams, {number}"
        say(Finding(check, "problem", str(difference), "install the SGLang that is supported"))


def _seams_here() -> tuple[Seam, ...]:
    import torch

    if torch.accelerator.is_available():
        return SEAMS
    from sglang_marconi.cpu import replacements

    return *SEAMS, *replacements.SEAMS


def _check_arguments(arguments: list[str], device: _Device, say: Say) -> None:
    server_args = _resolve([*arguments, "--radix-cache-backend", BACKEND], say)
    from sglang.srt.arg_groups.model_override_base import model_config_of
    from sglang.srt.arg_groups.overrides import resolving_view

    args = resolving_view(server_args)
    settings = Settings()
    try:
        settings = parse_settings(args.radix_eviction_policy_config)
    except SettingsError as error:
        say(Finding("settings", "problem", str(error), SETTINGS_REMEDY))
    for refusal in REFUSALS:
        if refusal.applies(args):
            remedy = refusal.remedy or f"omit {refusal.option}"
            say(Finding(refusal.option, "problem", str(refusal), remedy))
    resolved = getattr(server_args, "_resolution_finished", False)
    try:
        model_config = model_config_of(server_args)
    except Exception as error:
        # Where the resolution failed, it has most likely said the same.
        if resolved:
            say(Finding("model", "problem", _line(error), "check the model's path"))
        return
    ranks = attention_ranks(args)
    on_cpu = device.kind == "cpu" and not device.stands_in
    for finding in model_findings(model_config.hf_config, settings, tp_size=ranks, on_cpu=on_cpu):
        say(finding)
    if not resolved:
        return
    if not args.uses_mamba_radix_cache:
        say(
            Finding(
                "model",
                "problem",
                f"{args.model_path} has no recurrent layers that SGLang caches",
                "omit --radix-cache-backend: SGLang's own cache serves attention-only models",
            )
        )
    say(
        Finding(
            "arguments",
            "ok",
            f"SGLang takes them: --mamba-radix-cache-strategy {args.mamba_radix_cache_strategy}, "
            f"KV pages of {args.page_size} token(s), {args.tp_size} tensor-parallel rank(s)",
        )
    )
    say(_prefill_finding(model_config.hf_config))
    with _stage(say, "memory", "sglang-marconi explain MODEL"):
        try:
            cost = _cost_in_pools(args, model_config, ranks)
        except UnsupportedModelError:
            say(Finding("memory", "ok", "unknown: the model's layers have no formula"))
            return
        asked = server_args.mamba_radix_cache_strategy
        say(memory_finding(_plan(args, asked, model_config, cost, device), cost, settings))


def _prefill_finding(config: Any) -> Finding:
    if cuts_prefills(config):
        found = "cut at branch points, a pass more each: linear_backend minimax has no state inside"
        return Finding("prefills", "ok", found)
    return Finding("prefills", "ok", "leave states at branch points in passing, in any number")


def _resolve(arguments: list[str], say: Say) -> Any:
    """SGLang's arguments, after as much of their resolution as succeeds."""
    with _stage(say, "arguments", "see `sglang serve --help`"):
        from sglang.srt.server_args import prepare_server_args

        server_args = prepare_server_args(arguments)
    try:
        server_args.resolve_once()
    except (IncompatibleSGLang, SettingsError, UnsupportedConfiguration):
        pass  # Our own check after the resolution; it stops at the first of what has rows here.
    except Exception as error:
        say(Finding("arguments", "problem", f"SGLang: {_line(error)}", "change the arguments"))
    return server_args


def _cost_in_pools(args: Any, model_config: Any, ranks: int) -> ModelCost:
    """The cost with the bytes per element that the server's pools will have."""
    import torch
    from sglang.srt.configs.mamba_utils import mamba2_state_dtype

    states = mamba2_state_dtype(model_config.hf_config)
    temporal = getattr(torch, args.mamba_ssm_dtype) if args.mamba_ssm_dtype else states.temporal
    name = str(args.kv_cache_dtype)
    kv_bytes = 1 if name.startswith("fp8") else _KV_BYTES.get(name, model_config.dtype.itemsize)
    return from_config(
        model_config.hf_config,
        tp_size=ranks,
        kv_dtype_bytes=kv_bytes,
        state_dtype_bytes=temporal.itemsize,
        conv_dtype_bytes=states.conv.itemsize,
    )


def _plan(args: Any, asked: str, model_config: Any, cost: ModelCost, device: _Device) -> Plan:
    """``asked``: the strategy that was asked for."""
    from sglang.srt.arg_groups.model_override_base import mamba_extra_buffer_of
    from sglang.srt.mem_cache.allocation_sizing import get_mamba_tracking_slots
    from sglang.srt.mem_cache.kv_cache_configurator import (
        MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO,
    )
    from sglang.srt.utils import get_available_gpu_memory

    from sglang_marconi.cache.memory_split import spared_slots

    tracks, overlap = mamba_extra_buffer_of(args), not args.disable_overlap_schedule
    tracking = get_mamba_tracking_slots(extra_buffer=tracks, overlap=overlap)
    spared = 0
    if args.max_running_requests is None:
        spared = spared_slots(asked, tracks=tracks, overlap=overlap)
    free = None
    if device.kind == args.device and not device.stands_in:
        free = int(get_available_gpu_memory(device.kind, 0, empty_cache=False) * 2**30)
    in_files = _weight_bytes(Path(args.model_path))
    weights = in_files or int(cost.parameters * model_config.dtype.itemsize)
    return Plan(
        free_bytes=free,
        weight_bytes=weights // args.tp_size,
        fraction=args.mem_fraction_static,
        ratio=args.mamba_full_memory_ratio or SGLANG_RATIO,
        state_slots=args.max_mamba_cache_size,
        max_tokens=args.max_total_tokens,
        slots_per_request=MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO + tracking + spared,
        slots_in_use=1 + tracking,
        max_requests=args.max_running_requests,
    )


def _weight_bytes(folder: Path) -> int:
    """Of the first format that the model's folder has files of; 0 where it has none."""
    for pattern in _WEIGHTS:
        if size := sum(file.stat().st_size for file in folder.glob(pattern)):
            return size
    return 0


@contextmanager
def _stage(say: Say, check: str, remedy: str) -> Iterator[None]:
    """Report what goes wrong inside as a problem of ``check``, and stop there."""
    printed = StringIO()
    try:
        with redirect_stderr(printed):
            yield
    except _Stopped:
        raise
    except SystemExit as error:
        # How argparse ends; it said why before.
        said = printed.getvalue().strip().splitlines() or [str(error)]
        say(Finding(check, "problem", said[-1], remedy))
        raise _Stopped from error
    except Exception as error:
        say(Finding(check, "problem", _line(error), remedy))
        raise _Stopped from error
    finally:
        sys.stderr.write(printed.getvalue())


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


if __name__ == "__main__":
    main()
