"""A cache and traffic made so that alpha matters, in token ids."""

import random

from sglang_marconi.cost import token_length_cost
from sglang_marconi.tuning.messages import Finished, Setup
from sglang_marconi.tuning.prefix_hashes import PrefixHasher
from sglang_marconi.tuning.shadow import recorded

COST = token_length_cost(state_bytes=100, kv_bytes_per_token=1)
SLOTS = 8


def setup(alpha=0.0, **changes):
    """Few states and plenty of KV."""
    return Setup(
        **{
            "cost": COST,
            "state_bytes": SLOTS * COST.state_bytes,
            "kv_bytes": 1_000_000,
            "alpha": alpha,
            **changes,
        }
    )


def documents(count, *, seed=0, length=400, every=12, busy_from=None):
    """Prompt lengths and sequences: talk on a long document goes on after many short one-offs.

    LRU has lost its state by then; what weighs its length keeps it. From request ``busy_from`` on
    every other request is on a document.
    """
    draw = random.Random(seed)
    long = [[draw.randrange(50_000) for _ in range(length)] for _ in range(2)]
    turns = []
    for number in range(count):
        if busy_from is not None and number >= busy_from:
            every = 2
        if number % every == 0:
            document = long[number // every % 2]
            document += _text(draw, 5)
            prompt = len(document)
            document += _text(draw, 4)
            turns.append((prompt, list(document)))
        else:
            turns.append((20, _text(draw, 24)))
    return turns


def one_offs(count, *, seed=1):
    """Nothing comes twice."""
    draw = random.Random(seed)
    return [(100, _text(draw, 104)) for _ in range(count)]


def conversations(count, *, seed=2, sessions=12):
    """Chats that grow turn by turn, some with long messages, at different paces."""
    draw = random.Random(seed)
    texts = [_text(draw, draw.choice((10, 200))) for _ in range(sessions)]
    turns = []
    for _ in range(count):
        chosen = min(draw.randrange(sessions), draw.randrange(sessions))
        prompt = [*texts[chosen], *_text(draw, draw.choice((3, 30)))]
        texts[chosen] = [*prompt, *_text(draw, 6)]
        turns.append((len(prompt), texts[chosen]))
        if len(texts[chosen]) > 800:
            texts[chosen] = _text(draw, draw.choice((10, 200)))
    return turns


def requests(turns):
    """What the sidecar's simulator is given of them."""
    hasher = PrefixHasher()
    return [
        recorded(Finished(number, prompt, len(tokens), hasher.hash(tokens)))
        for number, (prompt, tokens) in enumerate(turns, 1)
    ]


def _text(draw, length):
    return [draw.randrange(50_000) for _ in range(length)]
