"""Statistics by conversation: hand-worked examples, scipy as arbiter, simulated truths."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from clustered import as_if_independent, level, measured, rival, world
from scipy.stats import permutation_test, ttest_1samp

from uniconv_bench.statistics import randomisation
from uniconv_bench.statistics.clusters import conversation_of
from uniconv_bench.statistics.differences import p_value, paired
from uniconv_bench.statistics.intervals import summarise
from uniconv_bench.statistics.multiplicity import holm, ranks
from uniconv_bench.statistics.pooling import pooled, spread_of_runs
from uniconv_bench.statistics.randomisation import p_of_sum


def test_conversations() -> None:
    assert conversation_of("Page_one_12_3") == "Page_one_12" and conversation_of("q7") == "q7"


def test_summary_averages_turns_and_counts_conversations() -> None:
    values = {"a_1": 1.0, "a_2": 0.0, "a_3": 0.0, "b_1": 1.0}
    summary = summarise(values)
    assert (summary.mean, summary.n, summary.conversations) == (0.5, 4, 2)
    # Draws of {a, b}: aa 1/3, ab 1/2, bb 1: the ends are the two extremes.
    assert summary.ci95 == (pytest.approx(1 / 3), 1.0)
    assert summarise(dict(reversed(values.items()))) == summary
    assert summarise({"a_1": 0.2, "a_2": 0.4}).ci95 == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_conversations_all_alike_still_leave_doubt(value: float) -> None:
    """The exact 97.5 % bound for no event in so many trials: 1 - 0.025 ** (1 / n)."""
    summary = summarise({f"{c}_{t}": value for c in range(22) for t in range(4)})
    far = 1 - 0.025 ** (1 / 22)
    assert far == pytest.approx(0.1544, abs=1e-4)
    expected = (0.0, far) if value == 0 else (1 - far, 1.0)
    assert summary.ci95 == pytest.approx(expected)


def test_the_interval_resamples_conversations_not_turns() -> None:
    """Twenty turns that all repeat their conversation's value carry no more than one."""
    rng = random.Random(1)
    means = [rng.random() for _ in range(50)]
    alone = summarise({f"c{i}_1": v for i, v in enumerate(means)})
    repeated = summarise({f"c{i}_{j}": v for i, v in enumerate(means) for j in range(20)})
    assert repeated.n == 1000 and repeated.mean == pytest.approx(alone.mean)
    assert repeated.ci95 == pytest.approx(alone.ci95)
    # Close to the normal interval of 50 independent means.
    deviation = math.sqrt(sum((v - alone.mean) ** 2 for v in means)) / 50
    assert alone.ci95[1] - alone.ci95[0] == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_summary_refuses_nothing_and_what_is_no_fraction() -> None:
    for values in ({}, {"c_1": math.nan}, {"c_1": 1.5}, {"c_1": -0.1}):
        with pytest.raises(ValueError, match=r"no turn|not in \[0, 1\]"):
            summarise(values)


# --- two systems ---------------------------------------------------------------------------------

ONE = {"a_1": 0.5, "a_2": 0.7, "b_1": 0.6, "c_1": 0.5, "c_2": 0.1}
OTHER = {"a_1": 0.2, "a_2": 0.6, "b_1": 0.4, "c_1": 0.4, "c_2": 0.1}
"""Sums of differences by conversation: a 0.4, b 0.2, c 0.1."""


def test_signs_of_three_conversations_flipped_by_hand() -> None:
    """|±0.4 ±0.2 ±0.1| is 0.7 in 2 of 8 ways; against a fall of 0.5 the sum seen is the same."""
    difference = paired((ONE, OTHER))
    assert difference.mean == pytest.approx(0.7 / 5)
    assert difference.p == p_value(ONE, OTHER) == 2 / 8
    assert (difference.wins, difference.ties, difference.losses) == (4, 1, 0)
    assert (difference.n, difference.conversations) == (5, 3)
    # a 0.4, b -0.3, c 0.1: the sum is 0.2, and |sum| is 0.8, 0.6, 0.2, 0 in two ways each.
    mixed = {"a_1": 0.4, "b_1": 0.0, "c_1": 0.1}
    assert p_value(mixed, {"a_1": 0.0, "b_1": 0.3, "c_1": 0.0}) == 6 / 8


def test_a_margin_moves_what_is_tested_and_nothing_else() -> None:
    """Against -0.05 a turn the sums are a 0.5, b 0.25, c 0.2: again 2 of 8, b + c - a turns up."""
    plain, shifted = paired((ONE, OTHER)), paired((ONE, OTHER), null=-0.05)
    assert shifted.p == 2 / 8 and (shifted.mean, shifted.ci95) == (plain.mean, plain.ci95)
    assert paired((ONE, OTHER), null=0.14).p == 1.0  # the very mean


def test_of_several_tasks_each_weighs_alike() -> None:
    long = {f"x{i}_{j}": 0.5 for i in range(10) for j in range(5)}
    level_with = {turn: 0.4 for turn in long}
    difference = paired((ONE, OTHER), (long, level_with))
    assert difference.mean == pytest.approx((0.14 + 0.1) / 2)
    assert (difference.n, difference.conversations) == (55, 13)
    assert difference.p == 2 / 2**13  # all thirteen sums are above zero


