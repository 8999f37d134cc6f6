"""Dummy weights: the same for the same model, of real spread, decays that decay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sglang_marconi.cpu.dummy_weights import finish_language_model, initialize_dummy_weights
from torch import nn


class GemmaRMSNorm(nn.RMSNorm):
    """Known by its name: one that multiplies by one more than its weight."""


class Mixer(nn.Module):
    """Parameters with the names that SGLang's layers give them."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj = nn.Linear(400, 100)
        self.norm = nn.RMSNorm(100)
        self.centred_norm = GemmaRMSNorm(100)
        self.A = nn.Parameter(torch.zeros(100))
        self.A_log = nn.Parameter(torch.zeros(1, 1, 100, 1))
        self.D = nn.Parameter(torch.zeros(100))
        self.dt_bias = nn.Parameter(torch.zeros(100))
        self.res_scale = nn.Parameter(torch.zeros(100))
        self.experts = nn.Parameter(torch.zeros(4, 100, 400, dtype=torch.bfloat16))
        self.embed_tokens = nn.Embedding(100, 50)
        self.register_buffer("cos_sin_cache", torch.zeros(10))
        self.register_buffer("slots", torch.zeros(10, dtype=torch.int64))


def drawn(seed: int = 1234) -> Mixer:
    model = Mixer()
    initialize_dummy_weights(model, seed=seed)
    return model


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = drawn().state_dict(), drawn().state_dict(), drawn(seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["in_proj.weight"], other["in_proj.weight"])


def test_a_product_keeps_the_size_of_what_it_is_given() -> None:
    model = drawn()
    for weight in (model.in_proj.weight, model.experts.float()):
        # Close to the root of one over the inputs, in all of its parts.
        spread = weight.std(dim=-1) * 400**0.5
        assert spread.min() > 0.7 and spread.max() < 1.3
    assert 0.9 < model.embed_tokens.weight.std() < 1.1
    for factor in (model.norm.weight, model.D, model.res_scale):
        assert (factor - 1).abs().max() <= 0.1
        assert factor.std() > 0.03


def test_a_norm_around_zero_stays_around_zero() -> None:
    weight = drawn().centred_norm.weight
    assert weight.std() > 0.03 and weight.abs().max() <= 0.1


def test_states_decay_and_differently_fast() -> None:
    model = drawn()
    for rate in (model.A_log.exp().flatten(), -model.A):
        assert 1 <= rate.min() < 3 and 14 < rate.max() <= 16
    steps = nn.functional.softplus(model.dt_bias)
    assert steps.min() * 1.001 >= 1e-3 and steps.max() <= 0.1001
    assert steps.max() / steps.min() > 30


def test_what_the_model_computes_itself_stays() -> None:
    model = drawn()
    assert not model.cos_sin_cache.any()
    assert not model.slots.any()


def test_a_wrapper_is_finished_as_its_language_model_is() -> None:
    class Language(nn.Module):
        finished = 0

        def post_load_weights(self) -> None:
            self.finished += 1

    class Wrapper(nn.Module):
        post_load_weights: Callable[[], None]

        def __init__(self) -> None:
            super().__init__()
            self.model = Language()

    wrapper = Wrapper()
    finish_language_model(None, wrapper)
    wrapper.post_load_weights()
    assert wrapper.model.finished == 1
