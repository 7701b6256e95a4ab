"""Derives a wording file of V-IRL from SFT data, for `python -m gym_dialogue.wording`.

Of the data it is known that a prompt holds numbered steps, the moves, and a log of observations and
actions (`O_1: ...`, `A_1: ...`), and that a reply names what is observed, the step and the action.
What these hold becomes placeholders; what stands around them is the wording. The most frequent
template wins, and is then tested: from what it reads in a dialogue, the environment would write the
same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gym_dialogue.errors import InputError
from gym_dialogue.messages import Message
from gym_dialogue.parse import read_fields
from gym_dialogue.templates import MARK, fill, refuse_marks, to_lines
from gym_virl.geo import COMPASS, RELATIVE, SIDES
from gym_virl.prompts import FORMAT, OWN, RULES, Wording, read_wording
from gym_virl.rail import Kind, Position, Stretch
from gym_virl.routes import DESTINATION
from gym_virl.verifier import REPLY_KEYS, read_action, says_intersection, verify

MIN_SHARE = 0.5
"""A template that explains a smaller share of its texts is not used."""

_STEPS = re.compile(r"(?m)^(?:1(?P<dot>[.):]) .*\n)(?:\d+(?P=dot) .*\n)+")
_LOG = re.compile(r"(?m)^(?:O_\d+: .*\nA_\d+: .+\n)*O_(?P<number>\d+): (?P<last>.*)\n")
_PAIR = re.compile(r"(?m)^O_\d+: (?P<observation>.*)\nA_\d+: (?P<action>.+)\n")
_SIDE = rf" is on your (?:{'|'.join(sorted(SIDES, key=len)[::-1])})"
_TURN = re.compile(
    rf"(?P<a>.*?)\b(?P<relative>{'|'.join(RELATIVE[::-1])})\b(?P<b>.*?)"
    rf"\b(?P<compass>{'|'.join(sorted(COMPASS, key=len)[::-1])})\b(?P<c>.*)"
)
_DERIVED = "the wording that was found"
_MOVES = re.compile(r"(?m)^.*turn_direction\(.*$")


@dataclass(frozen=True)
class Example:
    """A dialogue of the data, taken apart."""

    prompt: str
    frame: str
    """The prompt, with placeholders for what it holds."""
    dot: str
    steps: tuple[str, ...]
    moves: str
    log: tuple[tuple[str, str], ...]
    """(observation, action) of the positions that were left."""
    observation: str
    """That of the present position."""
    replies: tuple[str, ...]
    sentences: tuple[str, ...]
    """What was said of each reply but the last."""
    fields: tuple[str, str, str]
    """Observation, instruction and action of the last reply, which is right."""

    @property
    def observed(self) -> list[tuple[str, str]]:
        """Return (observation, right action) of every position so far."""
        return [*self.log, (self.observation, self.fields[2])]


def derive_from_data(dialogues: Iterable[Sequence[Message]]) -> tuple[dict[str, Any], list[str]]:
    """Return (content of a wording file, lines on what was read and how much of it the wording
    explains). Raises InputError where too little can be explained.
    """
    total, examples = 0, []
    for messages in dialogues:
        total += 1
        example = _read(messages)
        if example is not None:
            examples.append(example)
    if len(examples) < MIN_SHARE * max(1, total):
        raise InputError(
            f"only {len(examples)} of {total} dialogues have a prompt with numbered steps, "
            "turn_direction and a log of O_1, A_1, and a reply that can be read: give SFT data of "
            "V-IRL in words"
        )
    lines = [f"read: {len(examples)} of {total} dialogues"]
    frame, dot = Counter((e.frame, e.dot) for e in examples).most_common(1)[0][0]
    data: dict[str, Any] = {"format": FORMAT, "prompt": frame}
    data["step_line"] = f"<<number>>{dot} <<step>>\n"
    data |= _moves(examples, lines)
    data["steps"] = _steps(examples, lines)
    data |= _observations(examples, lines)
    data |= _reply(examples, data["step_line"], lines)
    lines += _explained(data, examples, total)
    feedback = _feedback(examples)
    data["feedback"] = feedback
    lines.append(f"feedback: {', '.join(feedback) or 'no example'}; else the project's own")
    data = {key: to_lines(value) for key, value in data.items()}
    read_wording(data, _DERIVED)
    return data, lines


def _explained(data: dict[str, Any], examples: Sequence[Example], total: int) -> list[str]:
    """Return lines on how much of the dialogues a wording explains. Raises InputError where that is
    too little.
    """
    wording = read_wording(data, _DERIVED)
    rendered = [_render(wording, example) for example in examples]
    pairs = list(zip(examples, rendered, strict=True))
    prompts = sum(example.prompt == prompt for example, (prompt, _) in pairs) / total
    replies = sum(example.replies[-1] == reply for example, (_, reply) in pairs) / total
    lines = []
    if "reply" in data:
        lines.append(f"reply: explains {100 * replies:.1f} % of the last replies")
    lines.append(f"prompt: explains {100 * prompts:.1f} % of the dialogues")
    if prompts < MIN_SHARE:
        raise InputError(
            f"the most frequent prompt explains {100 * prompts:.1f} % of {total} dialogues, and "
            f"must explain {100 * MIN_SHARE:.0f} %: give data with one wording"
        )
    return lines


def _read(messages: Sequence[Message]) -> Example | None:
    """Return a dialogue taken apart; None where its prompt or its last reply is not of the known
    form.
    """
    if messages[0].role == "system":
        messages = messages[1:]
    prompt, replies = messages[0].text, tuple(m.text for m in messages[1::2])
    fields = read_fields(replies[-1], dict.fromkeys(REPLY_KEYS, str))
    steps, log = _STEPS.search(prompt), _LOG.search(prompt)
    if steps is None or log is None or messages[0].image is not None:
        return None
    moves = _paragraph(prompt, steps.end(), log.start())
    observation, instruction, action = (fields[key] for key in REPLY_KEYS)
    if moves is None or None in (observation, instruction, action):
        return None
    for text in (prompt, *(m.text for m in messages[1:])):
        refuse_marks(text, "a dialogue")
    dot = steps["dot"]
    return Example(
        prompt,
        _frame(prompt, steps, moves, log),
        dot,
        tuple(line.partition(f"{dot} ")[2] for line in steps[0].splitlines()),
        prompt[moves[0] : moves[1]],
        tuple((m["observation"], m["action"]) for m in _PAIR.finditer(log[0])),
        log["last"],
        replies,
        tuple(m.text for m in messages[2::2]),
        (observation, instruction, action),
    )


def _frame(prompt: str, steps: re.Match[str], moves: tuple[int, int], log: re.Match[str]) -> str:
    """Return a prompt with placeholders for the steps, the moves and the log that it holds."""
    rest = re.sub(rf"^(A_){log['number']}(:)", r"\1<<number>>\2", prompt[log.end() :])
    return "".join(
        (
            prompt[: steps.start()],
            "<<instruction>>",
            prompt[steps.end() : moves[0]],
            "<<moves>>",
            prompt[moves[1] : log.start()],
            "<<history>>O_<<number>>: <<observation>>\n",
            rest,
        )
    )


def _paragraph(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return where the paragraph begins and ends that names turn_direction; None without one."""
    match = _MOVES.search(text, start, end)
    if match is None:
        return None
    first = text.rfind("\n\n", start, match.start())
    last = text.find("\n\n", match.end(), end)
    first = start if first < 0 else first + 2
    heading = re.compile(r"\s*[\[#].*\n").match(text, first, match.start())
    return heading.end() if heading else first, end if last < 0 else last


