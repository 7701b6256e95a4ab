"""Derives the verifier's sentences from SFT data: one template for each outcome.

A sentence may repeat the hand, the formula, or how many replies are used and left; these become
placeholders. Where the sentences seem to join all findings, `gym_cards.joined` takes them apart,
and whichever reading gives more of them back to the letter is used.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gym_cards.align import Votes, find_values, mark_number, put
from gym_cards.examples import MIN_SHARE, Comment, RuledExample, percent
from gym_cards.joined import KINDS_SAID, learn_findings
from gym_cards.prompts import Wording, kind_of
from gym_cards.rules import FACES, FaceRule
from gym_cards.verifier import CORRECT_SOLUTION, FEEDBACK, verify

_MAX_REPLIES = 20  # budgets of replies that are tried as an explanation of a number in a sentence

# (outcome, rule, sentence, replies used) -> how often it was met
_Texts = Counter[tuple[str, FaceRule, str, int]]


def derive_feedback(
    wording: Wording, examples: Sequence[RuledExample]
) -> tuple[Wording, list[str]]:
    """Return the wording with the sentences of the data, and lines on what they explain.

    An outcome whose sentences are too few, or too varied for one template, keeps the project's own.
    """
    comments = list(_comments(examples))
    if not comments:
        return wording, ["feedback: no example; the project's own"]
    votes, budget = _vote(comments, wording)
    joined = learn_findings(wording, comments)
    feedback: dict[str, str] = {}
    names_findings = False
    lines, missing = [], []
    for outcome in FEEDBACK:
        if outcome == CORRECT_SOLUTION:
            continue
        about = [comment for comment in comments if comment.outcome == outcome]
        if not about:
            missing.append(f"{outcome} (no example)")
            continue
        choice = _choose(outcome, votes[outcome], joined, wording, about, budget)
        names_findings |= choice.is_joined
        if choice.share < MIN_SHARE:
            missing.append(
                f"{outcome} (the most frequent sentence explains {percent(choice.share)})"
            )
            continue
        feedback[outcome] = choice.text
        wording = replace(wording, phrases=choice.phrases)
        lines.append(
            f"feedback: {outcome}: explains {percent(choice.share)} of {len(about)} sentences"
        )
    if missing:
        lines.append(f"feedback: the project's own for {', '.join(missing)}")
    wording = replace(wording, feedback=feedback, findings={})
    if joined is not None and names_findings and joined.findings:
        separator = joined.findings_separator
        wording = replace(wording, findings=dict(joined.findings), findings_separator=separator)
        lines += _lines_on_findings(wording)
    return wording, lines


def _comments(examples: Sequence[RuledExample]) -> Iterator[Comment]:
    """Yield the sentences on wrong replies."""
    for example in examples:
        for used, sentence in enumerate(example.sentences, start=1):
            verdict = verify(
                example.replies[used - 1], example.cards, example.numbers, example.target
            )
            if not verdict.is_right:
                formula = verdict.info["formula"] or ""
                yield Comment(example, sentence, verdict.info["findings"], formula, used)


def _vote(comments: Sequence[Comment], wording: Wording) -> tuple[dict[str, Votes], int | None]:
    """Return the votes on each outcome's template, and the budget of replies that explains best
    what the sentences count; None where they do not seem to count what is left.
    """
    texts: _Texts = Counter(
        (c.outcome, c.example.rule, _mark_answer(c, wording), c.used) for c in comments
    )
    tries = [(budget, used) for budget in [None, *range(1, _MAX_REPLIES + 1)] for used in (0, 1)]
    # The first of those that leave the fewest templates to be told apart.
    budget, marks_used = max(tries, key=lambda how: _frequency(texts, *how))
    votes: dict[str, Votes] = defaultdict(Votes)
    for (outcome, rule, text, used), count in texts.items():
        text = _mark_replies(text, used, budget, marks_used)
        values = find_values(text, dict(zip(FACES, rule.numbers(FACES), strict=True)))
        spots = values[0] if values else []
        same, different = put(text, spots, "same"), put(text, spots, "different")
        votes[outcome].add(same, different, kind_of(rule), count)
    return votes, budget


@dataclass(frozen=True)
class _Choice:
    """A template of one outcome, and the share of its sentences that it explains."""

    text: str
    phrases: Mapping[str, Mapping[str, str]]
    share: float
    is_joined: bool
    """Whether it is a frame around findings."""


def _choose(
    outcome: str,
    votes: Votes,
    joined: Wording | None,
    wording: Wording,
    comments: Sequence[Comment],
    budget: int | None,
) -> _Choice:
    """Return the better of the most frequent template and, where there is one, the frame."""
    phrases = {name: dict(phrase) for name, phrase in wording.phrases.items()}
    text = votes.template(phrases)
    candidate = replace(wording, feedback={outcome: text}, phrases=phrases)
    share = _share_explained(candidate, comments, budget)
    if joined is not None:
        joined_share = _share_explained(joined, comments, budget)
        if joined_share >= share:
            return _Choice(joined.feedback[outcome], wording.phrases, joined_share, True)
    return _Choice(text, phrases, share, False)


def _lines_on_findings(wording: Wording) -> list[str]:
    """Return lines on which findings have a sentence, and which keep the project's own."""
    lines = [f"feedback: names all of {', '.join(sorted(wording.findings))}"]
    framed = [outcome for outcome, text in wording.feedback.items() if "<<findings>>" in text]
    own = {kind for outcome in framed for kind in KINDS_SAID[outcome]} - set(wording.findings)
    if own:
        lines.append(
            "feedback: in that frame the project's own sentence, as the data has none, for "
            + ", ".join(sorted(own))
        )
    return lines


def _share_explained(wording: Wording, comments: Sequence[Comment], budget: int | None) -> float:
    """Return the share of sentences that the wording gives back to the letter."""
    return sum(_rewrite(wording, c, budget) == c.sentence for c in comments) / len(comments)


def _rewrite(wording: Wording, comment: Comment, budget: int | None) -> str:
    """Return what the wording says of the reply that a comment is on."""
    example = comment.example
    return wording.feedback_to(
        comment.findings,
        example.cards,
        example.numbers,
        example.rule,
        example.target,
        comment.formula,
        comment.used,
        (budget or 0) - comment.used,
    )


def _mark_answer(comment: Comment, wording: Wording) -> str:
    """Return a sentence with placeholders for what it repeats of the hand and of the reply."""
    text, example = comment.sentence, comment.example
    for mark, value in (
        ("<<formula>>", comment.formula),
        ("<<expression>>", comment.formula.partition("=")[0]),
        ("<<cards>>", wording.cards.write(example.cards)),
        ("<<numbers>>", wording.reply_numbers.write(example.numbers)),
    ):
        if value:
            text = text.replace(value, mark)
    return mark_number(text, example.target, "<<target>>")


def _mark_replies(text: str, used: int, budget: int | None, marks_used: int) -> str:
    """Return a sentence with placeholders for how many replies are used and how many are left."""
    if budget is not None and budget >= used:
        text = mark_number(text, budget - used, "<<remaining>>")
    return mark_number(text, used, "<<used>>") if marks_used else text


def _frequency(texts: _Texts, budget: int | None, marks_used: int) -> int:
    """Return how many sentences the most frequent template of each outcome and rule covers."""
    templates: dict[Any, Counter[str]] = defaultdict(Counter)
    for (outcome, rule, text, used), count in texts.items():
        templates[outcome, rule][_mark_replies(text, used, budget, marks_used)] += count
    return sum(max(counts.values()) for counts in templates.values())
