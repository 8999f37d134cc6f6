"""Random weights of real spread, for models that are served without any on disk.

SGLang's own lie within 1e-3 of zero: a layer then adds next to nothing to what it was given, and
an answer hardly shows whether its state was the right one. These are drawn as models are
initialised for training, so that each layer changes the answer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

# Time steps and decays as Mamba2 draws them (arXiv 2405.21060, section 9.1, and its code): some
# heads remember a few tokens, others hundreds.
_STEPS = (1e-3, 1e-1)
_DECAYS = (1.0, 16.0)
# Keeps the best token well ahead of the second.
_HEAD_SCALE = 2.0


def initialize_dummy_weights(
    model: nn.Module, low: float = -1e-3, high: float = 1e-3, seed: int = 1234
) -> None:
    """Fill a model's parameters; the same seed and model give the same weights.

    Args:
        model: as SGLang built it, on the CPU.
        low, high: of SGLang's own weights; not used.
        seed: of the first parameter, one more for each that follows.
    """
    centred = {f"{name}.weight" for name, module in model.named_modules() if _adds_one(module)}
    for number, (name, weight) in enumerate(model.state_dict().items()):
        if torch.is_floating_point(weight) and not _is_computed(name):
            random = torch.Generator().manual_seed(seed + number)
            weight.copy_(_draw(name, weight.shape, random, around_zero=name in centred))


def finish_language_model(_result: None, model: Any, *_args: object, **_kwargs: object) -> None:
    """Let a wrapper be asked to finish loading, as its language model would be: SGLang asks where
    weights are made up. Runs after the wrapper's constructor."""
    model.post_load_weights = model.model.post_load_weights


def _is_computed(name: str) -> bool:
    """Whether the model fills it itself: the tables of rotary embeddings."""
    return "cos_sin_cache" in name or "inv_freq" in name


def _adds_one(module: nn.Module) -> bool:
    """Whether a norm multiplies by one more than its weight: Gemma's, Qwen4-Exp's, GigaChat's."""
    adds = ("GemmaRMSNorm", "GroupedGemmaRMSNorm", "Qwen4ExpPLEGroupedNorm")
    return type(module).__name__ in adds or bool(getattr(module, "zero_centered", False))


def _draw(name: str, shape: torch.Size, random: torch.Generator, *, around_zero: bool) -> Tensor:
    """Values for the parameter of that name; one that is added to one is ``around_zero``."""
    leaf = name.rpartition(".")[2]
    values = torch.empty(shape)
    if leaf == "A_log":
        return values.uniform_(*_DECAYS, generator=random).log_()
    if leaf == "A":
        return values.uniform_(*_DECAYS, generator=random).neg_()
    if leaf == "dt_bias":
        low, high = _STEPS
        steps = values.uniform_(math.log(low), math.log(high), generator=random).exp_()
        return steps.expm1().log()  # The inverse of softplus, which the model applies.
    if len(shape) < 2:
        around = 1.0 if _is_factor(name, leaf) and not around_zero else 0.0
        return values.uniform_(-0.1, 0.1, generator=random).add_(around)
    values.normal_(generator=random)
    if "embed" in name:
        return values
    scale = _HEAD_SCALE if "lm_head" in name else 1.0
    return values.mul_(scale / math.sqrt(shape[-1]))


def _is_factor(name: str, leaf: str) -> bool:
    """Whether what is multiplied by it should keep its size."""
    return "norm" in name or leaf.endswith("scale") or leaf in ("D", "temp")
