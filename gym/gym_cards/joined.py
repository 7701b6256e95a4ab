"""Learns, from sentences of a verifier that joins all that it found, how each finding is said."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gym_cards.align import mark_number
from gym_cards.formula import tokenize
from gym_cards.printed import longest_opening
from gym_cards.prompts import PARTLY_RIGHT, Wording
from gym_cards.verifier import (
    FEEDBACK,
    ILLEGAL_FORMULA,
    INCORRECT_NUMBER,
    INCORRECT_VISION,
    NO_SOLUTION,
    PARTIAL_SOLUTION,
    Finding,
)

_MAX_EXAMPLES = 2000
_MAX_SOLVED = 200

_NUMBER_KINDS = ("foreign_numbers", "overused_numbers", "unused_numbers")
KINDS_SAID = {
    ILLEGAL_FORMULA: (
        "unreadable",
        "foreign_character",
        "number_order",
        "operator_order",
        "open_order",
        "close_order",
        "unmatched",
        *_NUMBER_KINDS,
    ),
    INCORRECT_NUMBER: _NUMBER_KINDS,
    INCORRECT_VISION: ("wrong_cards",),
    NO_SOLUTION: ("wrong_value",),
    PARTIAL_SOLUTION: ("partial",),
}
"""outcome -> the kinds of findings that feedback on it may have to name."""

_OFFENDING = "<<offending>>"
# The numbers of a finding, with the brackets or quotes right around them.
_LISTED = re.compile(
    r"\[<<offending>>\]|\(<<offending>>\)|\{<<offending>>\}|([\"'`])<<offending>>\1|<<offending>>"
)
_JOINT = re.compile(r"\s*[^\w\s()\[\]{}<>\"'`]\s*|\s*\n\s*")


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
    do not seem to be made so: nothing is found that stands between two findings.
    """
    heard = heard[:: -(-len(heard) // _MAX_EXAMPLES) or 1]
    solved = [h for h in heard if h.findings[0].kind == "wrong_value"]
    alone = _texts(wording, [h for h in heard if h.findings[0].kind != "wrong_value"])
    pairs, repeated = _pairs(wording, heard), _repeated(heard)
    whole = [*alone.values()]
    whole += [text for text, _ in Counter(h.sentence for h in solved).most_common(1)]
    starts = [*whole, *(text[:cut] for text, cut in pairs.values())]
    starts += [first for first, _, _ in repeated.values()]
    if len(set(starts)) < 2:
        return None
    before = _before(starts)
    rest = {kind: text[len(before) :] for kind, text in alone.items()}
    halves = {kinds: _halves(*pair, rest.get(kinds[1])) for kinds, pair in pairs.items()}
    halves |= repeated
    ends = [text[len(before) :] for text in whole] + [second for _, _, second in halves.values()]
    if len(set(ends)) < 2:
        return None
    after = _after(ends)
    findings = {kind: text.removesuffix(after) for kind, text in rest.items()}
    for kinds, (first, _, second) in halves.items():
        findings.setdefault(kinds[0], first[len(before) :])
        findings.setdefault(kinds[1], second.removesuffix(after))
    separator = _separator(wording, findings, heard, (before, after))
    if separator is None:
        separators = Counter(separator for _, separator, _ in halves.values())
        if not separators:
            return None
        separator = separators.most_common(1)[0][0]
    # Formulas without other faults last, since each takes a look at all solutions of its hand.
    for kind, text in _texts(wording, solved[:_MAX_SOLVED]).items():
        findings[kind] = text.removeprefix(before).removesuffix(after)
    found = replace(
        wording,
        findings=findings,
        findings_separator=separator,
        feedback={name: f"{before}<<findings>>{after}" for name in FEEDBACK if FEEDBACK[name]},
    )
    return replace(found, findings=findings | _remaining(found, heard, (before, after)))


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
        text = text.replace(wording.reply_numbers.write(finding.offending), _OFFENDING)
    elif kind == "wrong_value":
        tokens = tokenize(example.formula.partition("=")[0])
        prefix = longest_opening(tokens, example.numbers, example.target)
        if prefix:
            kind, text = PARTLY_RIGHT, text.replace(prefix, "<<prefix>>")
        text = mark_number(text, example.target, "<<target>>")
    return kind, text


# Sentences on two findings about numbers. Some kinds of these are hardly ever met alone: a number
# that is not in the hand stands in the place of one that is.


def _pairs(wording: Wording, heard: Iterable[Heard]) -> dict[tuple[str, str], tuple[str, int]]:
    """The most frequent sentence on two findings, with placeholders for their numbers, and where
    its first half ends: at the punctuation that follows the first numbers, or right behind them.
    """
    met: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for example in heard:
        if len(example.findings) == 2 and all(f.offending for f in example.findings):
            text, at = example.sentence, 0
            for finding in example.findings:
                listed = re.escape(wording.reply_numbers.write(finding.offending))
                match = re.compile(rf"(?<!\w){listed}(?!\w)").search(text, at)
                if match is None:
                    break
                text = text[: match.start()] + _OFFENDING + text[match.end() :]
                at = match.start() + len(_OFFENDING)
            else:
                first, second = example.findings
                met[first.kind, second.kind][text] += 1
    pairs = {}
    for kinds, counts in met.items():
        text = counts.most_common(1)[0][0]
        first, second = list(_LISTED.finditer(text))[:2]
        joint = _JOINT.search(text, first.end(), second.start())
        pairs[kinds] = text, joint.start() if joint else first.end()
    return pairs


def _halves(text: str, cut: int, second: str | None) -> tuple[str, str, str]:
    """(first half, separator, second half) of a sentence on two findings; `second` is what was
    said of the second finding alone, if it was met so.
    """
    if second is not None and text.endswith(second) and len(text) - len(second) > cut:
        end = len(text) - len(second)
    else:
        joint = _JOINT.match(text, cut)
        end = joint.end() if joint else cut + 1
    return text[:cut], text[cut:end], text[end:]


def _repeated(heard: Iterable[Heard]) -> dict[tuple[str, str], tuple[str, str, str]]:
    """The most frequent sentence on one kind of finding that was met three times or more in a
    reply: (what it begins with, with the finding, separator, the finding, with what it ends with).
    """
    met: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    for example in heard:
        (kind, *others), count = {f.kind for f in example.findings}, len(example.findings)
        if not others and count > 2:
            met[kind][example.sentence, count] += 1
    halves = {}
    for kind, counts in met.items():
        sentence, count = counts.most_common(1)[0][0]
        again = rf"(?P<joint>\W+)(?P=text)(?:(?P=joint)(?P=text)){{{count - 2}}}"
        match = re.search(rf"\b(?P<text>\w.*\w){again}", sentence, re.DOTALL)
        if match:
            first, second = sentence[: match.end("text")], match["text"] + sentence[match.end() :]
            halves[kind, kind] = first, match["joint"], second
    return halves


# What stands around and between findings.


def _before(texts: Sequence[str]) -> str:
    """What all texts begin with, up to a space or an opening bracket, short of any numbers."""
    first, last = min(texts), max(texts)
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    length = min([length, *(m.start() for text in texts if (m := _LISTED.search(text)))])
    return re.match(r"(?s:.*[\s(\[{<\"“])?", first[:length])[0]


def _after(texts: Sequence[str]) -> str:
    """What all texts end with that is no letter, short of any numbers."""
    most = min(len(text) - max([0, *(m.end() for m in _LISTED.finditer(text))]) for text in texts)
    length = 0
    while length < most and len({text[-length - 1] for text in texts}) == 1:
        length += 1
    after = texts[0][len(texts[0]) - length :]
    # A last word that findings share by chance belongs to them.
    at = next((i for i, character in enumerate(after) if not character.isalnum()), len(after))
    return after[at:]


def _say(wording: Wording, findings: dict[str, str], finding: Finding) -> str:
    return findings[finding.kind].replace(
        _OFFENDING, wording.reply_numbers.write(finding.offending)
    )


def _separator(
    wording: Wording, findings: dict[str, str], heard: Iterable[Heard], frame: tuple[str, str]
) -> str | None:
    """What most often stands between the texts of two findings."""
    before, after = frame
    counts: Counter[str] = Counter()
    for example in heard:
        if len(example.findings) != 2 or not {f.kind for f in example.findings} <= set(findings):
            continue
        first, second = (_say(wording, findings, finding) for finding in example.findings)
        start, end, sentence = before + first, second + after, example.sentence
        if (
            sentence.startswith(start)
            and sentence.endswith(end)
            and len(sentence) > len(start) + len(end)
        ):
            counts[sentence[len(start) : len(sentence) - len(end)]] += 1
    return counts.most_common(1)[0][0] if counts else None


def _remaining(wording: Wording, heard: Iterable[Heard], frame: tuple[str, str]) -> dict[str, str]:
    """The texts of findings that were met only repeated, or among others that are known."""
    met: dict[str, Counter[str]] = defaultdict(Counter)
    for example in heard:
        unknown = {f.kind for f in example.findings if f.kind not in wording.findings}
        if len(unknown) == 1 and len(example.findings) > 1:
            kind = unknown.pop()
            text = _solve(wording, example, kind, frame)
            if text:
                met[kind][text] += 1
    return {kind: counts.most_common(1)[0][0] for kind, counts in met.items()}


def _solve(wording: Wording, example: Heard, kind: str, frame: tuple[str, str]) -> str | None:
    """What a sentence says of the one kind of finding that is not known: all else has its place."""
    before, after = frame
    sentence = example.sentence
    if not (sentence.startswith(before) and sentence.endswith(after)):
        return None
    inner = sentence[len(before) : len(sentence) - len(after)]
    known = dict(wording.findings) | {kind: ""}
    parts = [_say(wording, known, finding) for finding in example.findings]
    places = [i for i, finding in enumerate(example.findings) if finding.kind == kind]
    separator = wording.findings_separator
    length, over = divmod(len(inner) - len(separator.join(parts)), len(places))
    if over or length <= 0:
        return None
    start = len(separator.join(parts[: places[0] + 1]))
    text = inner[start : start + length]
    for i in places:
        parts[i] = text
    if separator.join(parts) != inner:
        return None
    offending = example.findings[places[0]].offending
    return text.replace(wording.reply_numbers.write(offending), _OFFENDING) if offending else text
