"""Derive a wording file from SFT data, so that a checkpoint meets the wording it was trained on.

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
from typing import Any, TypeVar

from gym_cards.align import Votes, find_values, listing_pattern, mark_number, put
from gym_cards.examples import MIN_SHARE, Example, RuledExample, most_common, percent, read_example
from gym_cards.feedback import derive_feedback
from gym_cards.prompts import OWN, Listing, Wording, kind_of, read_wording
from gym_cards.rules import FACES, FaceRule
from gym_cards.solver import solve
from gym_dialogue.errors import InputError
from gym_dialogue.messages import Message
from gym_dialogue.templates import MARK
from gym_dialogue.wording import run

_SAMPLE = 2000  # examples that vote on how lists are written
_E = TypeVar("_E", bound=Example)


@dataclass(frozen=True)
class Derived:
    """A wording and a summary of where it comes from."""

    wording: Wording
    summary: list[str]
    """Lines: what was read and how much of it the wording explains."""


@dataclass(frozen=True)
class _Data:
    """What was read of the data."""

    examples: list[Example]
    total: int
    """Dialogues, read or not."""
    with_system: int
    """Dialogues that open with a system message."""


def derive(dialogues: Iterable[Sequence[Message]]) -> Derived:
    """Return the wording of SFT data. Raises InputError where too little of it is explained."""
    data = _read(dialogues)
    _refuse_marks(data.examples)
    wording, examples, rules = _derive_prompt(data.examples)
    summary = _lines_on_data(data, rules)
    summary.append(_check_prompt(wording, examples, data.total))
    sizes = {len(example.cards) for example in examples}
    wording = replace(wording, num_cards=sizes.pop() if len(sizes) == 1 else None)
    wording, reply_lines = _derive_reply(wording, examples)
    wording, feedback_lines = derive_feedback(wording, examples)
    read_wording(wording.to_json(), "the wording derived from the data")
    return Derived(wording, [*summary, *reply_lines, *feedback_lines])


def _read(dialogues: Iterable[Sequence[Message]]) -> _Data:
    """Read the dialogues. Raises InputError unless half of them at least end with a hand."""
    total = with_system = 0
    examples = []
    for messages in dialogues:
        total += 1
        with_system += messages[0].role == "system"
        example = read_example(messages)
        if example is not None:
            examples.append(example)
    if len(examples) < MIN_SHARE * total:
        raise InputError(
            f"only {len(examples)} of {total} dialogues end with a reply whose cards, number and "
            "formula can be read: give SFT data of GeneralPoints"
        )
    return _Data(examples, total, with_system)


def _refuse_marks(examples: Sequence[Example]) -> None:
    """Raise InputError for a text that holds what a wording file reads as a placeholder."""
    for example in examples:
        for text in (example.prompt, *example.sentences, *example.replies):
            mark = MARK.search(text)
            if mark:
                raise InputError(
                    f"a text holds {mark[0]!r}, which a wording file would read as a placeholder: "
                    "rename it in the data"
                )


def _lines_on_data(data: _Data, rules: Counter[FaceRule]) -> list[str]:
    """Return lines on what was read and which rules were met."""
    lines = [
        f"read: {len(data.examples)} of {data.total} dialogues with a reply that names its hand"
    ]
    if data.with_system:
        lines.append(
            f"system: {data.with_system} dialogues open with a system message, which the "
            "environment does not send"
        )
    counts = ", ".join(
        f"{'/'.join(map(str, rule.numbers(FACES)))} ({n})" for rule, n in rules.most_common(5)
    )
    more = f" and {len(rules) - 5} more" if len(rules) > 5 else ""
    lines.append(f"rules met (J/Q/K): {counts}{more}")
    kinds = {kind_of(rule) for rule in rules}
    if len(kinds) == 1:
        other = "do not all count" if kinds == {"same"} else "all count"
        lines.append(
            f"rules: none where J, Q and K {other} the same was met; it is worded alike, which the "
            "data does not show"
        )
    return lines


# The prompt.


def _derive_prompt(
    examples: Sequence[Example],
) -> tuple[Wording, list[RuledExample], Counter[FaceRule]]:
    """Return (wording with its prompt, the examples with their rules, how often each was met)."""
    if all(e.target is None for e in examples):
        raise InputError("no formula of a last reply makes a whole number: give right replies")
    usual_target = most_common(e.target for e in examples if e.target is not None)
    targets = [usual_target if e.target is None else e.target for e in examples]
    rules: list[FaceRule | None] = [None] * len(examples)
    rule_counts: Counter[FaceRule] = Counter()
    votes = Votes()
    cards = _card_listing(examples)
    for text, indices in _group_prompts(examples, cards).items():
        known = _most_common_values(examples[i].faces for i in indices)
        values = find_values(text, known)
        if values is None:
            continue
        spots, rule = values
        target = most_common(targets[i] for i in indices)
        for i in indices:
            rules[i], targets[i] = rule, target
        if known:  # else the rule is a guess, which the test of the template will settle
            rule_counts[rule] += len(indices)
            same, different = (
                mark_number(put(text, spots, kind), target, "<<target>>")
                for kind in ("same", "different")
            )
            votes.add(same, different, kind_of(rule), len(indices))
    if not rule_counts:
        raise InputError(
            "no sentence is found in the prompts that says what J, Q and K count as, such as the "
            f"{_most_common_values(e.faces for e in examples)} of the replies"
        )
    phrases: dict[str, dict[str, str]] = {}
    wording = Wording(votes.template(phrases), cards=cards, phrases=phrases)
    if "<<target>>" not in wording.prompt:
        wording = replace(wording, target_points=most_common(targets))
    usual = rule_counts.most_common(1)[0][0]
    ruled = [
        RuledExample(**vars(example) | {"target": target}, rule=rule or usual)
        for example, target, rule in zip(examples, targets, rules, strict=True)
    ]
    return wording, ruled, rule_counts


def _card_listing(examples: Sequence[Example]) -> Listing:
    """Return how most prompts list their cards. Raises InputError where none does."""
    listings = [
        Listing(match["quote"], match["separator"])
        for example in _sample(examples)
        if (match := listing_pattern(example.cards).search(example.prompt))
    ]
    if not listings:
        raise InputError("the cards of the replies are not found in the prompts, however listed")
    return most_common(listings)


def _group_prompts(examples: Sequence[Example], cards: Listing) -> dict[str, list[int]]:
    """Return each prompt with a placeholder for its cards -> the indices of its examples."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        listed = cards.write(example.cards)
        if listed in example.prompt:
            groups[example.prompt.replace(listed, "<<cards>>")].append(index)
    return groups


