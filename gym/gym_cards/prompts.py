"""The wording of GeneralPoints: the task's prompt, the verifier's sentences, and the form of a
reply; the project's own, or that of a file (`prompt_file=`).

A wording file is JSON. Its texts are strings, or lists of lines, with placeholders `<<name>>`; all
other text stands for itself, braces included. `python -m gym_dialogue.wording` makes one from what
a user has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from gym_cards.formula import tokenize
from gym_cards.printed import longest_opening
from gym_cards.rules import FACES, FaceRule
from gym_cards.verifier import FEEDBACK, FINDINGS, SPACE, Finding, verify, verify_cards
from gym_dialogue.checks import is_integer, read_json
from gym_dialogue.errors import InputError
from gym_dialogue.templates import (
    MARK,
    check_keys,
    check_keys_among,
    check_placeholders,
    fill,
    from_lines,
    texts_in,
    to_lines,
)

FORMAT = "gym_cards wording 1"

PARTLY_RIGHT = "wrong_value_after"
"""A finding that a wording may tell from wrong_value: some printed solution begins as the formula
does, with `<<prefix>>`."""

Kind = Literal["same", "different"]
"""Of rules: whether J, Q and K count the same."""

_COUNT_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_MAX_FORMULA = 100  # characters of a reply's formula, or of a number, that feedback repeats
_MAX_OFFENDING = 20  # numbers that a finding names

_TASK = ("target", *FACES)
_ANSWER = ("cards", "numbers", "formula", "expression", "used", "remaining")
_PLACEHOLDERS = {
    "prompt": (*_TASK, "cards", "count"),
    "image_prompt": (*_TASK, "count"),
    "recognition_prompt": (*_TASK, "count"),
    "phrases": _TASK,
    "reply": ("target", "cards", "numbers", "steps", "formula"),
    "recognition_reply": ("cards",),
    "feedback": (*_TASK, *_ANSWER, "findings"),
    "findings": (*_TASK, *_ANSWER, "offending", "prefix"),
    "findings_separator": (),
}
_DETAILED = "<<findings>> Answer again."
_SPACES = "The formula must have no spaces. Answer again."


@dataclass(frozen=True)
class Listing:
    """How a list is written, apart from what stands around it: quotes, and what joins the items."""

    quote: str
    separator: str

    def write(self, items: Sequence[Any]) -> str:
        """Return the items as text."""
        return self.separator.join(f"{self.quote}{item}{self.quote}" for item in items)


@dataclass(frozen=True)
class Wording:
    """Every text of the environment. A file has these keys, and `format`; all but `prompt` may be
    left out.

    Placeholders: `target`; `J`, `Q` and `K`, what they count as; `count`, the number of cards in
    words; `cards` and `numbers`, the hand; in a reply `formula`; in feedback `formula` as the reply
    had it, `expression`, what stands before its `=`, `used` and `remaining`, numbers of replies,
    and `findings`, the sentences on all findings; in a finding also `offending`, the numbers or
    characters that it is about, and `prefix`, as much of the formula as some printed solution
    begins with (`gym_cards.printed`); and the names of `phrases`.
    """

    prompt: str
    """The first user message."""
    image_prompt: str | None = None
    """The same where an image shows the cards. Without it, the wording is for text only."""
    recognition_prompt: str | None = None
    """The same where the cards of an image are only to be named. None: the project's own, with its
    form of a reply."""
    cards: Listing = Listing('"', ", ")
    """How the prompt and the feedback list the cards."""
    phrases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """name -> {same, different}: texts that read one way where J, Q and K count the same, and
    another way where they do not."""
    reply: str = '{"cards": [<<cards>>], "number": [<<numbers>>], "formula": "<<formula>>"}'
    """A reply in the form that the prompt asks for."""
    reply_cards: Listing = Listing('"', ", ")
    """How a reply lists the cards."""
    recognition_reply: str = '{"cards": [<<cards>>]}'
    """A reply in the form that `recognition_prompt` asks for."""
    reply_numbers: Listing = Listing("", ", ")
    """How a reply, and feedback, list the numbers."""
    feedback: Mapping[str, str] = field(default_factory=dict)
    """outcome -> the verifier's sentence; outcomes left out have the project's own."""
    findings: Mapping[str, str] = field(default_factory=dict)
    """Kind of finding (`gym_cards.verifier.FINDINGS`, and `wrong_value_after`) -> its sentence;
    those left out have the project's own.
    """
    findings_separator: str = " "
    """What stands between two findings."""
    num_cards: int | None = None
    """The number of cards, where the texts fix it."""
    target_points: int | None = None
    """The target, where the texts fix it."""

    def task_prompt(
        self, cards: Sequence[str] | None, rule: FaceRule, target: int, size: int
    ) -> str:
        """Return the first user message; `cards` is None where an image shows them."""
        values = _hand_values(rule, target, size)
        if cards is None:
            if self.image_prompt is None:
                raise InputError("this wording has no image_prompt: it is for cards as text only")
            return self._fill(self.image_prompt, rule, values)
        return self._fill(self.prompt, rule, values | {"cards": self.cards.write(cards)})

    def recognition_task(self, rule: FaceRule, target: int, size: int) -> str:
        """Return the first user message where the cards of an image are only to be named."""
        if self.recognition_prompt is None:
            return OWN.recognition_task(rule, target, size)
        return self._fill(self.recognition_prompt, rule, _hand_values(rule, target, size))

    def format_recognition(self, cards: Sequence[str]) -> str:
        """Return a reply that only names the cards."""
        if self.recognition_prompt is None:
            return OWN.format_recognition(cards)
        return fill(self.recognition_reply, {"cards": self.reply_cards.write(cards)})

    def format_reply(
        self,
        cards: Sequence[str],
        numbers: Sequence[int],
        formula: str,
        target: int,
        steps: str = "",
    ) -> str:
        """Return a reply in the form that the prompt asks for."""
        values = {
            "steps": steps,
            "cards": self.reply_cards.write(cards),
            "numbers": self.reply_numbers.write(numbers),
            "formula": formula,
            "target": str(target),
        }
        return fill(self.reply, values)

    def feedback_to(
        self,
        findings: Sequence[Finding],
        cards: Sequence[str],
        numbers: Sequence[int],
        rule: FaceRule,
        target: int,
        formula: str | None,
        used: int,
        remaining: int,
        names_all: bool = False,
    ) -> str:
        """Return the verifier's sentence on a reply with these findings. `formula` is what was read
        from it; `used` and `remaining` count the replies, with this one used. `names_all`: an
        outcome that has no sentence here gets one that names all findings.
        """
        outcome = findings[0].outcome
        own = _DETAILED if names_all and FEEDBACK[outcome] else FEEDBACK[outcome]
        if not names_all and SPACE in findings[0].offending:
            own = _SPACES  # a rule that costs reward is named
        text = self.feedback.get(outcome, own)
        if not MARK.search(text):  # the usual case, made quick
            return text
        values = _task_values(rule, target) | {
            "cards": self.cards.write(cards),
            "numbers": self.reply_numbers.write(numbers),
            "formula": (formula or "")[:_MAX_FORMULA],
            "expression": (formula or "").partition("=")[0][:_MAX_FORMULA],
            "used": str(used),
            "remaining": str(remaining),
        }
        if "<<findings>>" in text:
            values["findings"] = self.findings_separator.join(
                self._say(finding, rule, values, numbers, target, formula) for finding in findings
            )
        return self._fill(text, rule, values)

    def _say(
        self,
        finding: Finding,
        rule: FaceRule,
        values: Mapping[str, str],
        numbers: Sequence[int],
        target: int,
        formula: str | None,
    ) -> str:
        text = self.findings.get(finding.kind, FINDINGS.get(finding.kind, ""))
        offending = [item[:_MAX_FORMULA] for item in finding.offending[:_MAX_OFFENDING]]
        values = {**values, "offending": self.reply_numbers.write(offending)}
        if finding.kind == "wrong_value" and PARTLY_RIGHT in self.findings:
            tokens = tokenize((formula or "").partition("=")[0])
            values["prefix"] = longest_opening(tokens, numbers, target)
            text = self.findings[PARTLY_RIGHT] if values["prefix"] else text
        return self._fill(text, rule, values)

    def charset(self) -> set[str]:
        """Return every character that the texts themselves can bring into an observation."""
        texts = [self.prompt, self.image_prompt or "", self.recognition_prompt or ""]
        texts += [*self.feedback.values(), *self.findings.values(), self.findings_separator]
        texts += [text for phrase in self.phrases.values() for text in phrase.values()]
        for listing in (self.cards, self.reply_numbers):
            texts += [listing.quote, listing.separator]
        return set("".join(texts))

    def to_json(self) -> dict[str, Any]:
        """Return the content of a wording file; `read_wording` reads it back."""
        data: dict[str, Any] = {"format": FORMAT}
        for key in (f.name for f in fields(self)):
            value = getattr(self, key)
            if isinstance(value, Listing):
                data[key] = dict(vars(value))
            elif isinstance(value, Mapping):
                data[key] = {name: to_lines(text) for name, text in value.items()}
            elif value is not None:
                data[key] = to_lines(value)
        return data

    def _fill(self, text: str, rule: FaceRule, values: Mapping[str, str]) -> str:
        phrases = {name: phrase[kind_of(rule)] for name, phrase in self.phrases.items()}
        return fill(fill(text, phrases), values)


def kind_of(rule: FaceRule) -> Kind:
    """Return whether J, Q and K count the same under a rule."""
    return "same" if rule.jack == rule.queen == rule.king else "different"


def _task_values(rule: FaceRule, target: int) -> dict[str, str]:
    faces = zip(FACES, rule.numbers(FACES), strict=True)
    return {"target": str(target)} | {face: str(value) for face, value in faces}


def _hand_values(rule: FaceRule, target: int, size: int) -> dict[str, str]:
    return _task_values(rule, target) | {"count": _COUNT_WORDS.get(size, str(size))}


_GOAL = (
    "Make <<target>> out of <<count>> playing cards: write a formula that uses the value of "
    "every card exactly once, with + - * / and parentheses. An ace counts as one, J as <<J>>, "
    "Q as <<Q>>, K as <<K>>.\n"
)
_LOOK = "Look at the image and name each card by its rank: A, 2 to 10, J, Q or K.\n"
_FORM = 'Reply with a JSON object and nothing else: {"cards": [the cards]'
_STEPS = (
    ', "number": [the value of each card], "steps": "each operation with its result and '
    "what is left, such as a-b=e left c,d,e; d*e=f left c,f; f+c=g, and where that is not the "
    'target, another try after |", '
    '"formula": "the formula, without spaces"}'
)
_FORM_REST = ', "number": [the value of each card], "formula": "the formula, without spaces"}'

OWN = Wording(
    prompt=_GOAL + "Cards: [<<cards>>]\n" + _FORM + _FORM_REST,
    image_prompt=_GOAL + _LOOK + _FORM + _FORM_REST,
    recognition_prompt=_LOOK + _FORM + "}",
)
"""The project's own wording, which also stands in for what a file leaves out."""

