"""Advantages against brute force."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.advantages import (
    discounted_return,
    explained_variance,
    gae,
    group_advantages,
    standardised,
)

_numbers = st.floats(-10, 10)


@given(
    st.lists(st.tuples(_numbers, _numbers), min_size=1, max_size=8),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_gae_equals_the_brute_force_sum(steps, gamma, lam):
    rewards, values = zip(*steps, strict=True)
    following = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    expected = [
        sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
        for t in range(len(deltas))
    ]
    advantages, returns = gae(rewards, values, gamma, lam)
    np.testing.assert_allclose(advantages, expected, atol=1e-9)
    np.testing.assert_allclose(returns, np.array(expected) + values, atol=1e-9)


def test_with_lambda_1_returns_are_discounted_sums():
    rewards = [-1.0, -3.0, 5.0]
    _, returns = gae(rewards, [0.3, 0.2, 0.1], 0.9, 1.0)
    expected = [discounted_return(rewards[t:], 0.9) for t in range(3)]
    np.testing.assert_allclose(returns, expected)
    assert expected[0] == pytest.approx(-1 - 0.9 * 3 + 0.81 * 5)


def test_groups_are_compared_with_themselves():
    returns, groups = [1.0, 10.0, 3.0, 10.0], ["a", "b", "a", "b"]
    np.testing.assert_allclose(group_advantages(returns, groups, scale=False), [-1, 0, 1, 0])
    np.testing.assert_allclose(
        group_advantages(returns, groups, scale=True), [-1, 0, 1, 0], atol=1e-3
    )


def _alone(values, how):
    return values


def test_nearly_equal_values_are_standardised_by_their_deviation():
    """Every reply equally bad; the largest was 112,183 by E[x^2] - E[x]^2."""
    values = np.random.default_rng(0).normal(-3, 3e-4, 384)
    result = standardised(values, _alone)
    assert 2.5 < np.abs(result).max() < 5
    assert result.mean() == pytest.approx(0, abs=1e-9)
    assert result.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, -3.0, 0.1, -2.7e5])
def test_equal_values_have_no_advantage_whatever_rounding_leaves(value):
    equal = np.full(383, value)
    assert not standardised(equal, _alone).any()
    nearly = equal + np.abs(value) * np.random.default_rng(0).normal(0, 6e-8, 383)  # float32
    assert not standardised(nearly, _alone).any()
    for scale in (False, True):
        assert not group_advantages(nearly, ["a"] * 383, scale).any()
    assert np.isnan(explained_variance(np.zeros(383), nearly))


def test_values_are_standardised_over_all_ranks():
    """What each of two ranks gets is its part of what one alone would."""
    values = np.random.default_rng(0).normal(5, 2, 40)
    parts = [values[:10], values[10:]]

    barrier, handed = threading.Barrier(2), [None, None]

    def one_rank(rank):
        def over_ranks(local, how):
            handed[rank] = local
            barrier.wait()
            result = np.max(handed, 0) if how == "max" else np.sum(handed, 0)
            barrier.wait()
            return result

        return standardised(parts[rank], over_ranks)

    with ThreadPoolExecutor(2) as ranks:
        result = np.concatenate(list(ranks.map(one_rank, range(2))))
    np.testing.assert_allclose(result, standardised(values, _alone))


def test_explained_variance():
    returns = np.array([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(np.full(3, 2.0), returns) == 0
    assert np.isnan(explained_variance(returns, np.ones(3)))
