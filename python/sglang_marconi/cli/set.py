"""``sglang-marconi set``."""

from __future__ import annotations

import argparse
import urllib.error
import urllib.request

import msgspec

from sglang_marconi.cli.config import pair
from sglang_marconi.settings.runtime import update_of
from sglang_marconi.settings.schema import Given, SettingsError


class NotSetError(RuntimeError):
    """The server did not do what it was asked."""


ERRORS = (SettingsError, NotSetError)

_TIMEOUT = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="URL", help="such as http://127.0.0.1:30000")
    parser.add_argument(
        "pairs",
        metavar="KEY=VALUE",
        nargs="+",
        help="policy=auto, policy=marconi, alpha=0.5 (which is the paper's policy); policy=marconi "
        "alone keeps the last alpha, or has it tuned again if the server was started so",
    )
    parser.add_argument("--api-key", metavar="KEY", help="the server's admin key, or its API key")


def run(args: argparse.Namespace) -> int:
    update = update_of(Given("set", dict(map(pair, args.pairs))))
    request = urllib.request.Request(
        f"{args.server.rstrip('/')}/set_internal_state",
        msgspec.json.encode({"server_args": update}),
        {"Content-Type": "application/json"},
    )
    if args.api_key is not None:
        request.add_header("Authorization", f"Bearer {args.api_key}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            updated = msgspec.json.decode(response.read(), type=list[bool])
    except (OSError, ValueError, urllib.error.URLError, msgspec.DecodeError) as error:
        raise NotSetError(f"{args.server}: {error}") from error
    if not all(updated):
        raise NotSetError(
            f"{args.server} refused: does it run with --radix-cache-backend marconi? "
            "Its log says why"
        )
    print(f"{args.server}: {', '.join(args.pairs)}")
    return 0
