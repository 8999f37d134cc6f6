"""Types of command-line arguments, and the arguments that several commands have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sglang_marconi.units import parse_bytes

_TOKENS = {"": 1, "K": 1024, "M": 1024**2}


def byte_size(text: str) -> int:
    """Such as 2GB, which is 2 * 10^9 bytes."""
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def token_count(text: str) -> int:
    """Such as 32k, which is 32 * 1024 tokens, as context lengths are named."""
    number = text.rstrip("KMkm")
    factor = _TOKENS.get(text[len(number) :].upper())
    if factor is None or not (number.isascii() and number.isdecimal()) or int(number) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of tokens; 32k is one (32 * 1024), 32000 too"
        )
    return int(number) * factor


def positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json, for traces of text")


def add_latency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--latency", type=Path, help="JSON array of [tokens computed, seconds to first token]"
    )


def add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=count, default=os.cpu_count() or 1, help="processes; default: all cores"
    )
