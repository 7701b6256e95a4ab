"""Find in foreign texts what a wording has placeholders for: the cards, what J, Q, K count as.

Nothing is assumed of the words but the names of the faces, and that what belongs together stands in
one sentence.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise

from gym_cards.prompts import Kind
from gym_cards.rules import FACES, MAX_VALUE, FaceRule


@lru_cache(maxsize=4096)
def listing_pattern(items: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern of two or more items in this order, in equal quotes (group `quote`, or none)
    and with the same `separator` between any two.
    """
    first, second, *rest = map(re.escape, items)
    quote, separator = r"(?P<quote>[\"'`]?)", r"(?P<separator>[^\w\"'`]{1,60})"
    again = "".join(rf"(?P=separator)(?P=quote){item}(?P=quote)" for item in rest)
    return re.compile(
        rf"(?<!\w){quote}{first}(?P=quote){separator}(?P=quote){second}(?P=quote){again}(?!\w)"
    )


def mark_number(text: str, number: int, mark: str) -> str:
    """Return the text with a placeholder for a number that stands by itself."""
    return re.sub(rf"(?<![\d.]){number}(?!\d|\.\d)", lambda _: mark, text)


# Where a text says what the faces count as.

_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n\s*\n|\n(?=\s*(?:[-*•]|\d+[.)])\s)|<<[a-z]+>>")
_TOKEN = re.compile(
    r"(?<![\w<])(?:(?P<J>J|[Jj]acks?)|(?P<Q>Q|[Qq]ueens?)|(?P<K>K|[Kk]ings?)"
    r"|(?P<all>[Ff]aces|(?:[Ff]ace|[Cc]ourt|[Pp]icture)[ -]cards?)"
    r"|(?P<number>\d{1,2}))(?!\w)"
)
_JOINT = re.compile(r"[^\w\n]{0,4}(?:and|or)?[^\w\n]{0,4}")  # between the items of a list
_SAYS = re.compile(r"[=:→>]|(?!(?:and|or|nor|plus|through)\b)\b[^\W\d_]+")
_VALUE = re.compile(r"<<[JQK]>>\S*\s*$")
_QUOTES = "\"'`"


@dataclass(frozen=True)
class Spot:
    """A place in a text that says what faces count as, and what a template has there."""

    start: int
    end: int
    same: str
    different: str


@dataclass
class _Run:
    """Faces named one after another in a sentence, and the numbers next to them."""

    faces: list[str]
    start: int
    end: int
    joints: list[str]
    before: list[re.Match[str]]
    after: list[re.Match[str]]


def put(text: str, spots: Sequence[Spot], kind: Kind) -> str:
    """Return the text with the placeholders of one kind of rule at its spots."""
    for spot in sorted(spots, key=lambda s: -s.start):
        text = text[: spot.start] + getattr(spot, kind) + text[spot.end :]
    return text


def find_values(text: str, known: dict[str, int]) -> tuple[list[Spot], FaceRule] | None:
    """Return where a text says what J, Q and K count as, and the rule that it states; None unless
    it says so of all three.

    `known` is what is known already of some faces, which the text must not contradict. The numbers
    stand behind the faces (`J, Q and K count as 10`) or, if not, before them (`10 for J, Q, K`).
    """
    runs = list(_runs(text))
    for before in (False, True):
        spots: list[Spot] = []
        rule: dict[str, int] = {}
        for run in runs:
            reading = _read_run(text, run, known | rule, before)
            if reading is not None:
                spots += reading[0]
                rule |= reading[1]
        if set(rule) == set(FACES) and all(1 <= v <= MAX_VALUE for v in rule.values()):
            return spots, FaceRule(rule["J"], rule["Q"], rule["K"])
    return None


def _runs(text: str) -> Iterator[_Run]:
    """Yield the faces named in each sentence, cut apart by the numbers between them."""
    start = 0
    for end in [*(m.start() + 1 for m in _SENTENCE_END.finditer(text)), len(text)]:
        run, numbers, last = None, [], None
        for token in _TOKEN.finditer(text, start, end):
            if token["number"]:
                numbers.append(token)
                continue
            if run is None or numbers:
                if run is not None:
                    run.after = numbers
                    yield run
                run = _Run([], token.start(), token.end(), [], numbers, [])
                numbers, last = [], None
            run.end = token.end()
            face = token.lastgroup
            if face not in FACES:  # "face cards": all three, named or not
                continue
            if face not in run.faces:
                if last is not None:
                    run.joints.append(text[last : token.start()])
                run.faces.append(face)
            last = token.end()
        if run is not None:
            run.after = numbers
            yield run
        start = end


