"""Advantages against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.advantages import discounted_return, explained_variance, gae, group_advantages

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


def test_explained_variance():
    returns = np.array([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(np.full(3, 2.0), returns) == 0
    assert np.isnan(explained_variance(returns, np.ones(3)))