def _most_common(values: Iterable[Any], usual: Any) -> Any:
    counts = Counter(values).most_common(1)
    return counts[0][0] if counts else usual


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # what these two begin with, all that sort between do too
    length = next(
        (i for i, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1),
        min(len(first), len(last)),
    )
    return first[:length]


def _moves(examples: Sequence[Example], lines: list[str]) -> dict[str, Any]:
    """Return the moves under both rules; one that the data lacks is worded after the other."""
    listed: dict[str, list[str]] = {"absolute": [], "relative": []}
    for example in examples:
        listed["absolute" if "northeast" in example.moves else "relative"].append(example.moves)
    texts = {rule: _most_common(moves, "") for rule, moves in listed.items() if moves}
    names = {"absolute": COMPASS, "relative": RELATIVE}
    for rule, other in (("absolute", "relative"), ("relative", "absolute")):
        if rule not in texts:
            texts[rule] = _renamed(texts[other], names[other], names[rule])
            lines.append(f"moves: no dialogue has {rule} ones; worded after the {other} ones")
    return {"moves": {rule: texts[rule] for rule in RULES}}


def _renamed(text: str, old: Sequence[str], new: Sequence[str]) -> str:
    """Return a text with one list of names in the place of another, and their number."""
    first, second = map(re.escape, old[:2])
    listed = re.search(rf"(['\"`]?)\b{first}\b\1(?P<joint>\W+?)\1{second}\b\1", text)
    if listed is None:
        raise InputError(f"the moves do not list {', '.join(old)}")
    quote, joint = listed[1], listed["joint"]
    written = [f"{quote}{name}{quote}" for name in old]
    end = text.index(written[-1], listed.start()) + len(written[-1])
    renamed = joint.join(f"{quote}{name}{quote}" for name in new)
    text = text[: listed.start()] + renamed + text[end:]
    return re.sub(rf"\b{len(old)}\b", str(len(new)), text)


