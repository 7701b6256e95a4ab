"""What is printed as 95 % covers 95 %, whatever varies most."""

import numpy as np
import pytest
from scipy.special import expit

from evaluation.statistics import Estimate, holm, over_seeds, sign_flip, wilson_length

PUZZLES = 60
REPEATS = 1500


def _estimates(outcomes):
    """Outcomes (S, P), one of each seed on each puzzle."""
    names = [str(number) for number in range(outcomes.shape[1])]
    return [
        Estimate.of_counts({n: (value, 1.0) for n, value in zip(names, row.tolist(), strict=True)})
        for row in outcomes
    ]


def _covers(estimates, truth):
    result = over_seeds(estimates)
    return result.low <= truth <= result.high


@pytest.mark.parametrize("spread", [0, 1, 3, 10])
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_coverage_of_a_difference_is_95_percent(seeds, spread):
    # The difference of two arms under each seed: effects of seeds, of puzzles that seeds share, and
    # of a seed on a puzzle. `spread` is that of seeds over the standard error that puzzles cause.
    rng = np.random.default_rng([seeds, spread])
    of_puzzle, of_both = 0.1, 0.2
    of_seed = spread * np.hypot(of_puzzle, of_both) / np.sqrt(PUZZLES)
    covered = 0
    for _ in range(REPEATS):
        outcomes = 0.05 + rng.normal(0, of_puzzle, PUZZLES)
        outcomes = outcomes + rng.normal(0, of_both, (seeds, PUZZLES))
        estimates = _estimates(outcomes + rng.normal(0, of_seed, (seeds, 1)))
        covered += _covers([e - Estimate.of_counts({"0": (0.0, 1.0)}) for e in estimates], 0.05)
    assert 0.93 <= covered / REPEATS <= 0.97


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_coverage_of_a_success_rate_is_95_percent(seeds):
    rng = np.random.default_rng(seeds)
    chance = expit(-0.7 + rng.normal(0, 1.2, 10**6) + rng.normal(0, 0.3, 10**6)).mean()
    covered = 0
    for _ in range(REPEATS):
        logits = -0.7 + rng.normal(0, 1.2, PUZZLES) + rng.normal(0, 0.3, (seeds, 1))
        covered += _covers(_estimates(rng.binomial(1, expit(logits)).astype(float)), chance)
    assert 0.93 <= covered / REPEATS <= 0.97


def test_seeds_that_dominate_give_the_t_interval():
    outcomes = np.array([[0.1] * 9, [0.3] * 9, [0.5] * 9])
    result = over_seeds(_estimates(outcomes))
    half = 4.302653 * 0.2 / np.sqrt(3)
    assert (result.value, result.high - result.value) == pytest.approx((0.3, half))
    assert result.low == 0  # and not below
    assert result.per_seed == pytest.approx((0.1, 0.3, 0.5))


def test_puzzles_that_all_seeds_share_are_drawn_once():
    # Three seeds that agree on every puzzle are no more than one measurement of the puzzles.
    row = np.array([1.0] * 20 + [0.0] * 40)
    result = over_seeds(_estimates(np.stack([row] * 3)))
    error = np.sqrt(row.var(ddof=1) / 60)
    assert result.high - result.value == pytest.approx(2.000995 * error, rel=1e-5)


def test_difference_is_paired_by_puzzle():
    first = Estimate.of_counts({"a": (1, 2), "b": (3, 4)})
    second = Estimate.of_counts({"a": (0, 2), "b": (2, 4)})
    difference = first - second
    assert difference.value == pytest.approx(1 / 3)
    assert sum(difference.influence.values()) == pytest.approx(0)
    assert (difference.low, difference.high) == (-1, 1)
    same = first - first
    assert (same.value, set(same.influence.values())) == (0, {0.0})


def test_rates_of_0_and_1_keep_an_interval():
    for value in (0.0, 1.0):
        result = over_seeds(_estimates(np.full((3, 20), value)))
        assert result.high - result.low == pytest.approx(wilson_length(20))
        assert result.value == value
    assert wilson_length(20) == pytest.approx(0.161125, abs=1e-5)
    nothing = [e - e for e in _estimates(np.zeros((3, 20)))]
    assert over_seeds(nothing).high == pytest.approx(np.sqrt(2) * wilson_length(20))


def test_one_seed_has_no_interval_over_seeds():
    result = over_seeds(_estimates(np.ones((1, 5)) / 2))
    assert result.value == 0.5
    assert np.isnan([result.low, result.high]).all()


def test_nothing_measured_is_nan():
    assert np.isnan(Estimate.of_counts({}).value)
    assert np.isnan(over_seeds([Estimate.of_counts({})] * 3).value)


@pytest.mark.parametrize(
    ("differences", "p"), [((1, 2, 3), 0.25), ((1, 1, 1, 1, 1, 1), 2 / 64), ((1, -1), 1.0)]
)
def test_sign_flip_counts_all_choices(differences, p):
    assert sign_flip(differences) == pytest.approx(p)


def test_holm_adjusts_in_order():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
