"""Copies of decode states to their tracking slots."""

import torch
from sglang_marconi.cpu.tracking import track_mamba_states_all_layers, track_mamba_states_if_needed

SOURCE = torch.tensor([1, 2, -1, 4])
TARGET = torch.tensor([5, 6, 7, -1])


def pools() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, 8, 2, 3), torch.randn(3, 8, 2, 4, 5)


def test_marked_rows_are_copied_in_every_layer() -> None:
    mask = torch.tensor([False, True, True, True])
    ours = pools()
    track_mamba_states_all_layers(*ours, SOURCE, mask, TARGET, 4, check_freed_slots=True)
    for pool, before in zip(ours, pools(), strict=True):
        before[:, 6] = before[:, 2]
        assert torch.equal(pool, before)


def test_one_layer_and_rows_beyond_the_batch() -> None:
    mask = torch.tensor([True, True, True, True])
    conv, ssm = pools()
    track_mamba_states_if_needed(conv[1], ssm[1], SOURCE, mask, TARGET, 1)
    for pool, before in zip((conv, ssm), pools(), strict=True):
        before[1, 5] = before[1, 1]
        assert torch.equal(pool, before)


def test_nothing_marked_changes_nothing() -> None:
    ours = pools()
    track_mamba_states_all_layers(*ours, SOURCE, torch.zeros(4, dtype=torch.bool), TARGET, 4)
    assert all(torch.equal(a, b) for a, b in zip(ours, pools(), strict=True))