OWN_STEPS = replace(
    OWN,
    prompt=_GOAL + "Cards: [<<cards>>]\n" + _FORM + _STEPS,
    image_prompt=_GOAL + _LOOK + _FORM + _STEPS,
    reply='{"cards": [<<cards>>], "number": [<<numbers>>], "steps": "<<steps>>", '
    '"formula": "<<formula>>"}',
)
"""The same where a reply works its solution out (`gym_cards.steps`)."""


def load_wording(path: str | Path) -> Wording:
    """Read the wording of a file. Raises InputError, naming the file and the key, for a file that
    cannot be read, a key or placeholder that is unknown, a prompt that does not show the cards or
    does not say what each face counts as, and a form of reply that the verifier does not accept.
    """
    where = f"prompt_file {path}"
    return read_wording(read_json(path, where), where)


def read_wording(data: Any, where: str) -> Wording:
    """Read a wording from the content of its file; `where` opens the line of an error."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"{where}, key format: must be {FORMAT!r}")
    known = [f.name for f in fields(Wording)]
    texts: dict[str, Any] = {}
    for key, value in data.items():
        if key == "format":
            continue
        if key not in known:
            raise InputError(f"{where}, key {key}: is unknown; must be one of {', '.join(known)}")
        texts[key] = _read_key(key, value, f"{where}, key {key}")
    if "prompt" not in texts:
        raise InputError(f"{where}, key prompt: is missing")
    _check_placeholders(texts, where)
    wording = Wording(**texts)
    check_meaning(wording, where)
    return wording


def _read_key(key: str, value: Any, at: str) -> Any:
    """Read the value of one key of a wording file. Raises InputError, opened by `at`, for a value
    of another form.
    """
    if key in ("num_cards", "target_points"):
        if not is_integer(value):
            raise InputError(f"{at}: must be an integer")
        return value
    if key in ("cards", "reply_cards", "reply_numbers"):
        check_keys(value, ("quote", "separator"), at)
        return Listing(**{k: from_lines(v, f"{at}.{k}") for k, v in value.items()})
    if key == "phrases":
        return _read_phrases(value, at)
    if key in ("feedback", "findings"):
        allowed = FEEDBACK if key == "feedback" else (*FINDINGS, PARTLY_RIGHT)
        check_keys_among(value, allowed, at)
        return {name: from_lines(v, f"{at}.{name}") for name, v in value.items()}
    return from_lines(value, at)


def _read_phrases(value: Any, at: str) -> dict[str, dict[str, str]]:
    """Read the phrases of a wording file. Raises InputError for a name that is taken."""
    if not isinstance(value, dict):
        raise InputError(f"{at}: must be an object")
    taken = {name for names in _PLACEHOLDERS.values() for name in names}
    for name, phrase in value.items():
        if not MARK.fullmatch(f"<<{name}>>") or name in taken:
            raise InputError(f"{at}.{name}: the name must be a new one, in lower case")
        check_keys(phrase, ("same", "different"), f"{at}.{name}")
    return {
        name: {k: from_lines(v, f"{at}.{name}.{k}") for k, v in phrase.items()}
        for name, phrase in value.items()
    }


def check_meaning(wording: Wording, where: str) -> None:
    """Raise InputError for a wording under which the game cannot be played as it is meant."""
    for key, shown in (("prompt", ("A", "J", "Q", "K")), ("image_prompt", None)):
        if getattr(wording, key) is None:
            continue
        if shown and "<<cards>>" not in wording.prompt:
            raise InputError(f"{where}, key {key}: does not show the cards: put <<cards>> there")
        values = [(11, 12, 13), (1, 12, 13), (11, 1, 13), (11, 12, 1), (10, 10, 10), (5, 5, 5)]
        prompts = {wording.task_prompt(shown, FaceRule(*faces), 24, 4) for faces in values}
        if len(prompts) < len(values):
            raise InputError(
                f"{where}, key {key}: does not say what J, Q and K count as under every rule: put "
                "<<J>>, <<Q>> and <<K>> there, or a phrase that has them"
            )
    hand, numbers = ("A", "10", "K", "3"), (1, 10, 10, 3)
    reply = wording.format_reply(hand, numbers, "10+10+1+3", 24)
    if not verify(reply, hand, numbers, 24).is_right:
        raise InputError(
            f"{where}, key reply: the verifier finds no formula in a reply of this form; it needs "
            'a "formula" that holds <<formula>>'
        )
    if wording.image_prompt is not None and not verify_cards(reply, hand).is_right:
        raise InputError(
            f"{where}, key reply: the verifier finds no cards in a reply of this form; with an "
            'image_prompt it needs "cards" that hold <<cards>>'
        )
    if not verify_cards(wording.format_recognition(hand), hand).is_right:
        raise InputError(
            f"{where}, key recognition_reply: the verifier finds no cards in a reply of this form; "
            'it needs "cards" that hold <<cards>>'
        )


def _check_placeholders(texts: Mapping[str, Any], where: str) -> None:
    phrases = texts.get("phrases", {})
    for key, allowed in _PLACEHOLDERS.items():
        if key not in texts:
            continue
        if key not in ("phrases", "reply", "recognition_reply"):
            allowed = (*allowed, *phrases)
        for name, text in texts_in(texts[key], key):
            check_placeholders(text, allowed, f"{where}, key {name}")
