"""Legends: what each move is called. A legend is data: new ones need no code.

A legend permutes the moves of a rule. Under the one that says `face north: forward()`, a reply
writes `forward()` to turn to the north. The prompt lists it, a line for each move; without having
read it, no one can move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gym_dialogue.errors import InputError
from gym_virl.geo import COMPASS, RELATIVE

RANDOM = "random"
"""As `legend` of the environment: a new one with every episode."""


def _turns(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"turn_direction({name})" for name in names)


COMPASS_MOVES = ("forward()", "stop()", *_turns(COMPASS))
RELATIVE_MOVES = ("forward()", "stop()", *_turns(RELATIVE))

# For each move in the order above, the number of the one whose name it gets. No two of the legends
# under one rule give a move the same name, so that what fits one of them is wrong under the others.
_COMPASS_ORDERS = {
    "usual": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "train": (4, 7, 5, 0, 9, 2, 8, 1, 3, 6),
    "unseen": (6, 3, 8, 5, 1, 7, 0, 9, 4, 2),
}
_RELATIVE_ORDERS = {
    "usual": (0, 1, 2, 3, 4, 5),
    "train": (3, 4, 0, 5, 1, 2),
    "unseen": (5, 2, 4, 1, 3, 0),
}


def moves_of(absolute: bool) -> tuple[str, ...]:
    """Return the moves that there are, by compass names or by relative ones."""
    return COMPASS_MOVES if absolute else RELATIVE_MOVES


def _say(move: str) -> str:
    verb, _, name = move.removesuffix(")").partition("(")
    if verb != "turn_direction":
        return "go on" if verb == "forward" else verb
    return f"{'face' if name in COMPASS else 'turn'} {name}"


PLAIN_WORDS = {move: _say(move) for move in dict.fromkeys((*COMPASS_MOVES, *RELATIVE_MOVES))}
"""Each move in words that no legend changes, such as `face north` or `go on`."""

_MOVES_IN_WORDS = {words: move for move, words in PLAIN_WORDS.items()}


def read_plain_words(text: str | None) -> str | None:
    """Return the move that plain words mean; None where they mean none. Case and white space around
    them do not matter.
    """
    return _MOVES_IN_WORDS.get((text or "").strip().lower())


@dataclass(frozen=True)
class Legend:
    """What each move is called: `names[i]` is written for `moves[i]`, and both hold the same moves.

    `Legend.of` takes a name ("usual", "train", "unseen"), or a mapping from each move to what is
    written for it.
    """

    moves: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, spec: Legend | str | Mapping[str, str], absolute: bool) -> Legend:
        """Return the legend that a specification names, for the moves of one rule. Raises
        InputError for an unknown name, and for a legend that is of other moves.
        """
        moves = moves_of(absolute)
        if isinstance(spec, str):
            if spec not in NAMED_LEGENDS:
                raise InputError(
                    f"legend={spec!r}: must be one of {', '.join(NAMED_LEGENDS)}, {RANDOM}, or a "
                    "mapping from each move to what is written for it"
                )
            return named_legend(spec, absolute)
        if isinstance(spec, Legend):
            spec = dict(zip(spec.moves, spec.names, strict=True))
        if not isinstance(spec, Mapping):
            raise InputError(
                f"legend={spec!r}: must be a name, or a mapping from each move to what is written "
                "for it"
            )
        for what, given in (("have the keys", spec.keys()), ("write", spec.values())):
            if len(given) != len(moves) or set(map(str, given)) != set(moves):
                raise InputError(
                    f"legend={dict(spec)}: does not fit absolute_action={absolute}: must {what} "
                    f"{', '.join(moves)}, each once"
                )
        return cls(moves, tuple(spec[move] for move in moves))

    def write(self, move: str) -> str:
        """Return what is written for a move. Raises KeyError for none of its moves."""
        return self._written[move]

    def read(self, name: str | None) -> str | None:
        """Return the move that a written name means; None for a name that is none of its own."""
        return self._meant.get(name or "")

    def lines(self) -> str:
        """Return it as the prompt has it: a line for each move, its plain words and its name."""
        pairs = zip(self.moves, self.names, strict=True)
        return "\n".join(f"{PLAIN_WORDS[move]}: {name}" for move, name in pairs)

    @cached_property
    def _written(self) -> dict[str, str]:
        return dict(zip(self.moves, self.names, strict=True))

    @cached_property
    def _meant(self) -> dict[str, str]:
        return dict(zip(self.names, self.moves, strict=True))


NAMED_LEGENDS = tuple(_COMPASS_ORDERS)


def named_legend(name: str, absolute: bool) -> Legend:
    """Return one of NAMED_LEGENDS. Raises KeyError for another name."""
    moves = moves_of(absolute)
    order = (_COMPASS_ORDERS if absolute else _RELATIVE_ORDERS)[name]
    return Legend(moves, tuple(moves[number] for number in order))


def random_legend(rng: np.random.Generator, absolute: bool) -> Legend:
    """Draw any permutation of the moves but the named ones, so that the unseen legends of an
    evaluation stay unseen by a policy that met these, and the order of its lines, so that they are
    read rather than counted. Each line is drawn now and then.
    """
    moves = moves_of(absolute)
    named = (_COMPASS_ORDERS if absolute else _RELATIVE_ORDERS).values()
    while True:
        order = tuple(rng.permutation(len(moves)).tolist())
        if order not in named:
            break
    lines = rng.permutation(len(moves)).tolist()
    return Legend(tuple(moves[line] for line in lines), tuple(moves[order[line]] for line in lines))
