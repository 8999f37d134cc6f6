"""Which prefixes of a request get a recurrent-state checkpoint.

Marconi (arXiv 2411.19379, section 4.1) admits two kinds: the *branch point*, where
a prompt leaves what the tree already holds, found by inserting the prompt
speculatively before its prefill; and the *last decoded token*, where the next
turn of the same conversation resumes. Positions are token counts from the start
of the prompt: a checkpoint at ``n`` is the state after the first ``n`` tokens.

An example, with KV pages of one token: an assistant's system prompt has 800 tokens. ``*`` is a
checkpoint, the numbers are depths::

    0 -- system prompt -- 800 * --+-- A, first turn -- 900 * -- A, second turn -- 1000 *
                                  |
                                  +-- B -- 890 *

>>> from sglang_marconi.cost import preset
>>> cost = preset("paper-7b")

*A* asks 40 tokens more: a prompt of 840. The tree is empty, so there is nothing to branch off
from. 61 tokens are decoded, the last of which the model has not read: the state that is left
stands for 900 tokens, and is kept.

>>> branch_point(PrefixMatch(shared_tokens=0, resumable_tokens=0, branches=False), 1, cost)
>>> last_token(known_tokens=900, state_tokens=900, page_size=1)
900

*B* asks something else, a prompt of 860. It shares the KV of 800 tokens with A, but no state stands
there and a state cannot be cut: B reuses nothing. Now that two prompts have it in common, the
system prompt is worth a checkpoint. So B's prefill leaves the state at 800 on its way to 860; 31
tokens are decoded, and the state at 890 is kept.

>>> branch_point(PrefixMatch(shared_tokens=800, resumable_tokens=0, branches=True), 1, cost)
800
>>> last_token(known_tokens=890, state_tokens=890, page_size=1)
890

*A* comes back with a second turn, a prompt of 950. It resumes at 900, all that the tree has of it,
and nothing parts there. After 51 tokens more there is a state at 1,000.

>>> branch_point(PrefixMatch(shared_tokens=900, resumable_tokens=900, branches=False), 1, cost)
>>> last_token(known_tokens=1000, state_tokens=1000, page_size=1)
1000

From now on each prompt with this system prompt reuses 800 tokens, and leaves one checkpoint, at
its end: the one at 800 is there. With KV pages of 64 tokens it would be at the last whole one,
and what does not end with a KV page leaves none.

>>> branch_point(PrefixMatch(shared_tokens=800, resumable_tokens=800, branches=True), 1, cost)
>>> branch_point(PrefixMatch(shared_tokens=800, resumable_tokens=0, branches=True), 64, cost)
768
>>> last_token(known_tokens=900, state_tokens=900, page_size=64)
"""

from __future__ import annotations

from typing import NamedTuple

from sglang_marconi.cost import ModelCost

LEAST_SAVING = 0.1
"""What a hit on a branch point has to save, as a part of what any pass takes."""


class PrefixMatch(NamedTuple):
    """What the tree holds of a prompt.

    ``shared_tokens`` is the length of the longest prefix whose KV is in the tree,
    ``resumable_tokens`` the depth of the deepest checkpoint on that path (0 without
    one); both in tokens, ``resumable_tokens <= shared_tokens``. ``branches``: the tree goes
    on otherwise where the shared prefix ends, or will, as a request is still running there;
    without it the prompt only continues what an ended request left.
    """

    shared_tokens: int
    resumable_tokens: int
    branches: bool


def branch_point(match: PrefixMatch, page_size: int, cost: ModelCost) -> int | None:
    """The prefix length at which this prompt's prefill should leave a checkpoint, in tokens.

    A second prompt that shares a prefix proves the prefix worth keeping, so the
    state is taken exactly where the two part, or at the last whole KV page before it.
    ``None`` where a checkpoint already stands there or so near that another is not worth its
    room, and where none part: what continues a conversation whose last state was evicted is
    served by its own end.
    """
    at = match.shared_tokens // page_size * page_size
    if not match.branches or at <= match.resumable_tokens:
        return None
    return at if is_worth_its_room(match.resumable_tokens, at, cost) else None


def is_worth_its_room(above: int, at: int, cost: ModelCost, passes: float = 0.0) -> bool:
    """Whether a hit on a checkpoint at ``at`` saves enough to be noticed.

    ``above``: the depth of the nearest checkpoint above it in tokens, 0 without one; a hit saves
    the FLOPs from there on. A pass reads all weights, however few tokens it computes. A hit that
    saves less than a tenth of that time does not show, but its state takes the room of another,
    which eviction by recency lets it keep. With 16-bit weights the minimum is some 30 tokens for
    any model: what a pass takes and what a token does both grow with the weights.

    ``passes``: those that the hit has to pay for, as the prefill is cut for the state. Branch
    points and what an application declares have many hits: ten pay for a pass, so that it is not
    counted.
    """
    return cost.prefill_flops(above, at) >= (LEAST_SAVING + passes) * cost.pass_flops


def chunk_end(start: int, end: int, branch: int | None) -> int:
    """Where a prefill of tokens ``[start, end)`` stops so that it ends on ``branch``.

    For models whose kernels give out no state inside a pass: theirs can be kept only where a
    pass ends, so a prefill that would run over the branch point is continued in the next one.
    """
    return branch if branch is not None and start < branch < end else end


def last_token(known_tokens: int, state_tokens: int, page_size: int) -> int | None:
    """The prefix a finished request's own state stands for, if it can be kept.

    ``known_tokens`` is how much of prompt and reply may enter the tree,
    ``state_tokens`` how many tokens the live state has consumed. ``None`` where the
    state is ahead of what may be kept, or not on a boundary of KV pages.
    """
    exact = known_tokens == state_tokens and state_tokens % page_size == 0
    return state_tokens if exact and state_tokens > 0 else None