def _check_prompt(wording: Wording, examples: Sequence[RuledExample], total: int) -> str:
    """Return a line on the share of dialogues whose prompt the wording gives back to the letter.
    Raises InputError where it is too small.
    """
    explained = sum(
        wording.task_prompt(e.cards, e.rule, e.target, len(e.cards)) == e.prompt for e in examples
    )
    share = explained / total
    if share < MIN_SHARE:
        raise InputError(
            f"the most frequent prompt explains {percent(share)} of {total} dialogues, and must "
            f"explain {percent(MIN_SHARE)}: give data with one wording"
        )
    return f"prompt: explains {percent(share)} of the dialogues"


def _sample(examples: Sequence[_E]) -> Sequence[_E]:
    """Return at most _SAMPLE examples, evenly spread."""
    return examples[:: -(-len(examples) // _SAMPLE)]


def _most_common_values(hands: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return what each face most often counts as."""
    hands = list(hands)
    values = {face: [hand[face] for hand in hands if face in hand] for face in FACES}
    return {face: most_common(counts) for face, counts in values.items() if counts}


# The form of a reply.


def _derive_reply(wording: Wording, examples: Sequence[RuledExample]) -> tuple[Wording, list[str]]:
    """Return the wording with the form of the last replies, and a line on what it explains."""
    forms = [form for e in _sample(examples) if (form := _reply_form(e)) is not None]
    share = 0.0
    derived = wording
    if forms:
        text, cards, numbers = most_common(forms)
        derived = replace(wording, reply=text, reply_cards=cards, reply_numbers=numbers)
        share = sum(
            derived.format_reply(e.cards, e.numbers, e.formula.partition("=")[0], e.target)
            == e.replies[-1]
            for e in examples
        ) / len(examples)
    if share < MIN_SHARE:
        return wording, [
            f"reply: the most frequent form explains {percent(share)}; replies of the scripted "
            "policies keep the project's own form"
        ]
    return derived, [f"reply: explains {percent(share)} of the last replies"]


def _reply_form(example: RuledExample) -> tuple[str, Listing, Listing] | None:
    """Return (template, how the cards are listed, how the numbers are) of the last reply."""
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
    cards, numbers = listings
    return reply, cards, numbers


# The command.


def derive_from_data(dialogues: Iterable[Sequence[Message]]) -> tuple[dict[str, Any], list[str]]:
    """Return (content of a wording file, lines on what was read, how much of it the wording
    explains, and how it reads). Raises InputError where too little is explained.
    """
    derived = derive(dialogues)
    return derived.wording.to_json(), [*derived.summary, *describe(derived.wording)]


def describe(wording: Wording) -> list[str]:
    """Return lines with the prompt under two rules, the reply and the feedback."""
    lines: list[str] = []
    size, target = wording.num_cards or 4, wording.target_points or 24
    cards = ("A", "10", "K", "3", "Q")[:size]
    for title, name in (("ID rule", "10"), ("OOD rule", "rank")):
        prompt = wording.task_prompt(cards, FaceRule.of(name), target, size)
        lines += ["", f"prompt under the {title}:", *("  " + line for line in prompt.split("\n"))]
    numbers = FaceRule.of("10").numbers(cards)
    reply = wording.format_reply(cards, numbers, solve(numbers, target) or "...", target)
    lines += ["", "reply:", *("  " + line for line in reply.split("\n"))]
    for outcome, text in {**OWN.feedback, **wording.feedback}.items():
        lines += ["", f"feedback, {outcome}:", *("  " + line for line in text.split("\n"))]
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, for this task."""
    run(argv, "gp_l")


if __name__ == "__main__":
    main()
