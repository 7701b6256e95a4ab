"""Deal random hands, of a deck or of independent draws, and hold puzzles out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, product
from typing import Literal

import numpy as np

from gym_cards.rules import FACES, RANKS, FaceRule
from gym_cards.solver import solve
from gym_dialogue.errors import InputError, NothingToPlayError
from gym_dialogue.split import HELDOUT_SHARE, Split, belongs, is_held_out

SUITS = ("spades", "hearts", "diamonds", "clubs")
Dealing = Literal["deck", "independent"]

_SPLIT_SALT = "GeneralPoints-heldout-4"  # never change it: the split is fixed for all time
_MAX_DRAWS = 20000


@dataclass(frozen=True)
class Hand:
    """Cards as dealt: ranks ("A", "2", .. "K") and suits, in order."""

    ranks: tuple[str, ...]
    suits: tuple[str, ...]


def puzzle_name(numbers: Sequence[int]) -> str:
    """Return the name of a puzzle: its numbers in order, whatever faces and suits showed them."""
    return "-".join(map(str, sorted(numbers)))


def is_heldout(numbers: Sequence[int], share: float = HELDOUT_SHARE) -> bool:
    """Return whether a puzzle is one of the share held out.

    Decided by the numbers that the rule makes of a hand (a hash of them), so that no held-out
    puzzle is met in training with other faces, in another order or under another rule.
    """
    return is_held_out(_SPLIT_SALT, puzzle_name(numbers), share)


def in_split(numbers: Sequence[int], split: Split, share: float = HELDOUT_SHARE) -> bool:
    """Return whether a puzzle belongs to a split."""
    return belongs(is_heldout(numbers, share), split)


def draw_deck(rng: np.random.Generator, size: int) -> Hand:
    """Draw cards without replacement from 52."""
    cards = rng.choice(52, size, replace=False, shuffle=True)
    return Hand(
        tuple(RANKS[card % 13] for card in cards), tuple(SUITS[card // 13] for card in cards)
    )


def draw_independent(rng: np.random.Generator, size: int) -> Hand:
    """Draw independent cards, as in the released code: the same card can come twice."""
    cards = rng.integers(52, size=size)
    return Hand(
        tuple(RANKS[card % 13] for card in cards), tuple(SUITS[card // 13] for card in cards)
    )


DEALINGS: dict[str, Callable[[np.random.Generator, int], Hand]] = {
    "deck": draw_deck,
    "independent": draw_independent,
}


def deal(
    rng: np.random.Generator,
    rule: FaceRule,
    target: int = 24,
    size: int = 4,
    dealing: Dealing = "deck",
    split: Split = "all",
    needs_face: bool = False,
    heldout_share: float = HELDOUT_SHARE,
) -> Hand:
    """Draw a random solvable hand of a split, with at least one face card if `needs_face`.

    Raises NothingToPlayError if none turns up in 20,000 draws (a target that no hand makes, say).
    """
    draw = DEALINGS[dealing]
    for _ in range(_MAX_DRAWS):
        hand = draw(rng, size)
        if needs_face and not _has_face(hand.ranks):
            continue
        numbers = rule.numbers(hand.ranks)
        if in_split(numbers, split, heldout_share) and solve(numbers, target) is not None:
            return hand
    raise NothingToPlayError(
        f"no hand of {size} cards that makes {target} turned up in {_MAX_DRAWS} draws "
        f"(split {split!r}, {rule}): choose another target or rule"
    )


@lru_cache(maxsize=64)
def puzzles(
    rule: FaceRule,
    target: int,
    size: int,
    dealing: Dealing,
    split: Split,
    needs_face: bool,
    heldout_share: float = HELDOUT_SHARE,
) -> tuple[tuple[int, ...], ...]:
    """Return the numbers, in order, of every puzzle that `deal` can deal with these arguments."""
    hands = combinations_with_replacement(RANKS, size)
    candidates = {
        tuple(sorted(rule.numbers(ranks)))
        for ranks in hands
        if _is_dealt(ranks, dealing) and (not needs_face or _has_face(ranks))
    }
    solvable = (numbers for numbers in sorted(candidates) if solve(numbers, target) is not None)
    return tuple(numbers for numbers in solvable if in_split(numbers, split, heldout_share))


def hand_of_puzzle(
    rng: np.random.Generator,
    numbers: Sequence[int],
    rule: FaceRule,
    target: int,
    dealing: Dealing,
    needs_face: bool,
) -> Hand:
    """Draw a random hand that counts as these numbers under the rule. Raises InputError where no
    hand does, or where they have no solution.
    """
    if solve(numbers, target) is None:
        raise InputError(f"numbers {list(numbers)}: no formula makes {target} out of them")
    ranks_of = [[rank for rank in RANKS if rule.value(rank) == number] for number in numbers]
    choices = [
        ranks
        for ranks in product(*ranks_of)
        if _is_dealt(ranks, dealing) and (not needs_face or _has_face(ranks))
    ]
    if not choices:
        raise InputError(f"numbers {list(numbers)}: no hand counts as them ({rule})")
    ranks = rng.permutation(choices[rng.integers(len(choices))]).tolist()
    if dealing == "independent":
        return Hand(tuple(ranks), tuple(SUITS[i] for i in rng.integers(4, size=len(ranks))))
    left = {rank: rng.permutation(SUITS).tolist() for rank in sorted(set(ranks))}
    return Hand(tuple(ranks), tuple(left[rank].pop() for rank in ranks))


def _is_dealt(ranks: Sequence[str], dealing: Dealing) -> bool:
    """Return whether cards of these ranks can lie together: a deck has four of each."""
    return dealing == "independent" or max(Counter(ranks).values()) <= len(SUITS)


def _has_face(ranks: Sequence[str]) -> bool:
    return any(rank in FACES for rank in ranks)


def hand_of(ranks: Sequence[str], rule: FaceRule, target: int, size: int, dealing: Dealing) -> Hand:
    """Return a hand that someone asked for. Raises InputError unless it can be dealt and solved."""
    if isinstance(ranks, str) or not isinstance(ranks, Sequence) or len(ranks) != size:
        raise InputError(
            f"cards {ranks!r}: must be a list of {size} ranks out of {' '.join(RANKS)}"
        )
    ranks = tuple(str(rank) for rank in ranks)
    for rank in ranks:
        if rank not in RANKS:
            raise InputError(f"card {rank!r}: must be one of {' '.join(RANKS)}")
    if not _is_dealt(ranks, dealing):
        raise InputError(f"cards {list(ranks)}: a deck holds each rank four times only")
    if solve(rule.numbers(ranks), target) is None:
        raise InputError(
            f"cards {list(ranks)}: no formula makes {target} out of {rule.numbers(ranks)}; "
            "choose a hand that can be solved"
        )
    seen: Counter[str] = Counter()
    suits = []
    for rank in ranks:
        suits.append(SUITS[seen[rank] % len(SUITS)])
        seen[rank] += 1
    return Hand(ranks, tuple(suits))