# The directions.


def _steps(examples: Sequence[Example], lines: list[str]) -> dict[str, str]:
    """Return templates of the steps: turns and moves by turns, the last move to the destination."""
    turns: list[str | None] = []
    first_turns: list[str | None] = []
    moves: dict[str, list[str]] = {"forward": [], "arrive": []}
    for example in examples:
        for number, step in enumerate(example.steps):
            if number % 2 == 0:
                (turns if number else first_turns).append(_turn(step))
            else:
                is_last = number == len(example.steps) - 1
                moves["arrive" if is_last else "forward"].append(step)
    turn = _most_common((t for t in turns if t), None) or _most_common(
        filter(None, first_turns), ""
    )
    steps = {"turn": turn}
    first = _most_common(filter(None, first_turns), turn)
    if first != turn:
        steps["first_turn"] = first
    for kind, texts in moves.items():
        sighted = [text for text in texts if re.search(_SIDE, text)]
        plain = _most_common((text for text in texts if not re.search(_SIDE, text)), None)
        template = _sighted(sighted) if sighted else None
        for text, name, other in ((plain, "without", "with"), (template, "with", "without")):
            if text is None:
                lines.append(
                    f"steps: no move of the kind {kind} is {name} a landmark; worded after those "
                    f"{other} one"
                )
        steps[f"{kind}_sight"] = template or plain or OWN.steps[f"{kind}_sight"]
        steps[kind] = plain or re.sub(r",? (?:where|at|near)? ?<<sight>>", "", template or "")
    return {kind: text or OWN.steps[kind] for kind, text in steps.items()}


def _turn(step: str) -> str | None:
    match = _TURN.fullmatch(step)
    return match and f"{match['a']}<<relative>>{match['b']}<<compass>>{match['c']}"


def _sighted(texts: Sequence[str]) -> str:
    """Return the template of texts that name different landmarks: what all begin with, and what
    stands after the side.
    """
    prefix = _common_start(texts)
    if len(set(texts)) == 1:  # nothing varies: the landmark is taken to begin with a capital
        before = re.match(r".*?(?=\b(?:The destination |[A-Z])[^.]*" + _SIDE + ")", texts[0][1:])
        prefix = texts[0][0] + before[0] if before else ""
    prefix = prefix[: prefix.rfind(" ") + 1].removesuffix(DESTINATION)
    suffix = _most_common((re.split(_SIDE, text)[-1] for text in texts), "")
    return f"{prefix}<<sight>>{suffix}"


