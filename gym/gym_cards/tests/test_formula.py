"""The formula parser, against sympy as an independent oracle and at its limits."""

from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_cards.formula import evaluate, find_faults, foreign_characters, tokenize


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
        ("01+2", None),
        ("1+", None),
        ("(1+2", None),
        ("", None),
    ],
)
def test_values_are_exact(formula, value):
    assert evaluate(tokenize(formula)) == value


@pytest.mark.parametrize(
    ("formula", "foreign"),
    [
        ("1 + 2", [" "]),
        ("1+x-x", ["x"]),
        ("\uff12+2", ["\uff12"]),
        ("\u0663+2", ["\u0663"]),
        ("1**2.0", ["."]),
        ("__import__", ["_", "i", "m", "p", "o", "r", "t"]),
        ("((1+2)*3-4/5", []),
    ],
)
def test_foreign_characters_are_named_once(formula, foreign):
    assert foreign_characters(formula) == foreign


NUMBER, OPERATOR, OPEN, CLOSE = "number_order", "operator_order", "open_order", "close_order"


@pytest.mark.parametrize(
    ("formula", "faults", "left_open"),
    [
        ("1+2", [], 0),
        ("(1+2", [], 1),
        ("1+2)", ["unmatched"], 0),
        ("1+2))", ["unmatched"] * 2, 0),
        ("1+", [], 0),
        ("+1", [OPERATOR], 0),
        ("1+*2", [OPERATOR], 0),
        ("1++*2", [OPERATOR] * 2, 0),
        ("-1+2", [OPERATOR], 0),
        ("(1)(2)", [OPEN, "unmatched"], 0),
        ("()", [CLOSE], 1),
        ("3(4)", [OPEN, "unmatched"], 0),
        ("(3)4", [NUMBER], 0),
        (")", [CLOSE], 0),
        ("", [], 0),
    ],
)
def test_each_fault_is_found_once(formula, faults, left_open):
    assert find_faults(tokenize(formula)) == (faults, left_open)


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
def test_values_agree_with_sympy(formula):
    tokens = tokenize(formula)
    assert find_faults(tokens) == ([], 0)
    expected = sympy.sympify(formula, rational=True)
    value = evaluate(tokens)
    if expected.is_finite:
        # sympy cancels 0 * (1/0) and the like to nan or zoo, which is not finite.
        assert value is None or sympy.Rational(value.numerator, value.denominator) == expected
    else:
        assert value is None


@given(st.text("0123456789+-*/()", max_size=60))
def test_legal_texts_are_always_read(formula):
    tokens = tokenize(formula)
    assert "".join(tokens) == formula
    faults, left_open = find_faults(tokens)
    assert left_open >= 0
    if not faults:
        evaluate(tokens)
