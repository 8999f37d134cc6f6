"""The recurrence of Mamba2 over a packed batch, chunk by chunk, in plain torch.

One head of the layer keeps a state ``S`` of shape ``(headdim, dstate)`` and for each token does

    S_t = exp(dt_t * A) * S_{t-1} + dt_t * x_t B_t^T        y_t = S_t C_t

A run of tokens that shares one incoming state ("piece" below) needs no loop over tokens: its
outputs are one masked matrix product inside the piece plus one product with the incoming state,
and its outgoing state is one more product (block decomposition of the semiseparable matrix,
arXiv 2405.21060, section 6). Only the pieces themselves are visited in order.

Everything is computed in float32. The running sum of ``dt * A`` inside a piece is kept in float64
because the products need differences of it: where a few large steps come first, the float32 sum
would already have lost the digits that the later, small differences consist of.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Tokens per piece at most. Work inside a piece grows with its length, work at its borders shrinks.
PIECE_TOKENS = 64
# Elements of the largest temporary, (pieces, heads, tokens, tokens): bounds the memory taken.
BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class PackedScan:
    """What one pass over a packed batch gives.

    Attributes:
        y: ``(tokens, nheads, headdim)`` float32, without the ``D`` and gate terms.
        ends: ``(pieces,)`` int64, ascending: how many tokens of the batch lie before each
            piece's end.
        states: ``(pieces, nheads, headdim, dstate)`` float32, the state at each of those ends.
        starts: ``(sequences,)`` int64, where each sequence starts.
        initial: ``(sequences, nheads, headdim, dstate)`` float32, the state it starts from.
    """

    y: Tensor
    ends: Tensor
    states: Tensor
    starts: Tensor
    initial: Tensor

    def state_at(self, sequence: Tensor, position: Tensor) -> Tensor:
        """States of given sequences after the batch's first ``position`` tokens.

        Args:
            sequence: ``(n,)`` integers, rows of the batch.
            position: ``(n,)`` integers. Each is the start of its sequence or an end of one of its
                pieces; the caller asked for such a cut.

        Returns:
            ``(n, nheads, headdim, dstate)`` float32.

        Raises:
            ValueError: a position is no cut of this scan.
        """
        sequence, position = sequence.long(), position.long()
        untouched = self.starts[sequence] == position
        if not len(self.ends):
            if not bool(untouched.all()):
                raise ValueError("no state: the batch is empty")
            return self.initial[sequence]
        piece = torch.searchsorted(self.ends, position).clamp_(max=len(self.ends) - 1)
        missing = (self.ends[piece] != position) & ~untouched
        if bool(missing.any()):
            raise ValueError(f"no piece ends at token {position[missing].tolist()}")
        found = self.states[piece]
        found[untouched] = self.initial[sequence[untouched]]
        return found


def scan_packed(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    bounds: Tensor,
    initial: Tensor | None = None,
    extra_cuts: Tensor | None = None,
    grid: int = PIECE_TOKENS,
) -> PackedScan:
    """Run the recurrence over sequences laid end to end.

    Args:
        x: ``(tokens, nheads, headdim)``, any float dtype.
        dt: ``(tokens, nheads)``, the step sizes as they are used (bias, softplus and limits
            already applied).
        A: ``(nheads,)``, negative for a state that decays.
        B, C: ``(tokens, ngroups, dstate)``; consecutive ``nheads / ngroups`` heads share a group.
        bounds: ``(sequences + 1,)`` integers, ascending from 0 to ``tokens``. A sequence may be
            empty.
        initial: ``(sequences, nheads, headdim, dstate)`` or None for zeros.
        extra_cuts: positions (integers within the batch) that shall be ends of pieces too.
        grid: multiples of it in the batch are ends of pieces.

    Returns:
        A :class:`PackedScan`; pieces end at every sequence's end, at every multiple of ``grid``
        and at every extra cut.

    Raises:
        ValueError: shapes do not belong together.
    """
    tokens, nheads, headdim = x.shape
    dstate = B.shape[2]
    _check_shapes(x, dt, A, B, C, bounds)
    sequences = len(bounds) - 1
    bounds = bounds.long()
    if initial is None:
        initial = x.new_zeros(sequences, nheads, headdim, dstate, dtype=torch.float32)
    else:
        initial = initial.float()
    starts, ends, owner = _cut(bounds, tokens, grid, extra_cuts)
    pieces = len(starts)
    states = torch.empty(pieces, nheads, headdim, dstate, dtype=torch.float32, device=x.device)
    y = torch.empty(tokens, nheads, headdim, dtype=torch.float32, device=x.device)
    result = PackedScan(y=y, ends=ends, states=states, starts=bounds[:-1], initial=initial)
    if not pieces:
        return result

    width = int((ends - starts).max())
    # A row of zeros behind the last token: what the short pieces are filled up with. Filling from
    # the neighbouring sequence instead would let its NaNs through.
    x, B, C = (torch.nn.functional.pad(t.float(), (0, 0, 0, 0, 0, 1)) for t in (x, B, C))
    dt = torch.nn.functional.pad(dt.float(), (0, 0, 0, 1))
    rows = starts[:, None] + torch.arange(width, device=starts.device)
    real = rows < ends[:, None]
    rows = torch.where(real, rows, tokens)
    continues = torch.zeros(pieces, dtype=torch.bool)
    continues[1:] = owner[1:] == owner[:-1]

    per_block = max(1, BLOCK_ELEMENTS // (nheads * width * width))
    for first in range(0, pieces, per_block):
        block = slice(first, min(first + per_block, pieces))
        part = _Block(x[rows[block]], dt[rows[block]], A, B[rows[block]], C[rows[block]])
        entering = part.contribution()
        for i, (piece, goes_on) in enumerate(
            zip(range(block.start, block.stop), continues[block].tolist(), strict=True)
        ):
            before = states[piece - 1] if goes_on else initial[owner[piece]]
            torch.addcmul(entering[i], before, part.decay_whole[i], out=states[piece])
            entering[i] = before
        first_token, last_token = int(starts[block.start]), int(ends[block.stop - 1])
        y[first_token:last_token] = part.output(entering)[real[block]]
    return result


def states_inside(
    scan: PackedScan,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    sequence: Tensor,
    position: Tensor,
) -> Tensor:
    """States of given sequences after the batch's first ``position`` tokens, at any of theirs.

    From the last end of a piece on, where the position is no cut: to ask changes nothing of what
    the scan itself gives.

    Args:
        scan: what `scan_packed` gave for ``x, dt, A, B``, in the shapes that it takes them in.
        sequence, position: ``(n,)`` integers, each position one of its sequence, its start and its
            end included.

    Returns:
        ``(n, nheads, headdim, dstate)`` float32.
    """
    sequence, position = sequence.long(), position.long()
    pieces = torch.searchsorted(scan.ends, position, right=True)
    # A sequence's start is a cut as well, at which its initial state is the one to go on from.
    first = torch.nn.functional.pad(scan.ends, (1, 0))[pieces]
    inside = first > scan.starts[sequence]
    states = scan.initial[sequence]
    states[inside] = scan.states[pieces[inside] - 1]
    width = int((position - first).max()) if len(position) else 0
    if not width:
        return states
    rows = first[:, None] + torch.arange(width, device=first.device)
    real = rows < position[:, None]
    rows = torch.where(real, rows, 0)
    # The step of what fills a short one up is zero, and so is the rest: 0 * NaN would be NaN.
    x, dt, B = (
        torch.where(real.view(*real.shape, *[1] * (t.dim() - 1)), t[rows].float(), 0.0)
        for t in (x, dt, B)
    )
    part = _Block(x, dt, A, B, B)
    return torch.addcmul(part.contribution(), states, part.decay_whole)


def _check_shapes(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, bounds: Tensor) -> None:
    tokens, nheads, _ = x.shape
    expected = {"dt": (tokens, nheads), "A": (nheads,), "C": tuple(B.shape)}
    for name, tensor in (("dt", dt), ("A", A), ("C", C)):
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {expected[name]}")
    if B.shape[0] != tokens or nheads % B.shape[1]:
        raise ValueError(f"B has shape {tuple(B.shape)} for {tokens} tokens and {nheads} heads")
    if int(bounds[0]) != 0 or int(bounds[-1]) != tokens:
        raise ValueError(f"bounds {bounds.tolist()} do not cover {tokens} tokens")


def _cut(
    bounds: Tensor, tokens: int, grid: int, extra: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, ends and owning sequence of the pieces of a batch, in order."""
    marks = [bounds, torch.arange(0, tokens + 1, min(grid, PIECE_TOKENS), device=bounds.device)]
    if grid > PIECE_TOKENS:
        marks.append(torch.arange(0, tokens + 1, grid, device=bounds.device))
    if extra is not None:
        marks.append(extra.to(bounds))
    edges = torch.unique(torch.cat(marks))
    starts, ends = edges[:-1], edges[1:]
    # Of several sequences that start here, all but the last are empty and own no piece.
    owner = torch.searchsorted(bounds, starts, right=True) - 1
    return starts, ends, owner


