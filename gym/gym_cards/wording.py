"""Derives a wording file from SFT data, so that a checkpoint meets the wording it was trained on.

`python -m gym_cards.wording DATA.json --out FILE`, and then `prompt_file=FILE` in every command.

Nothing is known of the data but that a reply names its cards, numbers and formula. These are looked
for in the texts and become placeholders. What J, Q and K count as follows from cards and numbers,
and is looked for behind (or before) the names of the faces. The most frequent template wins, and is
then tested: it explains those texts that it gives back to the letter.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gym_cards.align import Votes, find_values, listing_pattern, mark_number, put
from gym_cards.formula import evaluate, find_faults, foreign_characters, tokenize
from gym_cards.joined import KINDS_SAID, Heard, learn_findings
from gym_cards.prompts import OWN, Listing, Wording, kind_of, read_wording
from gym_cards.rules import FACES, RANKS, FaceRule
from gym_cards.solver import solve
from gym_cards.verifier import CORRECT_SOLUTION, FEEDBACK, REPLY_FIELDS, Finding, verify
from gym_dialogue.errors import InputError
from gym_dialogue.messages import Message
from gym_dialogue.parse import read_fields
from gym_dialogue.templates import MARK
from gym_dialogue.wording import run

MIN_SHARE = 0.5
"""A template that explains a smaller share of its texts is not used."""

_SAMPLE = 2000  # examples that vote on how lists are written
_MAX_REPLIES = 20  # budgets of replies that are tried as an explanation of a number in feedback


@dataclass(frozen=True)
class Example:
    """A dialogue of the data. The hand is read from its last reply."""

    prompt: str
    cards: tuple[str, ...]
    numbers: tuple[int, ...]
    formula: str
    """The last reply's."""
    target: int | None
    """What it makes; None where that is no whole number."""
    replies: tuple[str, ...]
    sentences: tuple[str, ...]
    """What was said of each reply but the last."""
    rule: FaceRule | None = None
    """What its prompt says of the faces, once that is found."""

    @property
    def faces(self) -> dict[str, int]:
        """What the faces of the hand count as."""
        pairs = zip(self.cards, self.numbers, strict=True)
        return {card: number for card, number in pairs if card in FACES}


@dataclass(frozen=True)
class Derived:
    """A wording and what is to be said of it."""

    wording: Wording
    summary: list[str]
    """Lines: what was read and how much of it the wording explains."""


def read_example(messages: Sequence[Message]) -> Example | None:
    """A dialogue as an example; None where its last reply does not name a hand."""
    if messages[0].role == "system":
        messages = messages[1:]
    replies = tuple(m.text for m in messages[1::2])
    fields = read_fields(replies[-1], REPLY_FIELDS)
    cards = tuple(str(card).strip().upper() for card in fields["cards"] or ())
    numbers = tuple(n for n in fields["number"] or () if isinstance(n, int))
    if len(cards) < 2 or len(cards) != len(numbers) or not fields["formula"]:
        return None
    for card, number in zip(cards, numbers, strict=True):
        if card not in RANKS or (card not in FACES and number != RANKS.index(card) + 1):
            return None
    target = None
    expression = fields["formula"].partition("=")[0]
    tokens = tokenize(expression)
    if not foreign_characters(expression) and not find_faults(tokens)[0]:
        value = evaluate(tokens)
        target = int(value) if value is not None and value.denominator == 1 else None
    sentences = tuple(m.text for m in messages[2::2])
    formula = fields["formula"]
    return Example(messages[0].text, cards, numbers, formula, target, replies, sentences)


