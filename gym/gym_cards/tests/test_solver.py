"""The solver, against a brute force that knows nothing of it."""

from fractions import Fraction
from itertools import combinations_with_replacement, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_cards.formula import evaluate, find_faults, numbers_in, tokenize
from gym_cards.solver import all_solutions, solve


def _brute_force(numbers, target):
    """Every order, operators and bracketing, on fractions."""

    def values(items):
        if len(items) == 1:
            yield items[0]
        for cut in range(1, len(items)):
            for a, b in product(values(items[:cut]), values(items[cut:])):
                yield a + b
                yield a - b
                yield a * b
                if b != 0:
                    yield a / b

    orders = set(permutations(map(Fraction, numbers)))
    return any(value == target for order in orders for value in values(list(order)))


def _check(formula, numbers, target):
    tokens = tokenize(formula)
    assert find_faults(tokens) == ([], 0)
    assert sorted(map(int, numbers_in(tokens))) == sorted(numbers)
    assert evaluate(tokens) == target


def test_counts_of_solvable_hands_are_the_known_ones():
    hands = list(combinations_with_replacement(range(1, 14), 4))
    solvable = [hand for hand in hands if solve(hand)]
    assert (len(hands), len(solvable)) == (1820, 1362)
    small = [hand for hand in solvable if max(hand) <= 10]
    assert len(small) == 566
    for hand in solvable:
        _check(solve(hand), hand, 24)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 13), min_size=4, max_size=4), st.integers(0, 40))
def test_solver_agrees_with_brute_force(numbers, target):
    formula = solve(numbers, target)
    assert (formula is not None) == _brute_force(numbers, target)
    if formula is not None:
        _check(formula, numbers, target)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 13), min_size=5, max_size=5))
def test_solutions_of_five_cards_are_solutions(numbers):
    formula = solve(numbers)
    if formula is not None:
        _check(formula, numbers, 24)


@pytest.mark.parametrize(
    ("numbers", "solutions"),
    [((3, 3, 8, 8), ["8/(3-8/3)"]), ((1, 5, 5, 5), ["(5-1/5)*5", "5*(5-1/5)"]), ((1, 1, 1, 1), [])],
)
def test_hard_hands_have_their_known_solutions(numbers, solutions):
    assert all_solutions(numbers) == solutions


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 13), min_size=4, max_size=4))
def test_all_solutions_are_solutions(numbers):
    solutions = all_solutions(numbers)
    assert bool(solutions) == (solve(numbers) is not None)
    for formula in solutions:
        _check(formula, numbers, 24)
