"""GeneralPoints as a Gymnasium environment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gym_cards.hands import (
    DEALINGS,
    Dealing,
    Hand,
    deal,
    hand_of,
    hand_of_puzzle,
    puzzle_name,
    puzzles,
)
from gym_cards.paraphrases import DIVERSE
from gym_cards.pictures import check_pictures, lay_pictures
from gym_cards.prompts import OWN, OWN_STEPS, load_wording
from gym_cards.render import (
    COLORS,
    LAYOUTS,
    RANDOM_TABLES,
    TABLES,
    render_hand,
    suits_of_color,
)
from gym_cards.rules import MAX_VALUE, RANKS, FaceRule, random_rule
from gym_cards.solver import all_solutions, solve
from gym_cards.steps import (
    Step,
    are_right,
    count_tries,
    draw_steps,
    draw_try,
    formula_of,
    steps_of,
    write_tries,
)
from gym_cards.verifier import RewardMode, verify, verify_cards
from gym_dialogue.checks import check_choice, is_integer
from gym_dialogue.env import DialogueEnv, Prompt, Verdict
from gym_dialogue.errors import InputError, NothingToPlayError
from gym_dialogue.parse import read_fields
from gym_dialogue.split import HELDOUT_SHARE, Split

_MIN_RESOLUTION, _MAX_RESOLUTION = 56, 4096  # of images: what can be read, and what is of use
# What varies between two texts of the task: a number, a card's name in quotes, and the symbols of a
# formula, which stand next to a digit or a parenthesis.
_VALUE = r"""\d+|(?<=["'])[AJQK](?=["'])|[-+*/()=](?=[\d(])|(?<=[\d)])[-+*/()=]"""

# With steps, what is fixed between two values is a token of its own, so that a number is the same
# token wherever it stands.
_STEP_PATTERNS = (rf"(?s)(?:(?!{_VALUE}).)+", _VALUE)

WORDINGS = ("default", "diverse")
_CHOICES: dict[str, Any] = {
    "face_cards_color": COLORS,
    "table_color": (*TABLES, "random"),
    "layout": LAYOUTS,
    "wording": WORDINGS,
    "split": get_args(Split),
    "dealing": DEALINGS,
    "reward_mode": get_args(RewardMode),
    "num_cards": (2, 3, 4, 5),
    "feedback": ("outcome", "findings"),
}
"""Arguments of the environment that are one of several values."""

_MAX_TRIES = 8
_MISREADS = 0.1  # share of random replies to an image that take a card for another


def _check_resolution(resolution: int, has_image: bool) -> None:
    """Raise InputError for a side of images, in pixels, that is none, or that is of no use."""
    if not is_integer(resolution) or resolution < 1:
        raise InputError(f"resolution={resolution!r}: must be an integer of at least 1 (pixel)")
    if has_image and resolution < _MIN_RESOLUTION:
        raise InputError(f"resolution={resolution}: must be at least {_MIN_RESOLUTION} with images")
    if has_image and resolution > _MAX_RESOLUTION:
        raise InputError(f"resolution={resolution}: must be at most {_MAX_RESOLUTION} with images")


def _check_numbers(
    target_points: Any, heldout_share: Any, largest_face: Any, tries: Any, steps: bool
) -> None:
    """Raise InputError unless these arguments are numbers of the right kind and size."""
    if not is_integer(target_points) or not 1 <= target_points <= 999:
        raise InputError(f"target_points={target_points!r}: must be an integer from 1 to 999")
    is_number = isinstance(heldout_share, int | float) and not isinstance(heldout_share, bool)
    if not is_number or not 0 < heldout_share < 1:
        raise InputError(f"heldout_share={heldout_share!r}: must be a number between 0 and 1")
    if not is_integer(largest_face) or not 2 <= largest_face <= MAX_VALUE:
        raise InputError(f"largest_face={largest_face!r}: must be an integer from 2 to {MAX_VALUE}")
    if not is_integer(tries) or not 1 <= tries <= _MAX_TRIES or (tries > 1 and not steps):
        raise InputError(
            f"tries={tries!r}: must be an integer from 1 to {_MAX_TRIES}, and above 1 with "
            "steps=True alone"
        )


def _check_card_dir(card_dir: str | Path, layout: str, has_image: bool) -> None:
    """Raise InputError unless the card pictures of a directory can be shown."""
    if not has_image or layout != "row":
        raise InputError(
            "card_dir: its pictures are laid in one row: give language_only=False and "
            "layout='row' as well"
        )
    check_pictures(card_dir)


class GeneralPointsEnv(DialogueEnv):
    """Make a target number, 24 by default, out of four playing cards.

    ## Description
    A hand of cards that can make the target is dealt. The policy replies with a formula that uses
    the value of every card exactly once. What J, Q and K count as is the rule: 10 in distribution,
    their rank (11, 12, 13) or other values out of it. The prompt lists the cards, or an image
    shows them.

    ## Observation
    A dict: `text`, the task's prompt or the verifier's sentence; `new_dialogue`, 1 with the prompt;
    and with `language_only=False` `image`, uint8 (resolution, resolution, 3), RGB, the same in all
    of an episode.

    ## Action
    The text of a reply, a JSON object with the keys `cards`, `number` and `formula`; with
    `recognition_only`, `cards` alone. It is read leniently: code fences, prose around it, single
    quotes and trailing commas do not matter.

    ## Rewards
    CORRECT_SOLUTION +5, PARTIAL_SOLUTION +1, NO_SOLUTION -1, INCORRECT_VISION -1.5 (images only:
    `cards` are not the dealt ones, whatever follows), INCORRECT_NUMBER -2, ILLEGAL_FORMULA -3
    (`gym_cards.verifier`). With `recognition_only`, CORRECT_SOLUTION or INCORRECT_VISION.

    ## Termination
    With a correct solution, or with the last of `verify_iter` replies.

    ## Arguments
    - `target_points`: the target, an integer from 1 to 999.
    - `treat_face_cards_as_10`: the rule "10", else the rule "rank". `face_rule`, where given,
      replaces it: a name, an integer, a mapping (`FaceRule.of`), or "random" for a new rule with
      every deal, of numbers from 1 to `largest_face` (13).
    - `ood`: every hand has at least one face card, so that the rule matters in each.
    - `split`: "train", "heldout" (puzzles held out for all time) or "all". `heldout_share`: of the
      puzzles, 0.1 as ever; a larger share holds out the same ones and others.
    - `dealing`: "deck" (52 cards without replacement) or "independent" (the released code).
    - `steps`: the reply has a field `steps` before the formula, in which the solution is worked out
      (`gym_cards.steps`). The formula alone decides; of the steps is told whether they are right.
      A `prompt_file` must have `<<steps>>` in its `reply`. `tries`: with steps, the oracle's
      solution comes after up to `tries` - 1 others, drawn, that end elsewhere (1: none).
    - `num_cards`: 2 to 5. `reward_mode`: "stacked" or "single". `verify_iter`: replies allowed.
    - `face_cards_color`: the suits, "mixed", all "black" or all "red". No seed deals other ranks
      for it, but two cards of a hand may become the same.
    - `language_only`: the cards as text; False: as an image of `resolution` (56 to 4096) pixels a
      side, on a table of `table_color` (a name of `gym_cards.render.TABLES`, or "random": drawn
      anew with every deal) in a `layout`, "grid", "row" or "scatter". None of these changes what
      is dealt.
    - `card_dir`: a directory of card pictures (`SA.png`, `H10.png` or `HT.png`, ...) to show in
      place of drawn ones, in layout "row" (`gym_cards.pictures`).
    - `recognition_only`: the task is only to name the cards of the image.
    - `prompt_file`: a wording file (`gym_cards.prompts`) for the prompt, the feedback and the form
      of scripted replies. None: the project's own wording. Images need one with an `image_prompt`,
      except for `recognition_only`.
    - `wording`: "default", or "diverse": every episode draws its prompt's wording from
      `gym_cards.paraphrases`. It does not change what is dealt, nor the form of a reply.
    - `feedback`: "outcome", a sentence for each outcome, or "findings", which names all that was
      found, with the numbers that were wrong or not used. A `prompt_file` may say it its own way.
    - `show_eqn`: of the released environment; True is accepted and changes nothing.

    ## Reset options
    `cards`: a list of ranks to play; ValueError if it cannot be solved. `numbers`: in its place, a
    list of what the cards count as. `all_solutions`: True puts every solution into
    `info["solutions"]`.

    ## Info
    Beside the keys of every DialogueEnv: `plain_cards`, `suits`, `numbers`, `solution`, and after
    a reply `formula`, `read_cards` and `read_numbers`, as read from it, `findings`
    (`gym_cards.verifier`), one for each outcome, and `rule_read`: whether its `number` are what the
    cards count as (None if there are none). With `steps`, `steps` as read, `steps_right`: whether
    they are legal, right and lead to the formula, and the number of `tries`. `recognized` is None
    without images. `answer_field` is "formula", with `recognition_only` "cards".

    ## Registered configurations
    `gym_cards/GeneralPoint-oneline-v0`
    """

    answer_field = answer_info = "formula"
    # Each value, alone and together with the fixed wording before it.
    token_patterns = (rf"(?s).*?(?:{_VALUE})|.+", _VALUE)

    def __init__(
        self,
        target_points: int = 24,
        treat_face_cards_as_10: bool = True,
        ood: bool = False,
        face_cards_color: Literal["mixed", "black", "red"] = "mixed",
        language_only: bool = True,
        resolution: int = 1200,
        verify_iter: int = 5,
        face_rule: FaceRule | str | int | Mapping[str, int] | None = None,
        split: Split = "all",
        dealing: Dealing = "deck",
        num_cards: int = 4,
        reward_mode: RewardMode = "stacked",
        prompt_file: str | Path | None = None,
        table_color: str = "green",
        layout: Literal["grid", "row", "scatter"] = "grid",
        recognition_only: bool = False,
        wording: Literal["default", "diverse"] = "default",
        feedback: Literal["outcome", "findings"] = "outcome",
        card_dir: str | Path | None = None,
        show_eqn: bool = True,
        steps: bool = False,
        heldout_share: float = HELDOUT_SHARE,
        tries: int = 1,
        largest_face: int = 13,
    ):
        _check_resolution(resolution, not language_only)
        super().__init__(verify_iter, None if language_only else (resolution, resolution, 3))
        if language_only and recognition_only:
            raise InputError("recognition_only=True: needs images, that is language_only=False")
        chosen = {
            "face_cards_color": face_cards_color,
            "table_color": table_color,
            "layout": layout,
            "wording": wording,
            "split": split,
            "dealing": dealing,
            "reward_mode": reward_mode,
            "num_cards": num_cards,
            "feedback": feedback,
        }
        for name, value in chosen.items():
            check_choice(name, value, _CHOICES[name])
        _check_numbers(target_points, heldout_share, largest_face, tries, steps)
        if card_dir is not None:
            _check_card_dir(card_dir, layout, not language_only)
        if not show_eqn:
            raise InputError(
                "show_eqn=False: no picture shows the formula here, so there is nothing to leave "
                "out: leave show_eqn away, or give True"
            )
        if face_rule is None:
            face_rule = "10" if treat_face_cards_as_10 else "rank"
        self.draws_rule = face_rule == "random"
        self.largest_face = largest_face
        self.rule = FaceRule.of("10" if self.draws_rule else face_rule)
        self.target = target_points
        self.needs_face = ood
        self.split = split
        self.heldout_share = heldout_share
        self.dealing = dealing
        self.num_cards = num_cards
        self.reward_mode = reward_mode
        self.has_image = not language_only
        self.resolution = resolution
        self.face_cards_color = face_cards_color
        self.table_color = table_color
        self.layout = layout
        self.feedback = feedback
        self.card_dir = card_dir
        self.recognition_only = recognition_only
        self.has_steps = steps
        self.tries = tries
        if recognition_only:
            self.answer_field, self.answer_info = "cards", "read_cards"
        self._choose_wordings(prompt_file, wording)

    def _choose_wordings(self, prompt_file: str | Path | None, wording: str) -> None:
        """Set the wordings that prompts are drawn from. Raises InputError for one that does not fit
        the other arguments.
        """
        if prompt_file is not None and wording != "default":
            raise InputError(f"wording={wording}: has no part in prompt_file; give one of the two")
        if self.has_steps:
            self.token_patterns = _STEP_PATTERNS
            if self.recognition_only or wording != "default":
                raise InputError(
                    "steps=True: goes with neither recognition_only nor wording=diverse"
                )
        own = OWN_STEPS if self.has_steps else OWN
        self.wording = own if prompt_file is None else load_wording(prompt_file)
        if self.has_steps and "<<steps>>" not in self.wording.reply:
            raise InputError(f"steps=True: the reply of prompt_file {prompt_file} has no <<steps>>")
        self.wordings = DIVERSE if wording == "diverse" else (self.wording,)
        for name, value in (("num_cards", self.num_cards), ("target_points", self.target)):
            fixed = getattr(self.wording, name)
            if fixed not in (None, value):
                raise InputError(f"{name}={value}: prompt_file {prompt_file} is worded for {fixed}")
        if self.has_image and not self.recognition_only and self.wording.image_prompt is None:
            raise InputError(
                f"language_only=False: prompt_file {prompt_file} has no image_prompt: it is for "
                "cards as text only"
            )
        self._admit(set().union(*(each.charset() for each in self.wordings)))

    def _begin(self, options: dict[str, Any]) -> Prompt:
        cards = options.pop("cards", None)
        numbers = options.pop("numbers", None)
        wants_all = options.pop("all_solutions", False)
        if options:
            raise InputError(
                f"reset option {next(iter(options))!r}: must be one of cards, numbers, "
                "all_solutions"
            )
        if self.draws_rule:
            self.rule = random_rule(self.np_random, self.largest_face)
        hand = self._choose_hand(cards, numbers)
        self.cards = list(hand.ranks)
        self.numbers = self.rule.numbers(self.cards)
        suits = suits_of_color(hand.suits, self.face_cards_color)
        info = {
            "plain_cards": list(self.cards),
            "suits": list(suits),
            "numbers": list(self.numbers),
            "solution": solve(self.numbers, self.target),
            "puzzle": puzzle_name(self.numbers),
        }
        if wants_all:
            info["solutions"] = all_solutions(self.numbers, self.target)
        image = self._draw(suits) if self.has_image else None
        if len(self.wordings) > 1:
            # Of a child, and after the look was drawn, so that neither depends on the wording.
            number = self.np_random.spawn(1)[0].integers(len(self.wordings))
            self.wording = self.wordings[number]
        if self.has_steps:  # of a child, as nothing else is to depend on it
            rng = self.np_random.spawn(1)[0]
            solution = draw_steps(self.numbers, self.target, rng)
            others = range(rng.integers(self.tries) if self.tries > 1 else 0)
            self.worked_out = [draw_try(self.numbers, self.target, rng) for _ in others]
            self.worked_out.append(solution)
        shown = None if self.has_image else self.cards
        if self.recognition_only:
            text = self.wording.recognition_task(self.rule, self.target, self.num_cards)
        else:
            text = self.wording.task_prompt(shown, self.rule, self.target, self.num_cards)
        return Prompt(text, image, info)

    def _choose_hand(self, cards: Any, numbers: Any) -> Hand:
        """Return the hand of these cards, or one that counts as these numbers; else deal one.
        Raises InputError for a hand that cannot be played.
        """
        if numbers is not None:
            if cards is not None or not self._are_numbers(numbers):
                raise InputError(
                    f"numbers {numbers!r}: must be a list of {self.num_cards} integers, and no "
                    "cards beside them"
                )
            return hand_of_puzzle(
                self.np_random, numbers, self.rule, self.target, self.dealing, self.needs_face
            )
        if cards is not None:
            return hand_of(cards, self.rule, self.target, self.num_cards, self.dealing)
        return deal(
            self.np_random,
            self.rule,
            self.target,
            self.num_cards,
            self.dealing,
            self.split,
            self.needs_face,
            self.heldout_share,
        )

    def _are_numbers(self, numbers: Any) -> bool:
        """Return whether it is a list of as many integers as there are cards."""
        is_list = isinstance(numbers, list | tuple) and len(numbers) == self.num_cards
        return is_list and all(map(is_integer, numbers))

    def each_once(self) -> list[dict[str, Any]]:
        """Return reset options for every solvable puzzle of the split under the rule, by its
        numbers; which cards show it is drawn. Raises InputError where there is none, or no one
        rule.
        """
        if self.draws_rule:
            raise InputError("each_once: face_rule random draws a rule with every deal: name one")
        arguments = self.rule, self.target, self.num_cards, self.dealing
        solvable = puzzles(*arguments, self.split, self.needs_face, self.heldout_share)
        if not solvable:
            raise NothingToPlayError(
                f"each_once: no puzzle makes {self.target} (split {self.split!r})"
            )
        return [{"numbers": list(numbers)} for numbers in solvable]

    def _draw(self, suits: Sequence[str]) -> np.ndarray:
        table = self.table_color
        rng: Any = None
        if table == "random" or self.layout == "scatter":
            # A child, so that the next deals do not depend on how this one looks.
            rng = self.np_random.spawn(1)[0]
        if table == "random":
            table = RANDOM_TABLES[rng.integers(len(RANDOM_TABLES))]
        if self.card_dir is not None:
            return lay_pictures(self.cards, suits, self.resolution, TABLES[table], self.card_dir)
        return render_hand(self.cards, suits, self.resolution, table, self.layout, rng)

    def _judge(self, reply: str) -> Verdict:
        if self.recognition_only:
            verdict = verify_cards(reply, self.cards)
        else:
            verdict = verify(
                reply, self.cards, self.numbers, self.target, self.reward_mode, self.has_image
            )
        if not self.recognition_only:
            besides = self._besides(reply, verdict)
            names = ("rule_read", "steps_right") if self.has_steps else ()
            checks = {name: bool(besides[name]) for name in names}
            verdict = replace(verdict, info=verdict.info | besides, checks=checks)
        sentence = self.wording.feedback_to(
            verdict.info["findings"],
            self.cards,
            self.numbers,
            self.rule,
            self.target,
            verdict.info["formula"],
            used=self.verify_iter - self._remaining + 1,
            remaining=self._remaining - 1,
            names_all=self.feedback == "findings",
        )
        return self._worded(verdict, sentence)

    def _besides(self, reply: str, verdict: Verdict) -> dict[str, Any]:
        """Return what info tells of a reply beside what is judged: the rule's reading and steps."""
        numbers = verdict.info["read_numbers"]
        read = None if numbers is None else Counter(map(str, numbers))
        wanted = Counter(map(str, self.numbers))
        info: dict[str, Any] = {"rule_read": None if read is None else read == wanted}
        if self.has_steps:
            text = read_fields(reply, {"steps": str})["steps"]
            right = are_right(text, verdict.info["formula"], self.numbers, self.target)
            tries = 0 if text is None else count_tries(text)
            info |= {"steps": text, "steps_right": right, "tries": tries}
        return info

    def oracle_reply(self) -> str:
        """Return a solution in the form that the prompt asks for, the solver's, or with `steps` one
        that was drawn; with `recognition_only` the cards.
        """
        if self.has_steps:
            return self._reply(formula_of(self.worked_out[-1]), tries=self.worked_out)
        if self.recognition_only:
            return self.wording.format_recognition(self.cards)
        solution = solve(self.numbers, self.target)
        assert solution is not None  # only hands with one are dealt, or taken
        return self._reply(solution)

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return mostly the right numbers in random order with random operators; now and then
        another fault that policies have: a foreign number, an operator written twice, or a solution
        that lacks its last parenthesis. With images, now and then a card is taken for another, and
        with `recognition_only` always.
        """
        if self.recognition_only:
            return self.wording.format_recognition(self._misread(rng))
        cards, values = self.cards, self.numbers
        if self.has_image and rng.random() < _MISREADS:
            cards = self._misread(rng)
            values = self.rule.numbers(cards)
        numbers = [str(number) for number in rng.permutation(values)]
        kind = rng.choice(["value", "number", "syntax", "open"], p=[0.7, 0.15, 0.1, 0.05])
        if kind == "open":
            solution = solve(values, self.target)
            if solution is not None and solution.endswith(")"):
                return self._reply(solution[:-1], cards)
        if kind == "number":
            numbers[rng.integers(len(numbers))] = str(rng.integers(1, 14))
        symbols: list[str] = rng.choice(list("+-*/"), len(numbers) - 1).tolist()
        start, end = sorted(rng.choice(len(numbers), 2, replace=False))
        if rng.random() < 0.5 and (start, end) != (0, len(numbers) - 1):
            numbers[start] = f"({numbers[start]}"
            numbers[end] = f"{numbers[end]})"
        if kind == "syntax":
            symbols = [*symbols[:-1], 2 * symbols[-1]]
        formula = numbers[0]
        for symbol, number in zip(symbols, numbers[1:], strict=True):
            formula += symbol + number
        return self._reply(formula, cards)

    def _misread(self, rng: np.random.Generator) -> list[str]:
        """Return the cards, but for one that is taken for another rank."""
        cards = list(self.cards)
        place = rng.integers(len(cards))
        others = [rank for rank in RANKS if rank != cards[place]]
        cards[place] = others[rng.integers(len(others))]
        return cards

    def _reply(
        self,
        formula: str,
        cards: Sequence[str] | None = None,
        tries: Sequence[Sequence[Step]] = (),
    ) -> str:
        cards = self.cards if cards is None else cards
        numbers = self.rule.numbers(cards)
        if self.has_steps and not tries:
            tries = [steps_of(formula, numbers)]
        written = write_tries(tries)
        return self.wording.format_reply(cards, numbers, formula, self.target, written)