class _Block:
    """Some pieces, filled up to one length, and the products that they need.

    Shapes: ``n`` pieces, ``q`` tokens each, ``g`` groups of ``r`` heads, ``p`` = headdim,
    ``s`` = dstate. Filled-up tokens have ``dt = 0``, so they neither decay nor add anything.
    """

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.n, self.q, self.heads, self.p = x.shape
        self.g, self.s = B.shape[2:]
        self.steps = dt[..., None] * x  # n q h p
        self.B = B.transpose(1, 2)  # n g q s
        self.C = C.transpose(1, 2)
        self.log_decay = (dt.double() * A.double()).cumsum(1)  # n q h
        self.decay_whole = self.log_decay[:, -1].exp().float()[..., None, None]  # n h 1 1

    def contribution(self) -> Tensor:
        """What each piece adds to the state at its end: ``n h p s``."""
        to_end = (self.log_decay[:, -1:] - self.log_decay).exp().float()
        weighted = (self.steps * to_end[..., None]).view(self.n, self.q, self.g, -1)
        added = torch.matmul(weighted.permute(0, 2, 3, 1), self.B)
        return added.view(self.n, self.heads, self.p, self.s)

    def output(self, entering: Tensor) -> Tensor:
        """``n q h p``, for the states ``n h p s`` that the pieces start from."""
        incoming = entering.view(self.n, self.g, -1, self.s).transpose(-1, -2)
        carried = torch.matmul(self.C, incoming).transpose(1, 2)
        carried = carried.reshape(self.n, self.q, self.heads, self.p)
        carried *= self.log_decay.exp().float()[..., None]
        return carried.add_(self._within())

    def _within(self) -> Tensor:
        """The part of the output that stems from tokens of the same piece: ``n q h p``."""
        log_decay = self.log_decay.transpose(1, 2)
        between = (log_decay[..., :, None] - log_decay[..., None, :]).float()
        # Masked before the exponential: above the diagonal it would overflow, and inf * 0 is NaN.
        later = torch.ones(self.q, self.q, dtype=torch.bool, device=between.device).triu_(1)
        weights = between.masked_fill_(later, float("-inf")).exp_()
        scores = torch.matmul(self.C, self.B.transpose(-1, -2))  # n g q q
        weights = weights.view(self.n, self.g, -1, self.q, self.q).mul_(scores[:, :, None])
        weights = weights.view(self.n, self.heads, self.q, self.q)
        return torch.matmul(weights, self.steps.transpose(1, 2)).transpose(1, 2)
