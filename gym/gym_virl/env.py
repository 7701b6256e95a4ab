"""V-IRL navigation as a Gymnasium environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces

from gym_dialogue.checks import check_choice, is_integer
from gym_dialogue.env import MAX_REPLY_LENGTH, TEXT_CHARSET, DialogueEnv, Prompt, Verdict
from gym_dialogue.errors import InputError
from gym_dialogue.split import Split
from gym_virl.city import KINDS, MAX_LEGS, MIN_LEGS, OWNERS, STYLES
from gym_virl.geo import COMPASS, RELATIVE, SIDES
from gym_virl.legends import (
    PLAIN_WORDS,
    RANDOM,
    Legend,
    moves_of,
    named_legend,
    random_legend,
)
from gym_virl.prompts import APART, DIVERSE, OWN, OWN_LEGEND, load_wording
from gym_virl.rail import Position, lay_rail
from gym_virl.released import read_platform, refuse_released
from gym_virl.streetview import HEADINGS, LINE, ViewOrder, view_grid, views_apart
from gym_virl.verifier import verify
from gym_virl.world import Atlas, World, city_world, file_world

OnFailure = Literal["end", "go_on"]

MINI_BENCHMARK = "mini_benchmark"
"""As `city`: all nine, after the V-IRL VLN mini-benchmark, which has two routes in each."""

_MIN_RESOLUTION, _MAX_RESOLUTION = 16, 2048
_MAX_ROUTES = 1_000_000
_WRONG_OBSERVATION = 0.1  # share of random replies that are mistaken about an intersection


def _any_of(names: Sequence[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_NAMES = rf"(?:{_any_of(COMPASS)}|{_any_of(RELATIVE)})"
# What varies between two texts of the task, and the wording between. The list of moves says which
# of two rules holds, and no more. What is copied as one is one, such as a turn with both its names.
_VALUE = "|".join(
    (
        r"Moves: [^\n]*\n",
        r"\b[OA]_\d+: ",
        r"\b\d+\. (?:Turn|Move forward until the (?:next intersection|destination)) ?",
        r", where ",
        rf"\b(?:{_any_of(RELATIVE)}), to face (?:{_any_of(COMPASS)})\b",
        rf"\bturn_direction\({_NAMES}\)",
        rf"\b(?:{_any_of(OWNERS)}) (?:{_any_of(KINDS)})\b",
        rf"(?: is|,) on your (?:{_any_of(SIDES)})\b",
    )
)
_WORDING = rf"(?:(?!{_VALUE})[^\n])+\n?|\n"
# With a legend, a move in plain words and the name of one are the same tokens in the legend's lines
# as in a reply, so that a small model can look up there what to write.
_LEGEND_VALUE = "|".join(
    (
        rf"\b(?:{_any_of(list(PLAIN_WORDS.values()))})(?=: |\")",
        r"\b(?:forward|stop)\(\)",
        _VALUE,
    )
)
_LEGEND_PATTERN = rf"{_LEGEND_VALUE}|(?:(?!{_LEGEND_VALUE})[^\n])+\n?|\n"


class NavigationEnv(DialogueEnv):
    """Follow written directions through city streets.

    ## Description
    A route is laid out as a rail of positions. At each of them the policy says what it observes,
    which step of the directions it follows, and moves. A right move leads to the next position and
    a fresh dialogue, whose prompt tells what came before; a wrong one is not executed.

    ## Observation
    A dict: `text`, the prompt of a position or the verifier's sentence; `new_dialogue`, 1 with a
    prompt; and with `language_only=False` `image`, uint8 (2 * resolution + 5, the same, 3), RGB:
    four views of the street in a grid, front, right / back, left; with `separate_views` (4,
    resolution, resolution, 3), each view an image of its own. Without images the text says what
    is to be seen at the position; with them it says only whether that is an intersection.

    ## Action
    The text of a reply, a JSON object with the keys `current observation`, `current instruction`
    and `action`, and with a `legend` also `move`; read leniently. Actions: `forward()`, `stop()`,
    `turn_direction(X)`, where X is one of eight compass names, or with `absolute_action=False` one
    of left, right, slightly left, slightly right.

    ## Rewards
    CORRECT_ACTION +1, INCORRECT_OBS -1.5 (a wrong action, and the observation is mistaken about
    being at an intersection), INCORRECT_ACTION -1 (`gym_virl.verifier`).

    ## Termination
    With the right action at the destination. `verify_iter` wrong replies at one position end the
    episode too, or with `on_failure="go_on"` make it a failure that goes on at the next position.

    ## Arguments
    - `route_info_path`: `route_infos.json` as released; `panorama_dir` and `gps_to_pano_path`: its
      panoramas (ID.jpg, ID.metadata.json) and the table of their places (.pkl, or .json made of it
      by `python -m gym_virl.panoramas`). Without a path: the procedural city. A panorama that is
      missing or damaged raises an InputError that names it, where it is to be seen; in words the
      table of places suffices.
    - `city`: a name of `gym_virl.city.STYLES`, a list of them, or "mini_benchmark", all nine; each
      with `num_routes` routes of 2 to `max_legs` (8) legs. `city_seed`: which city of that name.
    - `split`: "train", "heldout" (10 % of the walks, held out for all time) or "all".
    - `absolute_action`: the rule, compass names or relative ones.
    - `legend`: what is written for each move (`gym_virl.legends`): "train", "unseen", "usual" (its
      own name), a mapping from each move to what is written, or "random" for a new one with every
      episode. The prompt lists it, and a reply first names the `move` in plain words. The action
      alone decides. A `prompt_file` must have `<<legend>>` in its prompt.
    - `relocation`: move positions to the nearest panorama within 20 m. Always done with images.
    - `straight_line_length`: points interpolated on a leg; `drop_rate`: the share of them left out.
    - `language_only`, `resolution`: see Observation; the side of one view in pixels, 16 to 2048.
    - `separate_views`: four images in the place of one, for models that take several.
    - `view_order`: "aligned", or "released": at -135, -45, 45, 135 degrees from the heading.
    - `verify_iter`: replies at one position. `on_failure`: "end" or "go_on".
    - `wording`: "default", or "diverse": every episode draws the wording of its prompts from
      `gym_virl.prompts.DIVERSE`. It changes neither the route nor the form of a reply.
    - `prompt_file`: a wording file (`gym_virl.prompts`) for the prompt, the feedback and the form
      of scripted replies. None: the project's own wording. Images need one with an `image_prompt`.
    - `platform_cfg`: of the released environment: the two places that its section OFFLINE names.
      `navigator_cfg` and `platform_save_dir` are refused with what to write instead.

    ## Reset options
    `route_idx`: the number of the route, of all whatever the `split`.

    ## Info
    Beside the keys of every DialogueEnv: of the present position `gt_action`, `current_instruction`
    (the step that is followed), `position` (its number), `place`, `heading`; of the route
    `global_instruction`, `route_idx`; and after a reply `read_observation`, `read_instruction`,
    `read_action`, `finding`. `kind` is turn, forward or stop. `recognized` is None without images,
    and where there is no landmark. With a `legend` also `gt_move` and `read_move`, the moves that
    `gt_action` and the reply's action mean, and `legend_read`: whether the action is what is
    written for the move that the reply names, None where it names none. `checks` are `move_right`
    (it names the right move) and `legend_read`.

    ## Registered configurations
    `gym_virl/Navigation-v0`
    """

    answer_field, answer_info = "action", "read_action"
    token_patterns = (rf"{_VALUE}|{_WORDING}",)

    def __init__(
        self,
        route_info_path: str | None = None,
        panorama_dir: str | None = None,
        gps_to_pano_path: str | None = None,
        absolute_action: bool = True,
        relocation: bool = False,
        drop_rate: float = 0.5,
        straight_line_length: int = 5,
        language_only: bool = True,
        resolution: int = 1200,
        verify_iter: int = 2,
        city: str | Sequence[str] = "new_york",
        num_routes: int = 1000,
        city_seed: int = 0,
        max_legs: int = MAX_LEGS,
        split: Split = "all",
        on_failure: OnFailure = "end",
        view_order: ViewOrder = "aligned",
        separate_views: bool = False,
        wording: Literal["default", "diverse"] = "default",
        prompt_file: str | Path | None = None,
        platform_cfg: Mapping[str, Any] | None = None,
        navigator_cfg: Any = None,
        platform_save_dir: Any = None,
        legend: Legend | str | Mapping[str, str] | None = None,
    ):
        refuse_released(navigator_cfg=navigator_cfg, platform_save_dir=platform_save_dir)
        if platform_cfg is not None:
            places = read_platform(platform_cfg)
            panorama_dir = panorama_dir or places["panorama_dir"]
            gps_to_pano_path = gps_to_pano_path or places["gps_to_pano_path"]
        _check_resolution(resolution, not language_only)
        _check_rail(straight_line_length, drop_rate)
        _check_city(num_routes, city_seed, max_legs)
        _check_choices(split, on_failure, view_order)
        if not isinstance(separate_views, bool) or (separate_views and language_only):
            raise InputError(
                f"separate_views={separate_views!r}: must be true or false, and goes with "
                "language_only=False"
            )
        sides = (2 * resolution + LINE,) * 2 if not separate_views else (4, *(resolution,) * 2)
        super().__init__(verify_iter, None if language_only else (*sides, 3))
        self.absolute_action = absolute_action
        self.has_image = not language_only
        self.relocates = relocation or self.has_image
        self.drop_rate = drop_rate
        self.straight_line_length = straight_line_length
        self.resolution = resolution
        self.split = split
        self.on_failure = on_failure
        self.view_order = view_order
        self.separate_views = separate_views
        self._choose_legend(legend)
        self._choose_wordings(prompt_file, wording)
        files = route_info_path, panorama_dir, gps_to_pano_path
        if files == (None, None, None):
            self.atlas = self._lay_cities(_city_names(city), num_routes, city_seed, max_legs)
        else:
            self.atlas = Atlas([_world_of_files(*files, self.relocates)])
        self._admit_texts()

    def _lay_cities(
        self, names: Sequence[str], num_routes: int, city_seed: int, max_legs: int
    ) -> Atlas:
        """Return the routes of procedural cities, with panoramas where positions move to them."""
        side = None
        if self.relocates:  # in words, to the places of panoramas, whatever their size
            side = self.resolution if self.has_image else 1
        return Atlas([city_world(name, city_seed, num_routes, max_legs, side) for name in names])

    def _choose_legend(self, spec: Legend | str | Mapping[str, str] | None) -> None:
        """Set the legend that moves are written by, if any. Raises InputError for one that is none,
        or that does not fit the rule.
        """
        self.draws_legend = isinstance(spec, str) and spec == RANDOM
        self.legend: Legend | None = None
        if self.draws_legend:  # until the first episode draws one
            self.legend = named_legend("usual", self.absolute_action)
        elif spec is not None:
            self.legend = Legend.of(spec, self.absolute_action)
        if self.legend is not None:
            self.token_patterns = (_LEGEND_PATTERN,)

    def _choose_wordings(self, prompt_file: str | Path | None, wording: str) -> None:
        """Set the wordings that prompts are drawn from. Raises InputError for one that does not fit
        the other arguments.
        """
        check_choice("wording", wording, ("default", "diverse"))
        if prompt_file is not None and wording != "default":
            raise InputError(f"wording={wording}: has no part in prompt_file; give one of the two")
        if self.legend is not None and wording != "default":
            raise InputError(f"wording={wording}: does not go with a legend; leave one of them out")
        own = OWN if self.legend is None else OWN_LEGEND
        self.wording = own if prompt_file is None else load_wording(prompt_file)
        self.wordings = DIVERSE if wording == "diverse" else (self.wording,)
        if self.has_image and self.wording.image_prompt is None:
            raise InputError(
                f"language_only=False: prompt_file {prompt_file} has no image_prompt: it is for "
                "observations in words only"
            )
        if self.legend is not None and not self.wording.shows_legend(self.has_image):
            key = "image_prompt" if self.has_image else "prompt"
            raise InputError(f"legend: key {key} of prompt_file {prompt_file} has no <<legend>>")

    def _admit_texts(self) -> None:
        """Let every character of the wordings and of the routes stand in texts."""
        written = set().union(*(wording.charset() for wording in self.wordings))
        written |= self.atlas.foreign_characters(TEXT_CHARSET)
        charset = self._admit(written)
        self.action_space = spaces.Text(MAX_REPLY_LENGTH, min_length=0, charset=charset)

    def _begin(self, options: dict[str, Any]) -> Prompt:
        number = options.pop("route_idx", None)
        if options:
            raise InputError(f"reset option {next(iter(options))!r}: must be route_idx")
        if number is None:
            number = self.atlas.draw(self.np_random, self.split)
        elif isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise InputError(f"route_idx={number!r}: must be an integer")
        self.world, self.route = self.atlas[int(number)]
        self.rail = lay_rail(
            self.route,
            self.np_random,
            self.straight_line_length,
            self.drop_rate,
            self.world.nearest if self.relocates else None,
        )
        if len(self.wordings) > 1:  # of a child, so that no rail depends on the wording
            drawn = self.np_random.spawn(1)[0].integers(len(self.wordings))
            self.wording = self.wordings[drawn]
        if self.draws_legend:  # of a child too, so that no rail depends on the legend
            self.legend = random_legend(self.np_random.spawn(1)[0], self.absolute_action)
        self.steps = self.wording.instruction_steps(self.rail.stretches)
        rule = self.absolute_action
        self._so_far = [self.wording.opening(self.steps, rule, self.has_image, self.legend)]
        self._shared = {
            "puzzle": self.route.name,
            "route_idx": int(number),
            "global_instruction": self.wording.instruction(self.steps).strip(),
        }
        self._at = 0
        return self._show()

    def each_once(self) -> list[dict[str, Any]]:
        """Return every route of the split, by its number."""
        return [{"route_idx": number} for number in self.atlas.numbers(self.split)]

    @property
    def position(self) -> Position:
        """Return the present position."""
        return self.rail.positions[self._at]

    def _show(self) -> Prompt:
        """Return the prompt of the present position."""
        position = self.position
        move = position.action(self.absolute_action)
        views = self.view_order + APART * self.separate_views if self.has_image else None
        text = "".join([*self._so_far, self.wording.present(self._at + 1, position, views)])
        info = self._shared | {
            "position": self._at,
            "place": position.place,
            "heading": position.heading,
            "gt_action": move if self.legend is None else self.legend.write(move),
            "current_instruction": self.wording.named_step(self.steps, position.step),
        }
        if self.legend is not None:
            info["gt_move"] = move
        return Prompt(text, self._look() if self.has_image else None, info, position.kind)

    def _look(self) -> np.ndarray:
        """Return the views at the present position."""
        position = self.position
        panorama = self.world.panorama_at(position.place)
        if panorama is None:
            raise InputError(
                f"route {self.route.name}, position {self._at + 1}: there is no panorama within "
                f"20 m of {position.place}"
            )
        show = views_apart if self.separate_views else view_grid
        return show(panorama, position.heading, self.resolution, self.view_order)

    def _advance(self, is_right: bool) -> Prompt | None:
        if not is_right and self.on_failure == "end":
            return None
        if self._at + 1 == len(self.rail.positions):
            return None
        rule = self.absolute_action
        self._so_far.append(self.wording.left(self._at + 1, self.position, rule, self.legend))
        self._at += 1
        return self._show()

    def _judge(self, reply: str) -> Verdict:
        rule = self.absolute_action
        verdict = verify(reply, self.position, rule, self.has_image, self.legend)
        if not self.wording.names_move:  # no reply in its form is to be told that it names none
            verdict = replace(verdict, checks={})
        sentence = self.wording.feedback_to(
            verdict.info["finding"],
            verdict.info["read_action"],
            used=self.verify_iter - self._remaining + 1,
            remaining=self._remaining - 1,
        )
        return self._worded(verdict, sentence)

    def oracle_reply(self) -> str:
        """Return the right action, after what there is to see and the step that is followed."""
        return self._reply(self.position.action(self.absolute_action))

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a random action, half of the time a turn; now and then mistaken about an
        intersection.
        """
        turns = moves_of(self.absolute_action)[2:]
        move = str(rng.choice(["forward()", "stop()", "turn"], p=[0.4, 0.1, 0.5]))
        if move == "turn":
            move = turns[rng.integers(len(turns))]
        return self._reply(move, is_mistaken=rng.random() < _WRONG_OBSERVATION)

    def _reply(self, move: str, is_mistaken: bool = False) -> str:
        position = self.position
        if is_mistaken:
            position = replace(position, is_intersection=not position.is_intersection)
        return self.wording.format_reply(position, self.steps, move, self.legend)


