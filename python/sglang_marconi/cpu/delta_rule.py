"""The gated delta rule over a packed batch, piece by piece, in plain torch.

One head keeps a state ``S`` of shape ``(V, K)`` and for each token does

    S = S_{t-1} decay_t      u_t = beta_t (v_t - S k_t)      S_t = S + u_t k_t^T      y_t = S_t q_t

where the decay is a number per head (gated DeltaNet, arXiv 2412.06464, section 3) or one per key
channel (Kimi Delta Attention, arXiv 2510.26692, section 3).

What a token writes, ``u``, depends on what earlier ones wrote. Inside a piece of up to 64 tokens
that is one triangular system for all of them (WY representation and UT transform, both papers),
in which the state before the piece stays a parameter. So all pieces and heads are solved at once,
and only the pieces' states are visited in order.

Everything is computed in float32. Sums of log decays are float64 because the products need
differences of them: behind a strong decay a float32 sum would have lost the digits of a weak one.
No exponent is positive: a weight between two tokens is the exponential of the difference itself,
or a product of two, from each token to a boundary between them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Tokens per piece: the spacing of the states that SGLang's kernels return.
PIECE_TOKENS = 64
# Elements of the largest temporary, (pieces, heads, tokens, 2, tokens): bounds the memory taken.
BLOCK_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class PackedDelta:
    """What one pass over a packed batch gives, all of it float32.

    Attributes:
        output: ``(tokens, HV, V)``; zeros behind the last sequence.
        final: ``(sequences, HV, V, K)``, the state at each sequence's end.
        entering: ``(pieces, HV, V, K)``, the state before each piece, a sequence's pieces in order
            and one sequence after the other.
        pieces: ``(sequences,)`` int64, how many pieces each sequence has.
    """

    output: Tensor
    final: Tensor
    entering: Tensor
    pieces: Tensor


def scan_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    bounds: Tensor,
    initial: Tensor,
) -> PackedDelta:
    """Run the recurrence over sequences laid end to end.

    Args:
        q, k: ``(tokens, H, K)``, any float dtype, as they are used (normalised, scaled);
            consecutive ``HV / H`` value heads share a head.
        v: ``(tokens, HV, V)``.
        log_decay: ``(tokens, HV)`` or ``(tokens, HV, K)``, not positive.
        beta: ``(tokens, HV)``.
        bounds: ``(sequences + 1,)`` integers from 0, ascending, ``tokens`` at most. A sequence may
            be empty.
        initial: ``(sequences, HV, V, K)``.

    Returns:
        A :class:`PackedDelta`; each sequence is cut every 64 of its own tokens.
    """
    tokens, heads, value_dim = v.shape
    lengths = bounds.diff().long()
    order = _Order(bounds[:-1].long(), lengths)
    output = v.new_zeros(tokens, heads, value_dim, dtype=torch.float32)
    states = initial[order.longest_first].float()
    entering = states.new_empty(len(order.starts), *states.shape[1:])
    # A row of zeros behind the last token: what short pieces are filled up with. A token of zeros
    # neither decays nor adds anything; the neighbouring sequence's would let its NaNs through.
    q, k, v, log_decay, beta = (
        F.pad(t.float(), (0, 0) * (t.dim() - 1) + (0, 1)) for t in (q, k, v, log_decay, beta)
    )
    width = 1 << (int(lengths.clamp(max=PIECE_TOKENS).max()) - 1).bit_length() if tokens else 1
    per_block = max(1, BLOCK_ELEMENTS // (2 * heads * width * width))
    for steps in order.blocks(per_block):
        block = slice(steps[0].start, steps[-1].stop)
        rows = order.starts[block, None] + torch.arange(width, device=v.device)
        real = rows < order.ends[block, None]
        rows = torch.where(real, rows, tokens)
        part = _Block(q[rows], k[rows], v[rows], log_decay[rows], beta[rows])
        part.visit(states, entering[block], [s.stop - s.start for s in steps])
        output[rows[real]] = part.output(entering[block]).transpose(1, 2)[real]

    final = torch.empty_like(states)
    final[order.longest_first] = states
    in_sequence = torch.empty_like(entering)
    in_sequence[order.place] = entering
    return PackedDelta(output, final, in_sequence, order.pieces)


def step_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, states: Tensor
) -> Tensor:
    """One token of each sequence; the states move on in place.

    Args:
        q, k: ``(sequences, H, K)`` float32.
        v: ``(sequences, HV, V)``, any float dtype.
        log_decay: ``(sequences, HV)`` or ``(sequences, HV, K)`` float32, not positive.
        beta: ``(sequences, HV)`` float32.
        states: ``(sequences, HV, V, K)`` float32, contiguous.

    Returns:
        The output, ``(sequences, HV, V)`` float32.
    """
    count, groups, key_dim = q.shape
    decay = log_decay.exp()
    states.mul_(decay[:, :, None, None] if decay.dim() == 2 else decay[:, :, None])
    grouped = states.view(count, groups, -1, key_dim)  # the heads that share a key below each other
    read_k, read_q = torch.matmul(grouped, torch.stack((k, q), -1)).unbind(-1)
    written = (v - read_k.view(v.shape)).mul_(beta[..., None]).view(read_q.shape)
    grouped.addcmul_(written[..., None], k[:, :, None])
    # The new state need not be read: it differs by the write, which q sees through k.
    return torch.addcmul(read_q, written, (q * k).sum(-1, keepdim=True)).view(v.shape)


class _Order:
    """Where the pieces of a batch lie, and when each is visited: all first ones, all second ones...

    With the longest sequences first, those that have an n-th piece are the first few.
    """

    def __init__(self, begin: Tensor, lengths: Tensor) -> None:
        self.pieces = (lengths + PIECE_TOKENS - 1) // PIECE_TOKENS
        self.longest_first = torch.argsort(self.pieces, descending=True, stable=True)
        owner = torch.repeat_interleave(self.pieces)
        number = torch.arange(len(owner), device=begin.device)
        number -= (self.pieces.cumsum(0) - self.pieces)[owner]
        turn = torch.empty_like(self.longest_first)
        turn[self.longest_first] = torch.arange(len(turn), device=begin.device)
        # In the order of visits: which piece of the batch, its first token, and behind its last.
        self.place = torch.argsort(number * len(lengths) + turn[owner])
        owner, number = owner[self.place], number[self.place]
        self.starts = begin[owner] + number * PIECE_TOKENS
        self.ends = torch.minimum(self.starts + PIECE_TOKENS, (begin + lengths)[owner])
        self._alive = torch.bincount(number).tolist()

    def blocks(self, pieces: int) -> list[list[slice]]:
        """The pieces visited at each step, and as many steps together as have so many pieces."""
        blocks: list[list[slice]] = []
        first = 0
        for alive in self._alive:
            step = slice(first, first + alive)
            if blocks and step.stop - blocks[-1][0].start <= pieces:
                blocks[-1].append(step)
            else:
                blocks.append([step])
            first = step.stop
        return blocks


class _Block:
    """Some pieces, filled up to one length, solved for whatever states they start from.

    Shapes: ``n`` pieces, ``h`` value heads, ``w`` tokens each (a power of two), ``K``, ``V``.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> None:
        shared = v.shape[2] // k.shape[2]
        q, k = (t.transpose(1, 2).repeat_interleave(shared, 1) for t in (q, k))  # n h w K
        v, beta = v.transpose(1, 2), beta.transpose(1, 2)[..., None]
        passed = log_decay.transpose(1, 2).double().cumsum(2)  # from the piece's start: n h w (K)
        if log_decay.dim() == 3:
            scores = _scores_by_head(q, k, passed)
            passed = passed[..., None]
        else:
            scores = _scores_by_channel(q, k, passed)
        self._attention, system = scores.unbind(3)  # n h w w
        since_start = passed.float().exp_()
        to_end = (passed[:, :, -1:] - passed).float().exp_()
        wanted = torch.cat([v, k * since_start], -1).mul_(beta)
        solved = torch.linalg.solve_triangular(
            system * beta, wanted, upper=False, unitriangular=True
        )
        self._written, self._forgotten = solved.tensor_split([v.shape[-1]], -1)
        self._queries = q * since_start
        self._keys = k * to_end
        self._decay = since_start[:, :, -1:]  # n h 1 (1 or K)

    def visit(self, states: Tensor, entering: Tensor, alive: list[int]) -> None:
        """Take the states through the pieces.

        Args:
            states: ``(sequences, h, V, K)``, moved on in place.
            entering: ``(n, h, V, K)``, receives the state before each piece.
            alive: how many of the sequences have a piece in each step.
        """
        first = 0
        writes = []
        for count in alive:
            step = slice(first, first + count)
            first += count
            before = entering[step].copy_(states[:count])
            written = self._written[step] - self._forgotten[step] @ before.transpose(-1, -2)
            torch.addcmul(
                written.transpose(-1, -2) @ self._keys[step],
                before,
                self._decay[step],
                out=states[:count],
            )
            writes.append(written)
        self._written = torch.cat(writes)

    def output(self, entering: Tensor) -> Tensor:
        """``n h w V``, once the pieces were visited."""
        carried = self._queries @ entering.transpose(-1, -2)
        return carried.add_(self._attention @ self._written)