def derive(dialogues: Iterable[Sequence[Message]]) -> Derived:
    """The wording of SFT data. Raises InputError where too little of it can be explained."""
    total = with_system = 0
    examples = []
    for messages in dialogues:
        total += 1
        with_system += messages[0].role == "system"
        example = read_example(messages)
        if example is not None:
            examples.append(example)
    read = len(examples)
    if read < MIN_SHARE * total:
        raise InputError(
            f"only {read} of {total} dialogues end with a reply whose cards, number and formula "
            "can be read: give SFT data of GeneralPoints"
        )
    for example in examples:
        for text in (example.prompt, *example.sentences, *example.replies):
            if MARK.search(text):
                raise InputError(
                    f"a text holds {MARK.search(text)[0]!r}, which a wording file would read as a "
                    "placeholder: rename it in the data"
                )
    if all(e.target is None for e in examples):
        raise InputError("no formula of a last reply makes a whole number: give right replies")
    usual = _most_common(e.target for e in examples if e.target is not None)
    examples = [replace(e, target=usual if e.target is None else e.target) for e in examples]

    wording, examples, met = _derive_prompt(examples)
    right = [
        wording.task_prompt(e.cards, e.rule, e.target, len(e.cards)) == e.prompt for e in examples
    ]
    summary = [f"read: {read} of {total} dialogues with a reply that names its hand"]
    if with_system:
        summary.append(
            f"system: {with_system} dialogues open with a system message, which the environment "
            "does not send"
        )
    counts = ", ".join(
        f"{'/'.join(map(str, rule.numbers(FACES)))} ({n})" for rule, n in met.most_common(5)
    )
    more = f" and {len(met) - 5} more" if len(met) > 5 else ""
    summary.append(f"rules met (J/Q/K): {counts}{more}")
    kinds = {kind_of(rule) for rule in met}
    if len(kinds) == 1:
        other = "do not all count" if kinds == {"same"} else "all count"
        summary.append(
            f"rules: none where J, Q and K {other} the same was met; it is worded alike, which the "
            "data does not show"
        )
    share = sum(right) / total
    summary.append(f"prompt: explains {_percent(share)} of the dialogues")
    if share < MIN_SHARE:
        raise InputError(
            f"the most frequent prompt explains {_percent(share)} of {total} dialogues, and must "
            f"explain {_percent(MIN_SHARE)}: give data with one wording"
        )
    sizes = {len(e.cards) for e in examples}
    wording = replace(wording, num_cards=sizes.pop() if len(sizes) == 1 else None)
    wording, lines = _derive_reply(wording, examples)
    summary += lines
    wording, lines = _derive_feedback(wording, examples)
    read_wording(wording.to_json(), "the wording that was found")
    return Derived(wording, summary + lines)


# The prompt.


def _derive_prompt(
    examples: Sequence[Example],
) -> tuple[Wording, list[Example], Counter[FaceRule]]:
    """(wording with its prompt, the examples with their rules, how often each rule was met)."""
    listings = Counter(
        Listing(match["quote"], match["separator"])
        for e in _sample(examples)
        if (match := listing_pattern(e.cards).search(e.prompt))
    )
    if not listings:
        raise InputError("the cards of the replies are not found in the prompts, however listed")
    cards = listings.most_common(1)[0][0]
    groups: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        listed = cards.write(example.cards)
        if listed in example.prompt:
            groups[example.prompt.replace(listed, "<<cards>>")].append(index)
    examples = list(examples)
    met: Counter[FaceRule] = Counter()
    votes = Votes()
    for text, indices in groups.items():
        known = _most_common_values(examples[i].faces for i in indices)
        found = find_values(text, known)
        if found is None:
            continue
        spots, rule = found
        target = _most_common(examples[i].target for i in indices)
        for i in indices:
            examples[i] = replace(examples[i], rule=rule, target=target)
        if known:  # else the rule is a guess, which the test of the template will settle
            met[rule] += len(indices)
            same, different = (
                mark_number(put(text, spots, kind), target, "<<target>>")
                for kind in ("same", "different")
            )
            votes.add(same, different, kind_of(rule), len(indices))
    if not met:
        raise InputError(
            "no sentence is found in the prompts that says what J, Q and K count as, such as the "
            f"{_most_common_values(e.faces for e in examples)} of the replies"
        )
    phrases: dict[str, dict[str, str]] = {}
    wording = Wording(votes.template(phrases), cards=cards, phrases=phrases)
    if "<<target>>" not in wording.prompt:
        wording = replace(wording, target_points=_most_common(e.target for e in examples))
    usual = met.most_common(1)[0][0]
    return wording, [replace(e, rule=e.rule or usual) for e in examples], met


