"""Learn each finding's sentence from a verifier that joins the sentences on all findings.

The verifier's answer is then `before`, the findings with a `separator` between them, and `after`.
The parts are learned from answers on one finding, on two, and on one that comes several times.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gym_cards.align import mark_number
from gym_cards.examples import Comment
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


def learn_findings(wording: Wording, comments: Sequence[Comment]) -> Wording | None:
    """Return the wording with findings, their separator, and feedback that frames them. None where
    the sentences do not seem to be made so: nothing stands between two findings.
    """
    comments = comments[:: -(-len(comments) // _MAX_EXAMPLES) or 1]
    solved = [c for c in comments if c.findings[0].kind == "wrong_value"]
    alone = _texts(wording, [c for c in comments if c.findings[0].kind != "wrong_value"])
    pairs, repeated = _pairs(wording, comments), _repeated(comments)
    whole = [*alone.values()]
    whole += [text for text, _ in Counter(c.sentence for c in solved).most_common(1)]
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
    frame = before, after
    separator = _separator(wording, findings, comments, frame)
    if separator is None:
        if not halves:
            return None
        separator = Counter(between for _, between, _ in halves.values()).most_common(1)[0][0]
    # Formulas without other faults last, since each takes a look at all solutions of its hand.
    for kind, text in _texts(wording, solved[:_MAX_SOLVED]).items():
        findings[kind] = text.removeprefix(before).removesuffix(after)
    return _framed(wording, findings, separator, comments, frame)


def _framed(
    wording: Wording,
    findings: dict[str, str],
    separator: str,
    comments: Sequence[Comment],
    frame: tuple[str, str],
) -> Wording:
    """Return the wording with these findings in the frame, and those that follow from them."""
    before, after = frame
    framed = replace(
        wording,
        findings=findings,
        findings_separator=separator,
        feedback={name: f"{before}<<findings>>{after}" for name in FEEDBACK if FEEDBACK[name]},
    )
    return replace(framed, findings=findings | _remaining(framed, comments, frame))


def _texts(wording: Wording, comments: Iterable[Comment]) -> dict[str, str]:
    """Return kind -> the most frequent sentence on a finding of it that was met alone."""
    met: dict[str, Counter[str]] = defaultdict(Counter)
    for comment in comments:
        if len(comment.findings) == 1:
            kind, text = _marked(comment, wording)
            met[kind][text] += 1
    return {kind: counts.most_common(1)[0][0] for kind, counts in met.items()}


def _marked(comment: Comment, wording: Wording) -> tuple[str, str]:
    """Return (kind, text) of a sentence on one finding, with placeholders for what it is about."""
    (finding,) = comment.findings
    kind, text = finding.kind, comment.sentence
    if finding.offending:
        text = text.replace(wording.reply_numbers.write(finding.offending), _OFFENDING)
    elif kind == "wrong_value":
        tokens = tokenize(comment.formula.partition("=")[0])
        prefix = longest_opening(tokens, comment.example.numbers, comment.example.target)
        if prefix:
            kind, text = PARTLY_RIGHT, text.replace(prefix, "<<prefix>>")
        text = mark_number(text, comment.example.target, "<<target>>")
    return kind, text


# Sentences on two findings about numbers. Some kinds of these are hardly ever met alone: a number
# that is not in the hand stands in the place of one that is.


def _pairs(wording: Wording, comments: Iterable[Comment]) -> dict[tuple[str, str], tuple[str, int]]:
    """Return kinds -> the most frequent sentence on two findings, with placeholders for their
    numbers, and where its first half ends: at the punctuation that follows the first numbers, or
    right behind them.
    """
    met: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for comment in comments:
        if len(comment.findings) == 2 and all(f.offending for f in comment.findings):
            text = _mark_offending(comment, wording)
            if text is not None:
                first, second = comment.findings
                met[first.kind, second.kind][text] += 1
    pairs = {}
    for kinds, counts in met.items():
        text = counts.most_common(1)[0][0]
        first_mark, second_mark = list(_LISTED.finditer(text))[:2]
        joint = _JOINT.search(text, first_mark.end(), second_mark.start())
        pairs[kinds] = text, joint.start() if joint else first_mark.end()
    return pairs


def _mark_offending(comment: Comment, wording: Wording) -> str | None:
    """Return a sentence with placeholders for the numbers of its findings; None where it does not
    name them in order.
    """
    text, at = comment.sentence, 0
    for finding in comment.findings:
        listed = re.escape(wording.reply_numbers.write(finding.offending))
        match = re.compile(rf"(?<!\w){listed}(?!\w)").search(text, at)
        if match is None:
            return None
        text = text[: match.start()] + _OFFENDING + text[match.end() :]
        at = match.start() + len(_OFFENDING)
    return text


def _halves(text: str, cut: int, second: str | None) -> tuple[str, str, str]:
    """Return (first half, separator, second half) of a sentence on two findings; `second` is the
    sentence on the second finding alone, if it was met so.
    """
    if second is not None and text.endswith(second) and len(text) - len(second) > cut:
        end = len(text) - len(second)
    else:
        joint = _JOINT.match(text, cut)
        end = joint.end() if joint else cut + 1
    return text[:cut], text[cut:end], text[end:]


def _repeated(comments: Iterable[Comment]) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Return, for a kind of finding that was met three times or more in a reply, the parts of the
    most frequent sentence: (its beginning with the finding, separator, the finding with its end).
    """
    met: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    for comment in comments:
        (kind, *others), count = {f.kind for f in comment.findings}, len(comment.findings)
        if not others and count > 2:
            met[kind][comment.sentence, count] += 1
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
    """Return what all texts begin with, up to a space or opening bracket, short of any numbers."""
    first, last = min(texts), max(texts)
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    length = min([length, *(m.start() for text in texts if (m := _LISTED.search(text)))])
    opening = re.match(r"(?s:.*[\s(\[{<\"“])?", first[:length])
    return opening[0] if opening else ""