# What is observed.


def _observations(examples: Sequence[Example], lines: list[str]) -> dict[str, Any]:
    """Return how sights and crossings are said, and what is said where there is no sight."""
    by_role: dict[str, list[str]] = {
        role: [] for role in ("start", "between", "intersection", "destination")
    }
    for example in examples:
        for number, (observation, action) in enumerate(example.observed):
            by_role[_role(number, action)].append(observation)
    at = _most_common(filter(None, map(_after_side, by_role["intersection"])), "")
    away = _most_common(filter(None, map(_after_side, by_role["destination"])), None)
    if away is None:  # what joins the sight to nothing
        joint = re.match(r"\W*", at)
        away = joint[0] if joint else ""
    prefix = _common_start([at, away])
    rest_at, rest_away = at[len(prefix) :], away[len(prefix) :]
    suffix = _common_start([rest_at[::-1], rest_away[::-1]])[::-1]
    cut = len(suffix)
    nothing = {}
    for role, texts in by_role.items():
        tail = at if role == "intersection" else away
        plain = (t.removesuffix(tail) for t in texts if not _after_side(t) and t.endswith(tail))
        nothing[role] = _most_common(plain, None)
    usual = nothing["intersection"] or nothing["between"] or nothing["start"]
    missing = [role for role, text in nothing.items() if text is None]
    if missing:
        lines.append(
            f"observations: none without a landmark was met at {', '.join(missing)}; its text is "
            "taken from another place"
        )
    return {
        "observation": f"<<sight>>{prefix}<<crossing>>{suffix}",
        "crossing": {
            "at": rest_at[: len(rest_at) - cut],
            "away": rest_away[: len(rest_away) - cut],
        },
        "nothing": {role: text or usual or OWN.nothing[role] for role, text in nothing.items()},
    }


def _role(number: int, action: str) -> str:
    if "forward" in action:
        return "between"
    if "stop" in action:
        return "destination"
    return "intersection" if number else "start"


def _after_side(observation: str) -> str | None:
    """Return what stands after a landmark and its side."""
    parts = re.split(_SIDE + r"\b", observation)
    return parts[-1] if len(parts) > 1 else None


# The reply, and what is said of it.


def _reply(examples: Sequence[Example], step_line: str, lines: list[str]) -> dict[str, Any]:
    """Return the form of a reply, and whether it names a step with its number."""
    forms: Counter[str] = Counter()
    numbered = 0
    for example in examples:
        text, at = example.replies[-1], 0
        for key, name, value in zip(
            REPLY_KEYS, ("observation", "step", "action"), example.fields, strict=True
        ):
            at = text.find(key, at)
            at = text.find(value, at + len(key)) if at >= 0 else -1
            if at < 0:
                break
            text = f"{text[:at]}<<{name}>>{text[at + len(value) :]}"
        else:
            forms[text] += 1
        numbered += example.fields[1] not in example.steps
    if not forms:
        lines.append("reply: no form is found; the project's own")
        return {}
    is_numbered = numbered > len(examples) / 2
    return {
        "reply": forms.most_common(1)[0][0],
        "reply_step": step_line.strip() if is_numbered else "<<step>>",
    }


def _feedback(examples: Sequence[Example]) -> dict[str, str]:
    """Return the most frequent sentence on each finding."""
    heard: dict[str, Counter[str]] = {}
    for example in examples:
        position = _position(example)
        for reply, sentence in zip(example.replies, example.sentences, strict=False):
            verdict = verify(reply, position, True)
            if not verdict.is_right:
                heard.setdefault(verdict.info["finding"], Counter())[sentence] += 1
    feedback = {finding: counts.most_common(1)[0][0] for finding, counts in heard.items()}
    if "wrong_move" in feedback:
        feedback.setdefault("unreadable", feedback["wrong_move"])
    return feedback


