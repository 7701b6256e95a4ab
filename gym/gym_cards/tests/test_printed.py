"""Solutions as the released code prints them."""

import pytest

from gym_cards.formula import evaluate, tokenize
from gym_cards.printed import longest_opening, opens_a_solution, printed_solutions


def test_solutions_are_printed_in_each_form_and_no_other():
    printed = printed_solutions((1, 2, 3, 4), 24)
    assert printed == sorted(printed)
    for solution in ("1*2*3*4", "(1*2)*3*4", "4*(1+2+3)", "1*(2*3)*4", "(4*1)*(2*3)", "4*2*(1*3)"):
        assert solution in printed
    assert not {"((1*2)*3)*4", "(1*2*3*4)", "(1)*2*3*4", "1*((2*3)*4)"} & set(printed)
    assert all(evaluate(tokenize(solution)) == 24 for solution in printed)
    assert printed_solutions((3, 3, 8, 8), 24) == ["8/(3-8/3)"]
    assert printed_solutions((1, 1, 1, 1), 24) == []


@pytest.mark.parametrize(
    ("formula", "opens"),
    [("4*(1+2+3", True), ("(4*1)*(2*3", True), ("(1*2*3*4", False), ("4*(1+2)*(3", False)],
)
def test_formula_without_its_last_parenthesis_opens_a_printed_solution(formula, opens):
    assert opens_a_solution(tokenize(formula), 24) is opens
    printed = printed_solutions((1, 2, 3, 4), 24)
    assert any(solution.startswith(formula) for solution in printed) is opens


@pytest.mark.parametrize(
    ("formula", "opening"),
    [("4*(1+2-3)", "4*(1+2"), ("4*2*3*1", "4*2*3*1"), ("9+1", ""), ("", "")],
)
def test_longest_opening_has_whole_tokens(formula, opening):
    assert longest_opening(tokenize(formula), (1, 2, 3, 4), 24) == opening