def _read_run(
    text: str, run: _Run, known: dict[str, int], before: bool
) -> tuple[list[Spot], dict[str, int]] | None:
    """Return the places that say what one run of faces counts as, and the values. A list of as many
    numbers as faces is tried first, then one number for all of them, the nearest that fits.
    """
    faces = run.faces or list(FACES)
    numbers = run.before[::-1] if before else run.after

    def says(number: re.Match[str]) -> bool:
        gap = text[number.end() : run.start] if before else text[run.end : number.start()]
        return bool(_SAYS.search(gap))

    def fits(values: dict[str, int]) -> bool:
        return all(known.get(face, value) == value for face, value in values.items())

    if len(faces) > 1 and not before:
        for i in range(len(numbers) - len(faces) + 1):
            part = numbers[i : i + len(faces)]
            gaps = [text[a.end() : b.start()] for a, b in pairwise(part)]
            values = {f: int(n[0]) for f, n in zip(faces, part, strict=True)}
            if fits(values) and says(part[0]) and all(_JOINT.fullmatch(gap) for gap in gaps):
                marks = (f"<<{face}>>" for face in faces)
                return [
                    Spot(*n.span(), mark, mark) for n, mark in zip(part, marks, strict=True)
                ], values
    for number in numbers:
        values = dict.fromkeys(faces, int(number[0]))
        if fits(values) and says(number):
            return [_one_for_all(text, number, faces, run.joints)], values
    return None


def _one_for_all(
    text: str, number: re.Match[str], faces: Sequence[str], joints: Sequence[str]
) -> Spot:
    """Return the spot of one number for several faces: where they differ, a list of numbers, in the
    same quotes and joined like the faces are, takes its place.
    """
    start, end = number.span()
    quote = text[start - 1 : start]
    if quote and quote in _QUOTES and text[end : end + 1] == quote:
        start, end = start - 1, end + 1
    else:
        quote = ""
    plain = [re.sub(r"[\"'`()*\[\]]", "", joint) for joint in joints]
    if len(plain) != len(faces) - 1 or not all(_JOINT.fullmatch(j) and j.strip() for j in plain):
        plain = [", "] * (len(faces) - 1)
    items = [f"{quote}<<{face}>>{quote}" for face in faces]
    different = "".join(a + b for a, b in zip(items, [*plain, ""], strict=True))
    return Spot(start, end, items[0], different)


class Votes:
    """Counts templates of the same text, each under the kind of rule that it was met under."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._other: dict[str, str] = {}

    def add(self, same: str, different: str, kind: Kind, count: int = 1) -> None:
        """Count a template as it was met, under rules of one kind, and as it is under the other."""
        written, other = (same, different) if kind == "same" else (different, same)
        self._counts[kind][written] += count
        self._other[written] = other

    def template(self, phrases: dict[str, dict[str, str]]) -> str:
        """Return the most frequent template. What differs between rules with equal values and
        others comes to `phrases`; where only one of the two was met, the other is written like it.
        """
        best = {kind: counts.most_common(1)[0][0] for kind, counts in self._counts.items()}
        same = best.get("same") or self._other[best["different"]]
        different = best.get("different") or self._other[best["same"]]
        return fold(same, different, phrases)


def fold(same: str, different: str, phrases: dict[str, dict[str, str]]) -> str:
    """Return one template made of two: the words in which they differ are added to `phrases`."""
    a, b = (re.findall(r"\s+|\S+", text) for text in (same, different))
    changes: list[list[int]] = []
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        start = changes[-1][1] if changes else 0
        while a0 > start and _VALUE.search("".join(a[max(start, a0 - 2) : a0])):
            a0, b0 = a0 - 1, b0 - 1  # a value right before the change belongs to it
        if changes and a0 - changes[-1][1] <= 3:  # a word in between belongs to the phrase
            changes[-1][1], changes[-1][3] = a1, b1
        else:
            changes.append([a0, a1, b0, b1])
    text, done = "", 0
    for a0, a1, b0, b1 in changes:
        pair = ["".join(a[a0:a1]), "".join(b[b0:b1])]
        tail = ""
        while pair[0] and pair[0][-1] == pair[1][-1:] and pair[0][-1] in ".,;:!?)":
            tail = pair[0][-1] + tail
            pair = [pair[0][:-1], pair[1][:-1]]
        phrase = dict(zip(("same", "different"), pair, strict=True))
        name = next((n for n, p in phrases.items() if p == phrase), None)
        if name is None:
            name = "faces" if not phrases else f"faces_{len(phrases) + 1}"
            phrases[name] = phrase
        text += "".join(a[done:a0]) + f"<<{name}>>" + tail
        done = a1
    return text + "".join(a[done:])
