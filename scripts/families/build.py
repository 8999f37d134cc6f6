"""Writes the files of a small model: a config and a tokenizer; a server makes up its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_tokenizer

from families.family import Family
from families.table import FAMILIES

_CONTEXT = 65536
# Where a model with a vision model around it has its own config.
_LANGUAGE_MODEL = ("text_config", "llm_config")
_IMAGES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen3VLProcessor",
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 65536, "longest_edge": 1048576},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def build_family(path: Path, name: str) -> Path:
    """Write the model of the family with that name into the directory ``path``; returns it.

    Raises:
        KeyError: there is no such family.
    """
    return build_model(path, FAMILIES[name])


def build_model(path: Path, family: Family) -> Path:
    """Write a model of ``family`` into the directory ``path``; returns it."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer.build_tokenizer()
    tiny_tokenizer.save_tokenizer(tokenizer, path, _CONTEXT)
    shared = {
        "dtype": "float32",
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": _CONTEXT,
        "pad_token_id": tokenizer.token_to_id(tiny_tokenizer.PAD),
        "bos_token_id": tokenizer.token_to_id(tiny_tokenizer.BOS),
        "eos_token_id": tokenizer.token_to_id(tiny_tokenizer.EOS),
    }
    part = next((key for key in _LANGUAGE_MODEL if key in family.config), None)
    if part:
        text = {**shared, **family.config[part]}
        config = {**family.config, "dtype": shared["dtype"], part: text}
    else:
        config = {**shared, **family.config}
    _write(path / "config.json", config)
    if family.vision:
        _write(path / "preprocessor_config.json", _IMAGES)
        videos = {**_IMAGES, "video_processor_type": "Qwen3VLVideoProcessor"}
        _write(path / "video_preprocessor_config.json", videos)
    return path


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
