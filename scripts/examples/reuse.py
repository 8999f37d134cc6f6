"""What the examples share: the server's address, and a line that says what was reused."""

from __future__ import annotations

import argparse

from openai.types import CompletionUsage


def server_url(purpose: str | None) -> str:
    """The root URL of the server named on the command line."""
    parser = argparse.ArgumentParser(
        description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="default: %(default)s")
    url: str = parser.parse_args().url
    return url.rstrip("/")


def report(what: str, cached_tokens: int, prompt_tokens: int) -> None:
    """Print how much of a prompt was not computed again."""
    print(f"{what}: {cached_tokens} of {prompt_tokens} prompt tokens reused", flush=True)


def report_usage(what: str, usage: CompletionUsage | None) -> None:
    """The same from an OpenAI answer; its details are there with ``--enable-cache-report``."""
    assert usage is not None, "ask for the usage"
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    report(what, cached or 0, usage.prompt_tokens)
