"""What is kept for a prediction, to the policy: kinds, admission, and whose tokens they are."""

from __future__ import annotations

from itertools import product

import pytest
from sglang_marconi.policy.choice import Place
from sglang_marconi.policy.prediction import PredictedReuse, kind_of
from sglang_marconi.policy.prospects import Trail
from sglang_marconi.policy.ranking import Candidate
from sglang_marconi.policy.reuse import Kind, ReuseModel
from sglang_marconi.policy.utility import PaperUtility
from support.grove import Grove, SharedGrove

GUESSES = [Place.PROMPT, Place.BOUNDARY]
# Kinds of their own, of which nothing but what was seen of them tells.
ALONE = [kind for kind in Kind if kind > Kind.BRANCH_OFTEN]


def kept(place: Place, chance: float = 1.0) -> Grove:
    """A node whose state is kept for something, at the end of a request that goes no further."""
    grove = Grove(PredictedReuse())
    grove.insert("node", 50)
    grove.policy.keep_for(grove["node"], place, chance)
    return grove


# ---- kinds ----


@pytest.mark.parametrize(
    ("place", "chance", "kind"),
    [
        (Place.END, 1.0, Kind.END),
        (Place.END, 0.4, Kind.END),
        (Place.END, 0.39, Kind.END_UNLIKELY),
        (Place.END, 1.6, Kind.END),
        (Place.END, 1.61, Kind.END_LIKELY),
        (Place.WAITING, 1.0, Kind.WAITED),
        (Place.DECLARED, 1.0, Kind.DECLARED),
        (Place.PROMPT, 0.29, Kind.PROMPT),
        (Place.PROMPT, 0.3, Kind.PROMPT_LIKELY),
        (Place.BOUNDARY, 0.29, Kind.BOUNDARY),
        (Place.BOUNDARY, 0.3, Kind.BOUNDARY_LIKELY),
    ],
)
def test_a_new_state_is_known_by_what_it_is_kept_for(
    place: Place, chance: float, kind: Kind
) -> None:
    assert kind_of(kept(place, chance)["node"]) is kind


@pytest.mark.parametrize("place", [place for place in Place if place >= Place.WAITING])
def test_what_comes_below_a_state_that_is_not_used_tells_nothing(place: Place) -> None:
    """The prompt itself goes on below a place inside it."""
    grove = kept(place)
    before = kind_of(grove["node"])
    for end in ("a", "b"):
        grove.insert(end, 10, below="node", state=False)
        assert kind_of(grove["node"]) is before


BRANCHES = [Kind.BRANCH_ONCE, Kind.BRANCH_TWICE, Kind.BRANCH_TWICE, Kind.BRANCH_OFTEN]


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        (Place.WAITING, [Kind.WAITED] * 4),
        (Place.PROMPT, [Kind.PROMPT_USED] * 4),
        (Place.BRANCH, BRANCHES),
        (Place.DECLARED, BRANCHES),
        (Place.BOUNDARY, BRANCHES),
    ],
)
@pytest.mark.parametrize("below", [0, 1, 2])
def test_a_used_state_is_a_branch_point_however_many_prompts_are_left_of_it(
    place: Place, kinds: list[Kind], below: int
) -> None:
    """Those that went on from it may have gone since."""
    grove = kept(place, 0.2)
    for number in range(below):
        grove.insert(f"end {number}", 10, below="node", state=False)
    found = []
    for _ in range(4):
        grove.use("node")
        found.append(kind_of(grove["node"]))
    assert found == kinds


def test_a_used_end_is_what_the_tree_says() -> None:
    grove = kept(Place.END)
    grove.use("node")
    assert kind_of(grove["node"]) is Kind.END
    grove.insert("on", 10, below="node")
    assert kind_of(grove["node"]) is Kind.OUTGROWN


@pytest.mark.parametrize("chance", [0.1, 1.7])
def test_what_is_known_of_an_end_tells_more_than_a_branch_point_above_it(chance: float) -> None:
    grove = Grove(PredictedReuse())
    grove.insert("first", 100)
    grove.split("branch", 50, above="first")
    grove.insert("second", 10, below="branch", state=False)
    for name in ("branch", "second"):
        grove.policy.store_state(grove[name])
    assert kind_of(grove["second"]) is Kind.OFFSHOOT
    grove.policy.keep_for(grove["second"], Place.END, chance)
    assert kind_of(grove["second"]) is (Kind.END_LIKELY if chance > 1 else Kind.END_UNLIKELY)


def test_every_node_is_of_some_kind_and_every_kind_is_of_some_node() -> None:
    found = set()
    for place, chance, hits, below, branched, offshoot in product(
        Place, (0.0, 0.2, 0.5, 1.0, 9.0), range(6), range(3), (False, True), (False, True)
    ):
        grove = kept(place, chance)
        for number in range(below):
            grove.insert(f"end {number}", 10, below="node", state=False)
        node = grove["node"]
        node.hits, node.branched, node.offshoot = hits, branched, offshoot
        found.add(kind_of(node))
    assert found == set(Kind)