def _city_names(city: Any) -> list[str]:
    names = list(STYLES) if city == MINI_BENCHMARK else [city] if isinstance(city, str) else city
    if not isinstance(names, list | tuple) or not names:
        raise InputError(
            f"city={city!r}: must be {MINI_BENCHMARK} or one of {', '.join(STYLES)}, or a list of "
            "such names"
        )
    for name in names:
        check_choice("city", name, STYLES)
    return list(names)


def _world_of_files(
    routes: str | None, panorama_dir: str | None, table: str | None, relocates: bool
) -> World:
    """Return the world of released data. Raises InputError where it lacks routes, or panoramas that
    are needed.
    """
    if routes is None:
        raise InputError("panorama_dir, gps_to_pano_path: need route_info_path as well")
    world = file_world(str(routes), panorama_dir, table)
    if world.panoramas is None and relocates:
        raise InputError(
            "panorama_dir and gps_to_pano_path: are needed for images and for relocation"
        )
    return world


def _check_resolution(resolution: Any, has_image: bool) -> None:
    """Raise InputError for a side of views, in pixels, that is none, or that is of no use."""
    _whole("resolution", resolution, 1, None)
    if has_image:
        _whole("resolution", resolution, _MIN_RESOLUTION, _MAX_RESOLUTION)


