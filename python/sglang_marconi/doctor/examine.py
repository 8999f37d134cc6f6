"""All checks, in the order in which they are shown."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from sglang_marconi.compatibility import BACKEND
from sglang_marconi.cost.load import ModelSpecError, load_config
from sglang_marconi.doctor.findings import CHECKS, Finding
from sglang_marconi.doctor.installation import installation
from sglang_marconi.doctor.model import model_findings
from sglang_marconi.doctor.options import (
    SETTINGS_REMEDY,
    Options,
    read_options,
    read_settings,
)
from sglang_marconi.settings.schema import Settings, SettingsError, describe_settings

_SERVER_CHECKS = (sys.executable, "-P", "-m", "sglang_marconi.doctor.server")
_TIMEOUT = 120.0
_EVICTION = {"auto": "predicted reuse", "marconi": "the paper's utility"}


def examine(
    model: str | None, arguments: Sequence[str], environment: Mapping[str, str]
) -> list[Finding]:
    """Check the installation, and the server that SGLang's ``arguments`` would start.

    ``model`` is what ``--model-path`` takes, unless the arguments have it. Nothing is raised:
    what goes wrong is a finding.
    """
    if model is not None:
        arguments = ["--model-path", model, *arguments]
    options = read_options(arguments)
    found = {finding.check: finding for finding in _here(options, environment)}
    found |= {finding.check: finding for finding in _in_server(arguments, environment)}
    rows = sorted(found.values(), key=_place)
    return [*rows, _outcome(rows, options, arguments)]


def _place(finding: Finding) -> tuple[int, bool]:
    """The second and later ones of a check are numbered; refused options follow the arguments."""
    check = finding.check.partition(",")[0]
    return CHECKS.index(check if check in CHECKS else "arguments"), check not in CHECKS


def _here(options: Options, environment: Mapping[str, str]) -> Iterator[Finding]:
    """What is known without SGLang."""
    yield from installation(environment)
    settings = Settings()
    try:
        settings = read_settings(options.settings).settings
    except SettingsError as error:
        yield Finding("settings", "problem", str(error), SETTINGS_REMEDY)
    else:
        yield Finding("settings", "ok", _changed(settings))
    if options.model is None:
        return
    try:
        config = load_config(options.model)
    except ModelSpecError:
        pass  # A name that only SGLang can look up.
    else:
        yield from model_findings(config, settings)
    if options.backend not in (None, BACKEND):
        found = f"--radix-cache-backend {options.backend} is not this one"
    elif options.backend is None:
        found = "SGLang's own cache would serve; what follows is checked with this backend"
    else:
        yield Finding("backend", "ok", BACKEND)
        return
    yield Finding("backend", "warning", found, f"pass --radix-cache-backend {BACKEND}")


def _changed(settings: Settings) -> str:
    """What is not as it is by default."""
    changed = {
        setting.key: value
        for setting in describe_settings()
        if (value := getattr(settings, setting.key)) != setting.default
    }
    return msgspec.json.encode(changed).decode() if changed else "the defaults"


def _in_server(arguments: Sequence[str], environment: Mapping[str, str]) -> list[Finding]:
    """What a process that imports SGLang finds, and how it ended if not by itself."""
    how = None
    try:
        ended = subprocess.run(
            [*_SERVER_CHECKS, *arguments],
            capture_output=True,
            timeout=_TIMEOUT,
            env=dict(environment),
            check=False,
        )
        out, err = ended.stdout, ended.stderr
        if ended.returncode < 0:
            how = f"ended by {signal.Signals(-ended.returncode).name}"
        elif ended.returncode:
            how = f"ended with status {ended.returncode}"
    except subprocess.TimeoutExpired as error:
        out, err = error.stdout or b"", error.stderr or b""
        how = f"not done after {_TIMEOUT:.0f} s"
    findings = [msgspec.json.decode(line, type=Finding) for line in out.splitlines()]
    if how is not None:
        said = err.decode(errors="replace").strip().splitlines()
        last = f": {said[-1]}" if said else ""
        findings.append(
            Finding("SGLang", "problem", f"its checks {how}{last}", "reinstall SGLang and torch")
        )
    return findings


def _outcome(rows: Sequence[Finding], options: Options, arguments: Sequence[str]) -> Finding:
    problems = [finding.check for finding in rows if finding.status == "problem"]
    if problems:
        server = "this server" if options.model else "a server with this backend"
        return Finding("outcome", "problem", f"{server} would not start: {', '.join(problems)}")
    if options.model is None:
        return Finding("outcome", "ok", "ready; name a model to have its server checked")
    settings = read_settings(options.settings).settings
    eviction = _EVICTION[settings.policy]
    if settings.policy == "marconi":
        tuned = "tuned while serving" if settings.alpha is None else f"{settings.alpha:g}"
        eviction += f", alpha {tuned}"
    chosen = () if options.backend == BACKEND else ("--radix-cache-backend", BACKEND)
    return Finding(
        "outcome",
        "ok",
        f"`sglang serve {shlex.join([*arguments, *chosen])}` keeps a state at branch points and "
        f"last tokens, and evicts by {eviction}",
    )