def test_a_state_that_comes_back_is_kept_for_what_it_is_stored_for_now() -> None:
    grove = kept(Place.BOUNDARY, 0.2)
    grove.drop("node")
    grove.policy.store_state(grove["node"])
    assert kind_of(grove["node"]) is Kind.END


# ---- what is learned of them ----


@pytest.mark.parametrize("kind", ALONE)
def test_what_is_seen_of_a_kind_tells_of_it_alone(kind: Kind) -> None:
    model = ReuseModel()
    for _ in range(100):
        for each in Kind:
            model.waited(each, 0.0, 3.0)
        model.used(kind, 2.0)
        model.estimate(1.0)
    rates = {each: model.rate(each, 0.0) for each in Kind}
    others = max(rate for each, rate in rates.items() if each is not kind)
    assert rates[kind] > 10 * others


def test_before_anything_is_seen_a_guess_is_worth_less_than_what_is_known() -> None:
    model = ReuseModel()
    rates = {kind: model.rate(kind, 0.0) for kind in Kind}
    for unlikely, likely in (
        (Kind.PROMPT, Kind.PROMPT_LIKELY),
        (Kind.BOUNDARY, Kind.BOUNDARY_LIKELY),
        (Kind.END_UNLIKELY, Kind.END),
        (Kind.END, Kind.END_LIKELY),
    ):
        assert rates[unlikely] < rates[likely]
    for guess in (Kind.PROMPT, Kind.PROMPT_LIKELY, Kind.BOUNDARY, Kind.BOUNDARY_LIKELY):
        assert rates[guess] <= rates[Kind.BRANCH_NEW]


# ---- which are admitted ----


def ratio(place: Place, chance: float) -> float:
    """How little it may be worth beside what goes first, to be admitted, by halving."""
    valuation = PredictedReuse()
    grove = Grove(valuation)
    grove.insert("old", 1000)
    ranking = valuation.ranking()
    ranking.place(grove["old"], Candidate(1.0, True, False))
    worth = valuation.model.rate(kind_of(kept(place, chance)["node"]), 0.0)
    first = valuation.model.rate(Kind.END, 0.0)
    low, high = 0.0, 100.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if ranking.admits(middle, place, chance) else (middle, high)
    return high * worth / first


@pytest.mark.parametrize("chance", [0.2, 0.9])
@pytest.mark.parametrize("place", GUESSES)
def test_a_guess_is_admitted_if_it_is_worth_what_goes_for_it(place: Place, chance: float) -> None:
    assert ratio(place, chance) == pytest.approx(1.0)


@pytest.mark.parametrize("place", [place for place in Place if place not in GUESSES])
def test_what_is_known_is_admitted_for_a_third_of_that(place: Place) -> None:
    """What nobody has used yet is worth a guess, and never comes in otherwise."""
    assert ratio(place, 1.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize("chance", [0.2, 0.9])
@pytest.mark.parametrize("place", GUESSES)
def test_a_guess_displaces_nothing_that_is_better_known(place: Place, chance: float) -> None:
    for grove in (Grove(PredictedReuse()), SharedGrove(PredictedReuse())):
        grove.insert("hot", 1000)
        for end in ("a", "b"):
            grove.insert(f"hot, {end}", 10, below="hot", state=False)
        grove.policy.withdraw_leaf(grove["hot, a"])
        grove.policy.withdraw_leaf(grove["hot, b"])
        for _ in range(100):
            grove.use("hot")
        assert not grove.policy.admits_inside(0, 1000, place, chance)
        assert grove.policy.admits_inside(0, 1_000_000, place, chance)


def test_the_paper_admits_all() -> None:
    """And predicts nothing, as it could not tell a guess from what is known."""
    assert PredictedReuse.weighs_guesses and not PaperUtility.weighs_guesses
    grove = Grove(PaperUtility(1.0))
    grove.insert("old", 1000)
    assert grove.policy.admits_inside(0, 2, Place.BOUNDARY, 0.1)


def test_an_end_is_weighed_by_how_likely_it_is() -> None:
    grove = SharedGrove(PredictedReuse())
    grove.insert("old", 1000)
    saves = next(
        tokens for tokens in range(1, 2000) if grove.policy.admits_end(0, tokens, 0, chance=1.0)
    )
    assert grove.policy.admits_end(0, saves - saves // 3, 0, chance=2.0)
    assert not grove.policy.admits_end(0, 2 * saves, 0, chance=0.1)


# ---- whose tokens they are ----


def test_what_a_request_adds_is_its_own_and_stays_so_when_it_is_split() -> None:
    grove = Grove(PredictedReuse())
    first, second = (Trail(tokens, 0, 0) for tokens in (100, 60))
    grove.insert("none", 5)
    grove.policy.trail = first
    grove.insert("first", 100)
    grove.policy.trail = second
    grove.split("shared", 50, above="first")
    grove.insert("second", 10, below="shared")
    assert [grove[name].trail for name in ("none", "first", "shared", "second")] == [
        None,
        first,
        first,
        second,
    ]
    grove.policy.clear()
    assert grove.policy.trail is None
    assert grove.policy.root.trail is None