def _sample(examples: Sequence[Example]) -> Sequence[Example]:
    return examples[:: -(-len(examples) // _SAMPLE)]


def _most_common_values(hands: Iterable[dict[str, int]]) -> dict[str, int]:
    """What each face most often counts as."""
    hands = list(hands)
    found = {face: [hand[face] for hand in hands if face in hand] for face in FACES}
    return {face: _most_common(values) for face, values in found.items() if values}


def _most_common(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


# The form of a reply.


def _derive_reply(wording: Wording, examples: Sequence[Example]) -> tuple[Wording, list[str]]:
    forms = Counter(form for e in _sample(examples) if (form := _reply_form(e)) is not None)
    share = 0.0
    if forms:
        text, cards, numbers = forms.most_common(1)[0][0]
        found = replace(wording, reply=text, reply_cards=cards, reply_numbers=numbers)
        share = sum(
            found.format_reply(e.cards, e.numbers, e.formula.partition("=")[0], e.target)
            == e.replies[-1]
            for e in examples
        ) / len(examples)
    if share < MIN_SHARE:
        return wording, [
            f"reply: the most frequent form explains {_percent(share)}; replies of the scripted "
            "policies keep the project's own form"
        ]
    return found, [f"reply: explains {_percent(share)} of the last replies"]


def _reply_form(example: Example) -> tuple[str, Listing, Listing] | None:
    """(template, how the cards are listed, how the numbers are) of the last reply."""
    reply, spans, listings = example.replies[-1], [], []
    for key, items in (("cards", example.cards), ("number", example.numbers)):
        at = re.search(rf"\b{key}[\"']?\s*:", reply)
        match = at and listing_pattern(tuple(map(str, items))).search(reply, at.end())
        if not match:
            return None
        spans.append((*match.span(), "<<cards>>" if key == "cards" else "<<numbers>>"))
        listings.append(Listing(match["quote"], match["separator"]))
    at = re.search(r"\bformula[\"']?\s*:", reply)
    start = reply.find(example.formula, at.end()) if at else -1
    if start < 0:
        return None
    _, equals, tail = example.formula.partition("=")
    mark = "<<formula>>" + equals + mark_number(tail, example.target, "<<target>>")
    spans.append((start, start + len(example.formula), mark))
    for start, end, mark in sorted(spans, reverse=True):
        reply = reply[:start] + mark + reply[end:]
    return reply, *listings


# Feedback.


@dataclass(frozen=True)
class _Heard:
    """A sentence of the data on a wrong reply."""

    example: Example
    findings: tuple[Finding, ...]
    formula: str
    used: int
    sentence: str

    @property
    def outcome(self) -> str:
        return self.findings[0].outcome


def _derive_feedback(wording: Wording, examples: Sequence[Example]) -> tuple[Wording, list[str]]:
    heard = []
    for example in examples:
        for used, sentence in enumerate(example.sentences, start=1):
            verdict = verify(
                example.replies[used - 1], example.cards, example.numbers, example.target
            )
            if not verdict.is_right:
                formula = verdict.info["formula"] or ""
                findings = verdict.info["findings"]
                heard.append(_Heard(example, findings, formula, used, sentence))
    if not heard:
        return wording, ["feedback: no example; the project's own"]
    texts = Counter((h.outcome, h.example.rule, _mark_feedback(h, wording), h.used) for h in heard)
    tries = [(budget, used) for budget in [None, *range(1, _MAX_REPLIES + 1)] for used in (0, 1)]
    # The first of those that leave the fewest templates to be told apart.
    budget, marks_used = max(tries, key=lambda how: _frequency(texts, *how))
    votes: dict[str, Votes] = defaultdict(Votes)
    for (outcome, rule, text, used), count in texts.items():
        text = _mark_replies(text, used, budget, marks_used)
        found = find_values(text, dict(zip(FACES, rule.numbers(FACES), strict=True)))
        spots = found[0] if found else []
        same, different = put(text, spots, "same"), put(text, spots, "different")
        votes[outcome].add(same, different, kind_of(rule), count)
    joined = learn_findings(
        wording,
        [
            Heard(h.sentence, h.findings, h.formula, h.example.numbers, h.example.target)
            for h in heard
        ],
    )
    feedback, phrases, lines, missing = {}, dict(wording.phrases), [], []
    findings: dict[str, str] = {}
    for outcome in FEEDBACK:
        if outcome == CORRECT_SOLUTION:
            continue
        mine = [h for h in heard if h.outcome == outcome]
        if not mine:
            missing.append(f"{outcome} (no example)")
            continue
        tried = dict(phrases)
        text = votes[outcome].template(tried)
        candidate = replace(wording, feedback={outcome: text}, phrases=tried)
        share = _share_said(candidate, mine, budget)
        joined_share = 0.0 if joined is None else _share_said(joined, mine, budget)
        if joined is not None and joined_share >= share:
            share, text, tried = joined_share, joined.feedback[outcome], phrases
            findings = dict(joined.findings)
        if share < MIN_SHARE:
            missing.append(f"{outcome} (the most frequent sentence explains {_percent(share)})")
            continue
        feedback[outcome], phrases = text, tried
        lines.append(f"feedback: {outcome}: explains {_percent(share)} of {len(mine)} sentences")
    if missing:
        lines.append(f"feedback: the project's own for {', '.join(missing)}")
    wording = replace(wording, feedback=feedback, phrases=phrases, findings=findings)
    if findings:
        wording = replace(wording, findings_separator=joined.findings_separator)
        lines.append(f"feedback: names all of {', '.join(sorted(findings))}")
        framed = [outcome for outcome, text in feedback.items() if "<<findings>>" in text]
        own = {kind for outcome in framed for kind in KINDS_SAID[outcome]} - set(findings)
        if own:
            lines.append(
                "feedback: in that frame the project's own sentence, as the data has none, for "
                + ", ".join(sorted(own))
            )
    return wording, lines


def _share_said(wording: Wording, heard: Sequence[_Heard], budget: int | None) -> float:
    return sum(_said(wording, h, budget) == h.sentence for h in heard) / len(heard)


def _said(wording: Wording, heard: _Heard, budget: int | None) -> str:
    example = heard.example
    return wording.feedback_to(
        heard.findings,
        example.cards,
        example.numbers,
        example.rule,
        example.target,
        heard.formula,
        heard.used,
        (budget or 0) - heard.used,
    )


def _mark_feedback(heard: _Heard, wording: Wording) -> str:
    """A sentence with placeholders for what it repeats of the hand and of the reply."""
    text, example = heard.sentence, heard.example
    for mark, value in (
        ("<<formula>>", heard.formula),
        ("<<expression>>", heard.formula.partition("=")[0]),
        ("<<cards>>", wording.cards.write(example.cards)),
        ("<<numbers>>", wording.reply_numbers.write(example.numbers)),
    ):
        if value:
            text = text.replace(value, mark)
    return mark_number(text, example.target, "<<target>>")


def _mark_replies(text: str, used: int, budget: int | None, marks_used: int) -> str:
    """A sentence with placeholders for how many replies were used and how many are left."""
    if budget is not None and budget >= used:
        text = mark_number(text, budget - used, "<<remaining>>")
    return mark_number(text, used, "<<used>>") if marks_used else text


def _frequency(
    texts: Counter[tuple[str, FaceRule, str, int]], budget: int | None, marks_used: int
) -> int:
    """How many sentences the most frequent template of each outcome and rule covers."""
    templates: dict[Any, Counter[str]] = defaultdict(Counter)
    for (outcome, rule, text, used), count in texts.items():
        templates[outcome, rule][_mark_replies(text, used, budget, marks_used)] += count
    return sum(max(counts.values()) for counts in templates.values())


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# The command.


def derive_from_data(dialogues: Iterable[Sequence[Message]]) -> tuple[dict[str, Any], list[str]]:
    """(content of a wording file, lines on what was read, how much of it the wording explains, and
    how it reads). Raises InputError where too little can be explained.
    """
    derived = derive(dialogues)
    return derived.wording.to_json(), [*derived.summary, *describe(derived.wording)]


def describe(wording: Wording) -> list[str]:
    """Lines with the prompt under two rules, the reply and the feedback."""
    lines: list[str] = []
    size, target = wording.num_cards or 4, wording.target_points or 24
    cards = ("A", "10", "K", "3", "Q")[:size]
    for title, name in (("ID rule", "10"), ("OOD rule", "rank")):
        prompt = wording.task_prompt(cards, FaceRule.of(name), target, size)
        lines += ["", f"prompt under the {title}:", *("  " + line for line in prompt.split("\n"))]
    numbers = FaceRule.of("10").numbers(cards)
    reply = wording.format_reply(cards, numbers, solve(numbers, target) or "...", target)
    lines += ["", "reply:", *("  " + line for line in reply.split("\n"))]
    for outcome, text in (OWN.feedback | wording.feedback).items():
        lines += ["", f"feedback, {outcome}:", *("  " + line for line in text.split("\n"))]
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """The command, for this task."""
    run(argv, "gp_l")


if __name__ == "__main__":
    main()