def _scores_by_head(q: Tensor, k: Tensor, passed: Tensor) -> Tensor:
    """Products of each token's query and key with earlier keys, as far as these have not decayed.

    Args:
        q, k: ``(n, h, w, K)``.
        passed: ``(n, h, w)`` float64, the sum of the log decays up to and with each token.

    Returns:
        ``(n, h, w, 2, w)``: for the query, then for the key. Zero for later keys.
    """
    width = q.shape[2]
    both = torch.stack((q, k), 3)
    products = (both.flatten(2, 3) @ k.transpose(-1, -2)).view(*q.shape[:3], 2, width)
    between = (passed[..., :, None] - passed[..., None, :]).float()
    later = torch.ones(width, width, dtype=torch.bool, device=q.device).triu_(1)
    between = between.masked_fill_(later, float("-inf")).exp_()
    return products.mul_(between[:, :, :, None])


def _scores_by_channel(q: Tensor, k: Tensor, passed: Tensor) -> Tensor:
    """:func:`_scores_by_head` where each channel decays by itself: ``passed`` is ``(n, h, w, K)``.

    The decay between two tokens is then inside the sum over channels, and the product of decays
    since the start and until the end of the piece would overflow. But halving the piece again and
    again, each pair of tokens is parted once: there, both decay towards the boundary.
    """
    n, heads, width, key_dim = q.shape
    both = torch.stack((q, k), 3)
    scores = q.new_zeros(n, heads, width, 2, width)
    scores[:, :, :, 0].diagonal(0, -2, -1).copy_((q * k).sum(-1))
    half = width // 2
    while half:
        parts = (width // half // 2, 2, half)
        sums = passed.view(n, heads, *parts, key_dim)
        decay = (sums - sums[:, :, :, :1, -1:]).abs_().neg_().float().exp_()
        later = both.view(n, heads, *parts, 2, key_dim)[:, :, :, 1] * decay[:, :, :, 1, :, None]
        earlier = k.view(n, heads, *parts, key_dim)[:, :, :, 0] * decay[:, :, :, 0]
        products = later.flatten(3, 4) @ earlier.transpose(-1, -2)  # n h parts half*2 half
        # Of the blocks of the scores, those whose rows and columns lie in the same part.
        blocks = scores.view(n, heads, *parts, 2, *parts).diagonal(0, 2, 6)[:, :, 1, :, :, 0]
        blocks.copy_(products.view(n, heads, -1, half, 2, half).permute(0, 1, 3, 4, 5, 2))
        half //= 2
    return scores
