"""The formula parser, against sympy as an independent oracle and at its limits."""

from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_cards.formula import MAX_CHARS, MAX_DEPTH, count_faults, evaluate, tokenize


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("8/(3-8/3)", Fraction(24)),
        ("1-2-3", Fraction(-4)),
        ("24/4/2", Fraction(3)),
        ("2*3+4*5", Fraction(26)),
        ("((7))", Fraction(7)),
        ("1/3", Fraction(1, 3)),
        ("1/(2-2)", None),
        ("0/5", Fraction(0)),
    ],
)
def test_values_are_exact(formula, value):
    assert evaluate(tokenize(formula)) == value


@pytest.mark.parametrize(
    "formula",
    [
        "1 +2",
        "1+x",
        "\uff12+2",
        "1**2.0",
        "1e3",
        "01+2",
        "1" * 7,
        "1+" * 60,
        "(" * 17,
        "__import__",
    ],
)
def test_foreign_characters_and_limits_are_refused(formula):
    assert tokenize(formula) is None


def test_limits_are_where_they_are_said_to_be():
    assert tokenize("1+" * (MAX_CHARS // 2)) is not None
    assert tokenize("(" * MAX_DEPTH) is not None
    assert tokenize("999999") is not None


@pytest.mark.parametrize(
    ("formula", "faults", "left_open"),
    [
        ("1+2", 0, 0),
        ("(1+2", 0, 1),
        ("1+2)", 1, 0),
        ("1+2))", 2, 0),
        ("1+", 1, 0),
        ("+1", 1, 0),
        ("1+*2", 1, 0),
        ("1++*2", 2, 0),
        ("-1+2", 1, 0),
        ("(1)(2)", 1, 0),
        ("()", 1, 0),
        ("3(4)", 1, 0),
        ("", 1, 0),
    ],
)
def test_each_fault_is_counted_once(formula, faults, left_open):
    assert count_faults(tokenize(formula)) == (faults, left_open)


def _trees():
    numbers = st.integers(0, 13).map(str)
    return st.recursive(
        numbers,
        lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
            lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
        ),
        max_leaves=6,
    )


@settings(max_examples=200, deadline=None)
@given(_trees())
def test_agrees_with_sympy(formula):
    tokens = tokenize(formula)
    assert count_faults(tokens) == (0, 0)
    expected = sympy.sympify(formula, rational=True)
    found = evaluate(tokens)
    if expected.is_finite:
        # sympy cancels 0 * (1/0) and the like to nan or zoo, which is not finite.
        assert found is None or sympy.Rational(found.numerator, found.denominator) == expected
    else:
        assert found is None


@given(st.text("0123456789+-*/()", max_size=60))
def test_any_legal_text_is_read(formula):
    tokens = tokenize(formula)
    if tokens:
        faults, left_open = count_faults(tokens)
        assert faults >= 0
        assert left_open >= 0
        if faults == 0:
            evaluate([*tokens, *")" * left_open])