def _after(texts: Sequence[str]) -> str:
    """Return what all texts end with that is no letter, short of any numbers."""
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
    wording: Wording, findings: dict[str, str], comments: Iterable[Comment], frame: tuple[str, str]
) -> str | None:
    """Return what most often stands between the texts of two findings."""
    before, after = frame
    counts: Counter[str] = Counter()
    for comment in comments:
        if len(comment.findings) != 2 or not {f.kind for f in comment.findings} <= set(findings):
            continue
        first, second = (_say(wording, findings, finding) for finding in comment.findings)
        start, end, sentence = before + first, second + after, comment.sentence
        if (
            sentence.startswith(start)
            and sentence.endswith(end)
            and len(sentence) > len(start) + len(end)
        ):
            counts[sentence[len(start) : len(sentence) - len(end)]] += 1
    return counts.most_common(1)[0][0] if counts else None


def _remaining(
    wording: Wording, comments: Iterable[Comment], frame: tuple[str, str]
) -> dict[str, str]:
    """Return the texts of findings that were met only repeated, or among others that are known."""
    met: dict[str, Counter[str]] = defaultdict(Counter)
    for comment in comments:
        unknown = {f.kind for f in comment.findings if f.kind not in wording.findings}
        if len(unknown) == 1 and len(comment.findings) > 1:
            kind = unknown.pop()
            text = _solve(wording, comment, kind, frame)
            if text:
                met[kind][text] += 1
    return {kind: counts.most_common(1)[0][0] for kind, counts in met.items()}


def _solve(wording: Wording, comment: Comment, kind: str, frame: tuple[str, str]) -> str | None:
    """Return what a sentence says of the one kind of finding that is not known; None where the rest
    of the sentence is not as expected.
    """
    before, after = frame
    sentence = comment.sentence
    if not (sentence.startswith(before) and sentence.endswith(after)):
        return None
    inner = sentence[len(before) : len(sentence) - len(after)]
    known = dict(wording.findings) | {kind: ""}
    parts = [_say(wording, known, finding) for finding in comment.findings]
    places = [i for i, finding in enumerate(comment.findings) if finding.kind == kind]
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
    offending = comment.findings[places[0]].offending
    return text.replace(wording.reply_numbers.write(offending), _OFFENDING) if offending else text