def _position(example: Example) -> Position:
    """Return the present position, as far as the verifier asks, from the right reply."""
    action = read_action(example.fields[2]) or example.fields[2]
    kinds: tuple[Kind, ...] = ("forward", "stop")
    kind: Kind = next((kind for kind in kinds if kind in action), "turn")
    name = action.partition("(")[2].removesuffix(")")
    at = says_intersection(example.fields[0])
    return Position(kind, (0.0, 0.0), 0.0, 0, None, at, (name, name))


# The test.


def _render(wording: Wording, example: Example) -> tuple[str | None, str | None]:
    """Return (prompt, last reply) as the environment would write them, from what the templates read
    in a dialogue; None for what they cannot read.
    """
    rule = next((rule for rule in RULES if wording.moves[rule] == example.moves), None)
    stretches = _read_steps(wording, example.steps)
    if rule is None or stretches is None:
        return None, None
    is_absolute = rule == "absolute"
    steps = wording.instruction_steps(stretches)
    sights = {stretch.sight for stretch in stretches if stretch.sight}
    named = [wording.named_step(steps, number) for number in range(len(steps))]
    step = named.index(example.fields[1]) if example.fields[1] in named else 0
    positions: list[Position] = []
    for number, (observation, action) in enumerate(example.observed):
        position = _read_position(wording, observation, action, number, step, sights)
        if position is None:
            return None, None
        positions.append(position)
    parts = [wording.opening(steps, is_absolute, False)]
    parts += [wording.left(n, p, is_absolute) for n, p in enumerate(positions[:-1], start=1)]
    parts.append(wording.present(len(positions), positions[-1], None))
    reply = wording.format_reply(positions[-1], steps, positions[-1].action(is_absolute))
    return "".join(parts), reply


def _read_position(
    wording: Wording, observation: str, action: str, number: int, step: int, sights: Iterable[str]
) -> Position | None:
    """Return the position where this is observed and done; None where neither the lack of a sight
    nor one of the sights in the directions gives the observation.
    """
    role = _role(number, action)
    kinds: dict[str, Kind] = {"between": "forward", "destination": "stop"}
    kind = kinds.get(role, "turn")
    name = (read_action(action) or action).partition("(")[2].removesuffix(")")
    at = role == "intersection"
    for sight in (None, *sights):
        position = Position(kind, (0.0, 0.0), 0.0, step, sight, at, (name, name))
        if wording.observe(position)["observation"] == observation:
            return position
    return None


def _read_steps(wording: Wording, steps: Sequence[str]) -> list[Stretch] | None:
    """Return what the steps of a dialogue say; None where the templates do not read it, or read it
    as something that the environment would not put there.
    """
    stretches = []
    for number in range(0, len(steps) - 1, 2):
        is_last = number + 2 == len(steps)
        templates = [
            wording.steps.get("first_turn" if number == 0 else "turn"),
            wording.steps["turn"],
        ]
        turn = next((m for t in templates if t and (m := _match(t, steps[number]))), None)
        if turn is None:
            return None
        kind, move, sight = "arrive" if is_last else "forward", steps[number + 1], None
        if move != fill(wording.steps[kind], {}):
            match = _match(wording.steps[f"{kind}_sight"], move)
            sight = match and match.groupdict().get("sight")
            if sight is None or (is_last and not sight.startswith(DESTINATION)):
                return None
        stretches.append(Stretch((turn["relative"], turn["compass"]), sight))
    return stretches if len(steps) % 2 == 0 else None


_VALUES = {
    "sight": rf".+{_SIDE}",
    "relative": "|".join(RELATIVE),
    "compass": "|".join(COMPASS),
}


def _match(template: str, text: str) -> re.Match[str] | None:
    pattern, end, seen = "", 0, set()
    for mark in MARK.finditer(template):
        name = mark[1]
        value = f"(?P={name})" if name in seen else f"(?P<{name}>{_VALUES[name]})"
        seen.add(name)
        pattern += re.escape(template[end : mark.start()]) + value
        end = mark.end()
    return re.fullmatch(pattern + re.escape(template[end:]), text)
