"""Learns, from sentences of a verifier that joins all that it found, how each finding is said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gym_cards.formula import tokenize
from gym_cards.printed import longest_opening
from gym_cards.prompts import PARTLY_RIGHT, Wording
from gym_cards.verifier import FEEDBACK, Finding

_MAX_EXAMPLES = 2000
_MAX_SOLVED = 200


@dataclass(frozen=True)
class Heard:
    """A sentence on a reply, what was found in the reply, and the hand that it was about."""

    sentence: str
    findings: tuple[Finding, ...]
    formula: str
    numbers: tuple[int, ...]
    target: int


def learn_findings(wording: Wording, heard: Sequence[Heard]) -> Wording | None:
    """The wording with findings, their separator, and feedback around them; None where sentences
    do not seem to be made so: no sentence on two findings joins what sentences on one of them say.
    """
    heard = heard[:: -(-len(heard) // _MAX_EXAMPLES) or 1]
    texts = _texts(wording, [h for h in heard if h.findings[0].kind != "wrong_value"])
    if len(set(texts.values())) < 2:
        return None
    before, after = _frame(list(texts.values()))
    separator = _separator(wording, texts, heard, (before, after))
    if separator is None:
        return None
    # Formulas without other faults last, since each takes a look at all solutions of its hand.
    texts |= _texts(
        wording, [h for h in heard if h.findings[0].kind == "wrong_value"][:_MAX_SOLVED]
    )
    end = len(after)
    return replace(
        wording,
        findings={kind: text[len(before) : len(text) - end] for kind, text in texts.items()},
        findings_separator=separator,
        feedback={name: f"{before}<<findings>>{after}" for name in FEEDBACK if FEEDBACK[name]},
    )


def _texts(wording: Wording, heard: Iterable[Heard]) -> dict[str, str]:
    """The most frequent sentence on each kind of finding that was met alone."""
    met: dict[str, Counter[str]] = defaultdict(Counter)
    for example in heard:
        if len(example.findings) == 1:
            kind, text = _marked(example, wording)
            met[kind][text] += 1
    return {kind: counts.most_common(1)[0][0] for kind, counts in met.items()}


def _marked(example: Heard, wording: Wording) -> tuple[str, str]:
    """(kind, text) of a sentence on one finding, with placeholders for what it is about."""
    (finding,) = example.findings
    kind, text = finding.kind, example.sentence
    if finding.offending:
        text = text.replace(wording.reply_numbers.write(finding.offending), "<<offending>>")
    elif kind == "wrong_value":
        tokens = tokenize(example.formula.partition("=")[0])
        prefix = longest_opening(tokens, example.numbers, example.target)
        if prefix:
            kind, text = PARTLY_RIGHT, text.replace(prefix, "<<prefix>>")
    return kind, text


def _frame(texts: Sequence[str]) -> tuple[str, str]:
    """What all texts begin with, up to a space, and what all end with that is no letter."""
    first, last = min(texts), max(texts)
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    before = first[: first.rfind(" ", 0, length) + 1]
    rest = [text[len(before) :] for text in texts]
    length = 0
    while length < min(map(len, rest)) and len({text[-length - 1] for text in rest}) == 1:
        length += 1
    after = rest[0][len(rest[0]) - length :]
    # A last word that findings share by chance belongs to them.
    at = next((i for i, character in enumerate(after) if not character.isalnum()), len(after))
    return before, after[at:]


def _separator(
    wording: Wording, texts: dict[str, str], heard: Iterable[Heard], frame: tuple[str, str]
) -> str | None:
    """What most often stands between the texts of two findings."""
    before, after = frame
    counts: Counter[str] = Counter()
    for example in heard:
        kinds = [finding.kind for finding in example.findings]
        if len(kinds) != 2 or not set(kinds) <= set(texts):
            continue
        first, second = (
            texts[finding.kind].replace(
                "<<offending>>", wording.reply_numbers.write(finding.offending)
            )
            for finding in example.findings
        )
        start, end = first.removesuffix(after), second.removeprefix(before)
        sentence = example.sentence
        if sentence.startswith(start) and sentence.endswith(end):
            counts[sentence[len(start) : len(sentence) - len(end)]] += 1
    return counts.most_common(1)[0][0] if counts else None
