"""Find how a hand makes the target. Exact: values are reduced integer fractions.

The values that a set of cards can make are built from its two-part splits. Whether a hand makes
the target needs no full list: for each value of one part, the partner that would complete it is
looked up among the values of the other part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from math import gcd
from typing import Any

Value = tuple[int, int]  # numerator, denominator > 0, reduced
Tree = Any  # int | tuple[str, Tree, Tree]: a number, or (operator, left, right)


def solve(numbers: Sequence[int], target: int = 24) -> str | None:
    """Return one formula that uses every number exactly once and equals the target, or None."""
    return _solve(tuple(sorted(numbers)), target)


def all_solutions(numbers: Sequence[int], target: int = 24) -> list[str]:
    """Return every distinct formula (as printed, with the fewest parentheses), sorted.

    Sums and products differ by the order of their operands, so there can be hundreds.
    """
    formulas = set()
    for value, tree in _all_trees([((number, 1), number) for number in numbers]):
        if value == (target, 1):
            formulas.add(print_tree(tree))
    return sorted(formulas)


def print_tree(tree: Tree) -> str:
    """Return a formula with the fewest parentheses that keep its value."""
    if isinstance(tree, int):
        return str(tree)
    symbol, left, right = tree
    left_text, right_text = print_tree(left), print_tree(right)
    if symbol in "*/" and _top(left) in "+-":
        left_text = f"({left_text})"
    if _top(right) in {"+": "", "-": "+-", "*": "+-", "/": "+-*/"}[symbol] and _top(right):
        right_text = f"({right_text})"
    return f"{left_text}{symbol}{right_text}"


def _top(tree: Tree) -> str:
    return " " if isinstance(tree, int) else tree[0]


@lru_cache(maxsize=65536)
def _solve(numbers: tuple[int, ...], target: int) -> str | None:
    if len(numbers) == 1:
        return str(target) if numbers[0] == target else None
    goal = (target, 1)
    for left, right in _splits(numbers):
        tree = _complete(goal, _reachable(left), _reachable(right))
        if tree is not None:
            return print_tree(tree)
    return None


def _splits(numbers: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield both parts of every split of a sorted multiset, the smaller first, each split once."""
    seen = set()
    indices = range(len(numbers))
    for size in range(1, len(numbers) // 2 + 1):
        for chosen in combinations(indices, size):
            left = tuple(numbers[i] for i in chosen)
            if left in seen:
                continue
            right = tuple(numbers[i] for i in indices if i not in chosen)
            seen.add(left)
            seen.add(right)
            yield left, right


def _complete(goal: Value, lefts: dict[Value, Tree], rights: dict[Value, Tree]) -> Tree | None:
    """Return a tree that makes `goal` out of one value of each part, or None."""
    gn, gd = goal
    for (n, d), tree in lefts.items():
        # For each operation, the partner that would make the goal.
        wanted = [
            ("+", True, gn * d - n * gd, gd * d),
            ("-", True, n * gd - gn * d, gd * d),
            ("-", False, gn * d + n * gd, gd * d),
        ]
        if n:
            wanted.append(("*", True, gn * d, gd * n))
            wanted.append(("/", False, gn * n, gd * d))
            if gn:
                wanted.append(("/", True, n * gd, d * gn))
        for symbol, left_first, numerator, denominator in wanted:
            partner = rights.get(_reduced(numerator, denominator))
            if partner is not None:
                return (symbol, tree, partner) if left_first else (symbol, partner, tree)
        if not n and not gn:
            return ("*", tree, next(iter(rights.values())))
    return None


def _reduced(n: int, d: int) -> Value:
    if d < 0:
        n, d = -n, -d
    divisor = gcd(n, d)
    return n // divisor, d // divisor


def _results(a: Value, x: Tree, b: Value, y: Tree) -> Iterator[tuple[Value, Tree]]:
    """Yield the six ways to join two values, as (value, tree)."""
    (an, ad), (bn, bd) = a, b
    denominator = ad * bd
    yield _reduced(an * bd + bn * ad, denominator), ("+", x, y)
    yield _reduced(an * bd - bn * ad, denominator), ("-", x, y)
    yield _reduced(bn * ad - an * bd, denominator), ("-", y, x)
    yield _reduced(an * bn, denominator), ("*", x, y)
    if bn:
        yield _reduced(an * bd, ad * bn), ("/", x, y)
    if an:
        yield _reduced(bn * ad, bd * an), ("/", y, x)


def _reachable(numbers: tuple[int, ...]) -> dict[Value, Tree]:
    """Return every value that a sorted multiset makes, with one tree for each. Those of up to three
    numbers recur in many hands and are kept; longer ones are large and are not.
    """
    return _reachable_kept(numbers) if len(numbers) <= 3 else _build_reachable(numbers)


def _build_reachable(numbers: tuple[int, ...]) -> dict[Value, Tree]:
    if len(numbers) == 1:
        return {(numbers[0], 1): numbers[0]}
    values: dict[Value, Tree] = {}
    for left, right in _splits(numbers):
        rights = _reachable(right)
        for a, x in _reachable(left).items():
            for b, y in rights.items():
                for value, tree in _results(a, x, b, y):
                    values.setdefault(value, tree)
    return values


_reachable_kept = lru_cache(maxsize=8192)(_build_reachable)


def _all_trees(parts: list[tuple[Value, Tree]]) -> Iterator[tuple[Value, Tree]]:
    """Yield every (value, tree) over all parts: join any two in every order, and go on."""
    if len(parts) == 1:
        yield parts[0]
        return
    for i, j in combinations(range(len(parts)), 2):
        rest = [part for k, part in enumerate(parts) if k not in (i, j)]
        (a, x), (b, y) = parts[i], parts[j]
        joined = [*_results(a, x, b, y)]
        joined += [(value, (t[0], t[2], t[1])) for value, t in joined if t[0] in "+*"]
        for part in joined:
            yield from _all_trees([*rest, part])