def _check_choices(split: Any, on_failure: Any, view_order: Any) -> None:
    """Raise InputError for one of these that is none of its names."""
    check_choice("split", split, get_args(Split))
    check_choice("on_failure", on_failure, get_args(OnFailure))
    check_choice("view_order", view_order, HEADINGS)


def _check_rail(straight_line_length: Any, drop_rate: Any) -> None:
    """Raise InputError for numbers that no rail can be laid by."""
    _whole("straight_line_length", straight_line_length, 0, 1000)
    if isinstance(drop_rate, bool) or not isinstance(drop_rate, int | float):
        raise InputError(f"drop_rate={drop_rate!r}: must be a number from 0 to 1")
    if not 0 <= drop_rate <= 1:
        raise InputError(f"drop_rate={drop_rate}: must be from 0 to 1")


def _check_city(num_routes: Any, city_seed: Any, max_legs: Any) -> None:
    """Raise InputError for numbers that there is no city of."""
    _whole("num_routes", num_routes, 1, _MAX_ROUTES)
    _whole("city_seed", city_seed, 0, 2**32 - 1)
    _whole("max_legs", max_legs, MIN_LEGS, MAX_LEGS)


def _whole(name: str, value: Any, low: int, high: int | None) -> None:
    if not is_integer(value) or value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{name}={value!r}: must be an integer, {limits}")