def test_the_test_agrees_with_scipy() -> None:
    random_ = np.random.default_rng(3)
    for count, exact in ((9, True), (30, False), (60, False)):
        one = {f"{i}_1": float(v) for i, v in enumerate(random_.random(count))}
        other = {f"{i}_1": float(v) for i, v in enumerate(random_.random(count))}
        theirs = permutation_test(
            (list(one.values()), list(other.values())),
            lambda x, y, axis: (x - y).sum(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=9_999,
            rng=1,
        )
        assert p_value(one, other) == pytest.approx(theirs.pvalue, abs=1e-12 if exact else 0.02)


def test_independent_turns_give_students_interval_and_error() -> None:
    values = np.random.default_rng(5).normal(0.1, 0.2, 25)
    one = {f"c{i}_1": 0.5 + float(v) for i, v in enumerate(values)}
    difference = paired((one, {turn: 0.5 for turn in one}))
    theirs = ttest_1samp(values, 0).confidence_interval()
    assert difference.ci95 == pytest.approx((theirs.low, theirs.high), abs=0.01)
    error = values.std(ddof=1) / 5
    # Student's quantiles with 24 degrees of freedom: 2.0639 (97.5 %) and 0.8569 (80 %).
    assert difference.detectable == pytest.approx((2.0639 + 0.8569) * error, rel=1e-3)
    assert difference.effect == pytest.approx(values.mean() / values.std(ddof=1))
    ratio = (difference.detectable or 0) / abs(difference.mean)
    assert difference.turns_to_settle == math.ceil(25 * ratio**2)


def test_what_is_detectable_is_detected_in_four_of_five() -> None:
    random_ = np.random.default_rng(11)
    one = world(40, random_)
    promised = paired((one, rival(one, random_))).detectable
    assert promised is not None
    found = 0
    for _ in range(200):
        one = world(40, random_)
        found += p_value({t: v + promised for t, v in one.items()}, rival(one, random_)) < 0.05
    assert 0.7 <= found / 200 <= 0.9


def test_one_conversation_says_nothing_of_others() -> None:
    difference = paired(({"a_1": 0.9, "a_2": 0.8}, {"a_1": 0.1, "a_2": 0.2}))
    assert (difference.p, difference.ci95) == (1.0, (-1.0, 1.0))
    assert difference.detectable is difference.effect is difference.turns_to_settle is None


def test_equal_systems_are_not_told_apart() -> None:
    difference = paired((ONE, ONE))
    assert (difference.mean, difference.p, difference.effect) == (0.0, 1.0, None)
    assert difference.turns_to_settle is None


def test_differences_are_of_the_same_turns() -> None:
    for other in ({}, {"a_1": 0.5}):
        with pytest.raises(ValueError, match="same turns"):
            paired((ONE, other))
    with pytest.raises(ValueError, match="same turns"):
        paired(({}, {}))


def test_holm_by_hand() -> None:
    """0.01 x 4, 0.02 x 3, 0.03 x 2, and 0.04 x 1, which may not fall below the one before."""
    assert holm({"c": 0.03, "a": 0.01, "d": 0.04, "b": 0.02}) == {
        "c": pytest.approx(0.06),
        "a": pytest.approx(0.04),
        "d": pytest.approx(0.06),
        "b": pytest.approx(0.06),
    }
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_every_flip_of_few_conversations_counts() -> None:
    values = np.random.default_rng(7).normal(0.2, 1, 11)
    sums = [abs(sum(signs * values)) for signs in itertools.product((1, -1), repeat=11)]
    reached = sum(far >= abs(values.sum()) - 1e-9 for far in sums)
    assert p_of_sum(values) == reached / 2**11
    # What does not differ takes no part.
    assert p_of_sum(np.append(values, np.zeros(40))) == reached / 2**11


@pytest.mark.parametrize("lattice", [False, True])
def test_the_grid_of_many_conversations_gives_nearly_the_exact_share(
    lattice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a lattice many sums tie with the one seen; all of them count."""
    draw = np.random.default_rng(2)
    for lift in (0.1, 0.3, 0.6):
        values = draw.integers(-1, 3, 28) / 7.0 if lattice else draw.normal(lift, 1, 28)
        exact = p_of_sum(values)
        monkeypatch.setattr(randomisation, "COUNTED", 15)
        assert np.count_nonzero(values) > 15
        assert exact <= p_of_sum(values) <= 1.01 * exact + 1e-3 * (exact > 0.2) + 1e-6
        monkeypatch.undo()


def test_p_of_many_conversations_is_never_nothing() -> None:
    for count, bound in ((40, 1.1e-7), (400, 1e-20)):
        assert 0 < p_of_sum(np.ones(count)) <= bound


def test_systems_that_are_not_told_apart_share_ranks() -> None:
    random_ = np.random.default_rng(1)
    best = {f"c{i}_1": float(v) for i, v in enumerate(random_.uniform(0.6, 1.0, 20))}
    near = {turn: v + float(random_.normal(0, 0.05)) for turn, v in best.items()}
    last = {turn: v - 0.5 for turn, v in best.items()}
    found = ranks({"last": last, "near": near, "best": best})
    assert found == {"last": (3, 3), "near": (1, 2), "best": (1, 2)}
    assert [str(found[name]) for name in ("best", "last")] == ["1-2", "3"]


def staircase(systems: int, step: float, noise: float) -> dict[str, dict[str, float]]:
    """Systems from the best to the last on 22 conversations of 81 turns, a step apart."""
    draw = np.random.default_rng(5)
    turns = [f"c{n % 22}_{n}" for n in range(81)]
    level = draw.normal(0, 0.2, len(turns))
    return {
        f"s{k}": dict(
            zip(turns, (-k * step + level + draw.normal(0, noise, 81)).tolist(), strict=True)
        )
        for k in range(systems)
    }


def test_ranks_are_those_of_every_pair_tested_alone() -> None:
    systems = staircase(7, 0.025, 0.1)
    found, spread = ranks(systems), set()
    corrected = {
        name: holm({o: p_value(values, v) for o, v in systems.items() if o != name})
        for name, values in systems.items()
    }
    for name, values in systems.items():
        apart = [o for o, p in corrected[name].items() if max(p, corrected[o][name]) < 0.05]
        above = sum(sum(systems[o].values()) > sum(values.values()) for o in apart)
        assert found[name] == (1 + above, 7 - (len(apart) - above))
        spread.add(found[name])
    assert len(spread) > 2
    with pytest.raises(ValueError, match="same turns"):
        ranks({"a": {"a_1": 0.0}, "b": {"b_1": 0.0}})


def test_a_hundred_systems_are_still_told_apart() -> None:
    """With p values of 9,999 draws and all pairs as one family, from 33 on all were first."""
    found = ranks(staircase(100, 0.02, 0.05))
    assert found["s0"].worst < 15 and found["s99"].best > 85 and found["s50"].best > 35


def test_strangers_near_the_top_do_not_level_what_is_below() -> None:
    """Thirty copies of the best cost every pair one place in line each, not the square of it."""
    systems = staircase(4, 0.1, 0.15)
    before = ranks(systems)
    assert [before[f"s{k}"] for k in range(4)] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    draw = np.random.default_rng(8)
    copies = {
        f"copy{k}": {t: v + float(draw.normal(0, 0.01)) for t, v in systems["s0"].items()}
        for k in range(30)
    }
    after = ranks(systems | copies)
    assert [after[f"s{k}"] for k in range(1, 4)] == [(32, 32), (33, 33), (34, 34)]


def test_noise_does_not_raise_a_system() -> None:
    """Its interval is wider to both sides; with one number it stood above better, steadier ones."""
    systems = staircase(4, 0.1, 0.02)
    steady = systems["s2"]
    draw = np.random.default_rng(3)
    systems["noisy"] = {t: v - 0.02 + float(draw.normal(0, 0.5)) for t, v in steady.items()}
    found = ranks(systems)
    assert sum(systems["noisy"].values()) < sum(steady.values())
    assert found["noisy"].best <= found["s2"].best and found["noisy"].worst > found["s2"].worst


def test_seeds_are_averaged_by_turn_and_their_spread_told_apart() -> None:
    runs = [{"a_1": 0.0, "b_1": 0.2}, {"a_1": 0.4, "b_1": 0.6}]
    assert pooled(runs) == {"a_1": pytest.approx(0.2), "b_1": pytest.approx(0.4)}
    assert spread_of_runs(runs) == pytest.approx(0.4 / math.sqrt(2))  # of 0.1 and 0.5
    assert spread_of_runs(runs[:1]) is None
    assert summarise(pooled(runs * 3)).conversations == 2
    with pytest.raises(ValueError, match="same turns"):
        pooled([runs[0], {"a_1": 0.0}])


# --- known truths --------------------------------------------------------------------------------


def test_intervals_hold_the_truth_and_tests_keep_their_level() -> None:
    held, told, wolf = measured(30, 300, seed=1, naive=False)
    assert 0.93 <= held <= 0.97 and 0.93 <= told <= 0.97 and 0.03 <= wolf <= 0.07


def test_turns_taken_as_independent_cry_wolf() -> None:
    """The fault that all this is against: it has to show, or the simulation shows nothing."""
    assert level(30, 200, seed=1, naive=True) > 0.12
    one = world(30, np.random.default_rng(1))
    low, high = summarise(one).ci95
    narrow = summarise(as_if_independent(one)).ci95
    assert (high - low) > 1.3 * (narrow[1] - narrow[0])


@pytest.mark.slow
@pytest.mark.parametrize("conversations", [20, 60])
def test_the_same_over_a_thousand_worlds(conversations: int) -> None:
    held, told, wolf = measured(conversations, 1000, seed=conversations, naive=False)
    assert 0.93 <= held <= 0.97 and 0.93 <= told <= 0.97 and 0.03 <= wolf <= 0.07
