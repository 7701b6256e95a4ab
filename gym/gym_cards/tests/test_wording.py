"""Wording files: deriving them from data in foreign wordings, and environments that use them.

The data here is made up: three ways to word the game that have little in common.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import gym_cards
from gym_cards.prompts import FORMAT, OWN, load_wording, read_wording
from gym_cards.rules import FaceRule
from gym_cards.verifier import FEEDBACK, Finding, verify
from gym_cards.wording import derive, main
from gym_dialogue import InputError, Message
from gym_dialogue.data import read_dialogues

KINDS = ("NO_SOLUTION", "INCORRECT_NUMBER", "ILLEGAL_FORMULA", "PARTIAL_SOLUTION")


class Scroll:
    """A Python list, values in quotes, braces, the rule worded twice; a reply of many lines."""

    budget = 4

    def rule(self, values):
        if len(set(values)) == 1:
            return f"'J', 'Q', and 'K' stand for '{values[0]}'"
        return "'J', 'Q', and 'K' stand for '{}', '{}', and '{}'".format(*values)

    def prompt(self, cards, values, target=24):
        return (
            f"# Rules of {{the table}}\nReach {target} points. Your hand: {list(cards)!r}\n\n"
            f"On it {self.rule(values)}, while 'A' stands for '1' and '2' to '10' for themselves.\n"
            f"Write:\n{{\n  'cards': {{w, x, y, z}}, ({self.rule(values)})\n"
            f"  'formula': 'comes to {target}'\n}}"
        )

    def reply(self, cards, numbers, formula, target=24):
        tail = f'"number": {numbers},\n  "formula": "{formula}={target}",\n}}'
        return f'{{\n  "cards": {list(cards)!r},\n  {tail}'

    def feedback(self, outcome, formula, numbers, used, values):
        return {
            "NO_SOLUTION": f"Sorry: {formula} is wrong. Tries left: {self.budget - used}.",
            "INCORRECT_NUMBER": f"Use each of {numbers} once ({self.rule(values)}).",
            "ILLEGAL_FORMULA": f"Try {used} was unreadable.",
        }.get(outcome, "A bracket is open.")


class Telegram:
    """Cards separated by commas, a value for each face, keys in another order, no tail."""

    budget = 5

    def prompt(self, cards, values, target=24):
        return (
            f"GAME {target} STOP HAND {','.join(cards)} STOP "
            "J={} Q={} K={} A=1 STOP JSON PLEASE".format(*values)
        )

    def reply(self, cards, numbers, formula, target=24):
        return json.dumps({"formula": formula, "number": numbers, "cards": list(cards)})

    def feedback(self, outcome, formula, numbers, used, values):
        return f"{outcome.replace('_', '-')} STOP"


class Letter:
    """A JSON list, one number before the words for the faces, a reply without any space."""

    budget = 2

    def prompt(self, cards, values, target=24):
        given = str(values[0]) if len(set(values)) == 1 else "{}, {} or {}".format(*values)
        return (
            f"Dear player,\nplease count {given} for each jack, queen or king. The cards on the "
            f"table are {json.dumps(list(cards))}.\nWe hope that you reach {target}!"
        )

    def reply(self, cards, numbers, formula, target=24):
        data = {"cards": list(cards), "number": numbers, "formula": f"{formula}={target}"}
        return f"```json\n{json.dumps(data, separators=(',', ':'))}\n```"

    def feedback(self, outcome, formula, numbers, used, values):
        return f"Dear player, “{formula.partition('=')[0]}”: no."


STYLES = [Scroll(), Telegram(), Letter()]
TEN, RANK = (10, 10, 10), (11, 12, 13)


def _dialogues(style: Any, count: int, values=TEN, seed=0, target=24) -> list[dict]:
    """Dialogues in LLaVA form: up to three mistakes, then a solution."""
    rng = np.random.default_rng(seed)
    env = gymnasium.make(
        gym_cards.ENV_ID,
        target_points=target,
        face_rule=dict(zip("JQK", values, strict=True)),
        verify_iter=9,
    ).unwrapped
    items = []
    for number in range(count):
        _, info = env.reset(seed=1000 * seed + number)
        cards, numbers = info["plain_cards"], info["numbers"]
        turns = [("human", style.prompt(cards, values, target))]
        for used in range(1, rng.integers(1, min(style.budget, 4)) + 1):
            verdict = env._judge(env.mistaken_reply(rng))
            formula = verdict.info["formula"] + ("" if style.budget == 5 else f"={target}")
            sentence = style.feedback(verdict.outcomes[0], formula, numbers, used, values)
            wrong = style.reply(cards, numbers, verdict.info["formula"], target)
            turns += [("gpt", wrong), ("human", sentence)]
        turns.append(("gpt", style.reply(cards, numbers, info["solution"], target)))
        turns = [{"from": who, "value": text} for who, text in turns]
        items.append({"id": str(number), "conversations": turns})
    return items


def _write(path, items):
    path.write_text(json.dumps(items, indent=1))
    return path


@pytest.fixture(scope="module", params=STYLES, ids=lambda style: type(style).__name__)
def derived(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("wording")
    data = _write(directory / "data.json", _dialogues(request.param, 300))
    main([str(data), f"--out={directory / 'wording.json'}"])
    return request.param, directory / "wording.json", data


def _env(file, **kwargs):
    return gymnasium.make(gym_cards.ENV_ID, prompt_file=str(file), **kwargs).unwrapped


@pytest.mark.parametrize("values", [TEN, RANK, (5, 5, 5), (7, 7, 7), (12, 12, 12), (4, 4, 9)])
def test_prompts_come_back_and_other_rules_are_worded_alike(derived, values):
    style, file, _ = derived
    env = _env(file, face_rule=dict(zip("JQK", values, strict=True)))
    for seed in range(30):
        obs, info = env.reset(seed=seed)
        assert obs["text"] == style.prompt(info["plain_cards"], values)


def test_rule_that_is_worded_twice_is_one_phrase(derived):
    style, file, _ = derived
    phrases = json.loads(file.read_text())["phrases"]
    expected = {
        Scroll: {"same": "'<<J>>'", "different": "'<<J>>', '<<Q>>', and '<<K>>'"},
        Letter: {"same": "<<J>>", "different": "<<J>>, <<Q>> or <<K>>"},
    }
    assert phrases == ({"faces": expected[type(style)]} if type(style) in expected else {})


def test_targets_are_worded_alike(derived):
    style, file, _ = derived
    obs, info = _env(file, target_points=36).reset(seed=0)
    assert obs["text"] == style.prompt(info["plain_cards"], TEN, 36)


@pytest.mark.parametrize("values", [TEN, RANK])
def test_feedback_comes_back(derived, values):
    style, file, _ = derived
    env = _env(file, face_rule=dict(zip("JQK", values, strict=True)), verify_iter=style.budget)
    rng = np.random.default_rng(0)
    outcomes = set()
    for seed in range(60):
        _, before = env.reset(seed=seed)
        for used in range(1, style.budget):
            obs, _, _, _, info = env.step(env.mistaken_reply(rng))
            outcomes.add(info["outcome"])
            about = (info["outcome"], info["formula"], before["numbers"], used, values)
            assert obs["text"] == style.feedback(*about)
            assert obs in env.observation_space
    assert outcomes == set(KINDS)


def test_replies_have_the_form_of_the_data(derived):
    style, file, _ = derived
    env = _env(file, treat_face_cards_as_10=False)
    for seed in range(30):
        _, info = env.reset(seed=seed)
        reply = env.oracle_reply()
        numbers, cards = info["numbers"], info["plain_cards"]
        assert reply == style.reply(cards, numbers, info["solution"])
        assert env.step(reply)[1] == 5


def test_environment_of_a_derived_wording_passes_check_env(derived):
    check_env(_env(derived[1]), skip_render_check=True)


def test_rules_in_the_data_are_all_used(tmp_path):
    class Verbose(Scroll):
        def rule(self, values):
            if values == TEN:
                return "'J', 'Q', and 'K' all stand for the same '10'"
            return "'J', 'Q', and 'K' stand for '{}', '{}', and '{}' in turn".format(*values)

    style = Verbose()
    items = _dialogues(style, 100) + _dialogues(style, 60, RANK) + _dialogues(style, 40, (3, 9, 2))
    result = derive(read_dialogues(_write(tmp_path / "a.json", items)))
    assert "rules met (J/Q/K): 10/10/10 (100), 11/12/13 (60), 3/9/2 (40)" in result.summary
    assert "prompt: explains 100.0 % of the dialogues" in result.summary
    assert sum("explains 100.0 %" in line for line in result.summary if "feedback" in line) == 4
    for values in (TEN, RANK, (8, 1, 4)):
        prompt = result.wording.task_prompt(["A", "K"], FaceRule(*values), 24, 4)
        assert prompt == style.prompt(["A", "K"], values)


def test_most_frequent_wording_wins_and_its_share_is_told(tmp_path):
    items = _dialogues(STYLES[1], 60) + _dialogues(STYLES[0], 40, seed=1)
    result = derive(read_dialogues(_write(tmp_path / "a.json", items)))
    assert "prompt: explains 60.0 % of the dialogues" in result.summary
    assert result.wording.prompt.startswith("GAME <<target>> STOP HAND <<cards>> STOP")
    few = items[:40] + items[60:] + _dialogues(STYLES[2], 40, seed=2)
    with pytest.raises(InputError, match=r"explains 33.3 % of 120 dialogues"):
        derive(read_dialogues(_write(tmp_path / "b.json", few)))


def test_last_replies_may_be_wrong(tmp_path):
    items = _dialogues(STYLES[0], 60)
    for item in items[:25]:
        item["conversations"] = item["conversations"][:2]  # often a mistake
    result = derive(read_dialogues(_write(tmp_path / "a.json", items)))
    assert "prompt: explains 100.0 % of the dialogues" in result.summary


def test_outcomes_without_examples_keep_the_own_sentence(tmp_path):
    items = _dialogues(STYLES[1], 40)
    for item in items:
        item["conversations"] = [item["conversations"][0], item["conversations"][-1]]
    result = derive(read_dialogues(_write(tmp_path / "a.json", items)))
    assert result.wording.feedback == {}
    assert result.summary[-1] == "feedback: no example; the project's own"
    findings = [Finding("NO_SOLUTION", "wrong_value")]
    sentence = result.wording.feedback_to(findings, [], [], FaceRule(*TEN), 24, "1", 1, 1)
    assert sentence == FEEDBACK["NO_SOLUTION"]


def test_sentences_that_cannot_be_filled_are_not_taken(tmp_path):
    class Talkative(Telegram):
        def feedback(self, outcome, formula, numbers, used, values):
            return f"{outcome}: {hash(formula)}"

    result = derive(read_dialogues(_write(tmp_path / "a.json", _dialogues(Talkative(), 60))))
    assert result.wording.feedback == {}
    assert "NO_SOLUTION (the most frequent sentence explains" in result.summary[-1]


@pytest.mark.parametrize(
    ("sentence", "seven"),
    [
        ("J, Q and K are worth 10.", "J, Q and K are worth 7."),
        ("The values of J/Q/K: 10, of A: 1.", "The values of J/Q/K: 7, of A: 1."),
        (
            "The deck has 2, 3, 4, 5, 6, 7, 8, 9, 10, J, Q, K and A. Face cards (J, Q, K) make 10.",
            "The deck has 2, 3, 4, 5, 6, 7, 8, 9, 10, J, Q, K and A. Face cards (J, Q, K) make 7.",
        ),
        ("All face cards are 10, an ace is 1.", "All face cards are 7, an ace is 1."),
        ("Take 10 for J, 10 for Q, 10 for K.", "Take 7 for J, 7 for Q, 7 for K."),
        ("Jack (J), queen (Q), king (K) ->\n10", "Jack (J), queen (Q), king (K) ->\n7"),
        ("J and Q count 10; a K counts 10 too.", "J and Q count 7; a K counts 7 too."),
    ],
)
def test_rule_is_read_however_it_is_worded(sentence, seven, tmp_path):
    class Reworded(Telegram):
        def prompt(self, cards, values, target=24):
            return f"Make {target} of {' '.join(cards)}. {sentence}"

    result = derive(read_dialogues(_write(tmp_path / "a.json", _dialogues(Reworded(), 80))))
    prompt = result.wording.task_prompt(["2", "3"], FaceRule(7, 7, 7), 24, 4)
    assert prompt == f"Make 24 of 2 3. {seven}"
    ranks = result.wording.task_prompt(["2", "3"], FaceRule(11, 12, 13), 24, 4)
    assert [word in ranks for word in ("11", "12", "13")] == [True] * 3


@pytest.mark.parametrize(
    ("items", "word"),
    [
        ([{"conversations": [("human", "a"), ("gpt", "b")]}], "cards, number and formula"),
        ([{"conversations": [("human", "24"), ("gpt", OWN.reply)]}], "cards, number and formula"),
    ],
)
def test_data_of_another_task_is_refused(items, word, tmp_path):
    for item in items:
        item["conversations"] = [{"from": w, "value": v} for w, v in item["conversations"]]
    with pytest.raises(InputError, match=word):
        derive(read_dialogues(_write(tmp_path / "a.json", items)))


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("Make 24. J, Q, K count as 10.", "cards of the replies are not found"),
        ("Make 24 of {cards}.", "no sentence is found"),
        ("Make 24 of {cards}. J, Q, K count as 10. <<note>>", "'<<note>>'"),
    ],
)
def test_prompts_that_hide_what_is_needed_are_refused(prompt, word, tmp_path):
    class Hidden(Telegram):
        def prompt(self, cards, values, target=24):
            return prompt.replace("{cards}", ", ".join(cards))

    with pytest.raises(InputError, match=word):
        derive(read_dialogues(_write(tmp_path / "a.json", _dialogues(Hidden(), 40))))


def test_own_wording_survives_a_file(tmp_path):
    assert read_wording(OWN.to_json(), "own") == OWN
    file = tmp_path / "own.json"
    file.write_text(json.dumps(OWN.to_json()))
    for seed in range(5):
        plain = gymnasium.make(gym_cards.ENV_ID).unwrapped
        obs, info = plain.reset(seed=seed)
        worded = _env(file)
        assert worded.reset(seed=seed)[0] == obs
        assert json.loads(plain.oracle_reply())["cards"] == info["plain_cards"]
        assert worded.oracle_reply() == plain.oracle_reply()


@dataclass
class _Bad:
    change: dict
    word: str


BAD = [
    _Bad({"format": "2"}, "key format"),
    _Bad({"promt": "x"}, "key promt: is unknown"),
    _Bad({"prompt": 3}, "key prompt: must be a string"),
    _Bad({"prompt": []}, "key prompt: must be a string"),
    _Bad({"prompt": "<<cards>> <<J>> <<Q>> <<K>> <<hand>>"}, "key prompt: .* <<hand>>"),
    _Bad({"prompt": "<<J>> <<Q>> <<K>>"}, "key prompt: does not show the cards"),
    _Bad({"prompt": "<<cards>> <<J>>"}, "key prompt: does not say what J, Q and K"),
    _Bad({"image_prompt": "Look."}, "key image_prompt: does not say"),
    _Bad({"cards": {"quote": "'"}}, "key cards: must be an object"),
    _Bad({"cards": {"quote": "'", "separator": 1}}, r"key cards\.separator"),
    _Bad({"reply": "<<formula"}, "key reply"),
    _Bad({"reply": "{'formula': '<<formula>>', 'x': <<used>>}"}, "key reply: .* <<used>>"),
    _Bad({"feedback": {"WRONG": "x"}}, "key feedback"),
    _Bad({"feedback": {"NO_SOLUTION": "<<tries>>"}}, r"key feedback\.NO_SOLUTION: .* <<tries>>"),
    _Bad({"phrases": {"rule": "x"}}, r"key phrases\.rule"),
    _Bad({"phrases": {"rule": {"same": "<<cards>>", "different": ""}}}, r"key phrases\.rule\.same"),
    _Bad({"phrases": {"cards": {"same": "", "different": ""}}}, r"key phrases\.cards"),
    _Bad({"phrases": {"count": {"same": "", "different": ""}}}, r"key phrases\.count"),
    _Bad({"num_cards": "4"}, "key num_cards"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.word)
def test_bad_wording_files_are_named_with_their_key(bad, tmp_path):
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(OWN.to_json() | bad.change))
    with pytest.raises(InputError, match=bad.word) as error:
        load_wording(file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '"x"', json.dumps({"format": FORMAT})])
def test_files_that_are_no_wording_are_refused(text, tmp_path):
    file = tmp_path / "bad.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match="prompt_file"):
        _env(file)


def test_wording_fixed_to_a_size_or_target_refuses_others(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(OWN.to_json() | {"num_cards": 4, "target_points": 24}))
    _env(file)
    for kwargs in ({"num_cards": 5}, {"target_points": 25}):
        with pytest.raises(InputError, match=rf"{next(iter(kwargs))}.*a\.json"):
            _env(file, **kwargs)


def test_replies_are_never_read_as_placeholders(tmp_path):
    file = tmp_path / "a.json"
    feedback = {"ILLEGAL_FORMULA": "Not legal: <<formula>> {formula}"}
    file.write_text(json.dumps(OWN.to_json() | {"feedback": feedback}))
    env = _env(file)
    for formula, shown in (
        ("<<target>>", "<<target>>"),
        ("{0.__class__}", "{0.__class__}"),
        ("é漢", "??"),
        ("++" * 900, "+" * 100),
    ):
        env.reset(seed=0)
        obs = env.step(json.dumps({"formula": formula}))[0]
        assert obs["text"] == f"Not legal: {shown} {{formula}}"
        assert obs in env.observation_space
    env.reset(seed=0)
    assert env.step("no json")[0]["text"] == "Not legal:  {formula}"


def test_command_writes_the_wording_and_names_bad_input(derived, tmp_path):
    _, file, data = derived
    out = tmp_path / "wording.json"
    command = [sys.executable, "-m", "gym_cards.wording"]
    runs = [
        subprocess.run([*command, *flags], capture_output=True, text=True)
        for flags in (
            [str(data), "--out", str(out)],
            [str(data), "--out", str(out)],
            [str(tmp_path / "missing.json"), "--out", str(tmp_path / "b")],
            [str(data), f"--ou={tmp_path / 'c'}"],
        )
    ]
    assert [run.returncode for run in runs] == [0, 2, 2, 2]
    assert [run.stderr.count("\n") for run in runs] == [0, 1, 1, 1]
    assert out.read_text() == file.read_text()
    for part in ("300 of 300", "10/10/10 (300)", "explains 100.0 %", "under the OOD rule"):
        assert part in runs[0].stdout
    assert "already exists" in runs[1].stderr
    assert "missing.json: cannot be read" in runs[2].stderr
    assert "--out" in runs[3].stderr


def test_system_messages_are_told(tmp_path):
    items = _dialogues(STYLES[1], 30)
    for item in items[:5]:
        item["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    result = derive(read_dialogues(_write(tmp_path / "a.json", items)))
    assert "system: 5 dialogues open with a system message" in result.summary[1]
    assert result.wording.prompt.startswith("GAME")


def test_own_jsonl_gives_the_own_wording():
    env = gymnasium.make(gym_cards.ENV_ID, verify_iter=2).unwrapped
    rng = np.random.default_rng(0)
    dialogues = []
    for seed in range(200):
        prompt = env.reset(seed=seed)[0]["text"]
        wrong = env.mistaken_reply(rng)
        sentence = env.step(wrong)[0]["text"]
        texts = [prompt, wrong, sentence, env.oracle_reply()]
        roles = ["user", "assistant"] * 2
        dialogues.append([Message(r, t) for r, t in zip(roles, texts, strict=True)])
    wording = derive(dialogues).wording
    assert wording.prompt == OWN.prompt.replace("<<count>>", "four")
    assert (wording.reply, wording.cards, wording.num_cards) == (OWN.reply, OWN.cards, 4)
    assert wording.feedback == {name: FEEDBACK[name] for name in KINDS}


def _said(formula, numbers=(1, 10, 10, 3), **keys):
    """What feedback that names everything says of a formula, in a wording with these keys."""
    wording = read_wording(OWN.to_json() | keys, "w")
    cards = ["A", "10", "K", "3"]
    reply = json.dumps({"cards": cards, "formula": formula})
    findings = verify(reply, cards, numbers).info["findings"]
    rule = FaceRule(*TEN)
    return wording.feedback_to(findings, cards, numbers, rule, 24, formula, 1, 4, names_all=True)


def test_feedback_can_name_all_findings():
    assert _said("7+10+10+3") == ("Numbers that no card has: 7. Numbers not used: 1. Answer again.")
    assert _said("1 + 10") == (
        "A formula has no character but digits, + - * / and parentheses: not a space. Answer again."
    )
    assert "<<" not in "".join(
        _said(f) for f in ("10+10+1*3", "10+10+(1+3", "10(3)10", "1+10+10+3+3+1+1", "()")
    )
    assert len(_said("+".join(map(str, range(20, 9000))))) < 300


def test_wording_can_frame_findings_and_word_them_its_own_way():
    feedback = dict.fromkeys(KINDS, "No, for {<<findings>>}!")
    findings = {
        "foreign_numbers": "[<<offending>>] are not dealt",
        "unused_numbers": "[<<offending>>] are left",
        "wrong_value_after": "only <<prefix>> is right in <<expression>>",
        "wrong_value": "all is wrong",
    }
    keys = {"feedback": feedback, "findings": findings, "findings_separator": ", "}
    assert _said("7+8+10+3", **keys) == "No, for {[7, 8] are not dealt, [1, 10] are left}!"
    assert _said("10+10-3*1=24", **keys) == "No, for {only 10+10 is right in 10+10-3*1}!"
    assert _said("3*3-8+8", (3, 3, 8, 8), **keys) == "No, for {all is wrong}!"


def test_environment_names_all_findings_where_it_is_asked_to():
    env = gymnasium.make(gym_cards.ENV_ID, feedback="findings").unwrapped
    env.reset(seed=0, options={"cards": ["A", "10", "K", "3"]})
    obs = env.step('{"formula": "10+10"}')[0]
    assert obs["text"] == "Numbers not used: 1, 3. Answer again."
    with pytest.raises(InputError, match="feedback='all': must be one of outcome, findings"):
        gymnasium.make(gym_cards.ENV_ID, feedback="all")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"findings": {"bad": "x"}}, "key findings: must be an object with keys of wrong_cards"),
        ({"findings": {"unreadable": "<<x>>"}}, "key findings.unreadable: unknown placeholder"),
        ({"findings_separator": "<<x>>"}, "key findings_separator: unknown placeholder <<x>>"),
    ],
)
def test_bad_findings_are_named(keys, words):
    with pytest.raises(InputError, match=words):
        read_wording(OWN.to_json() | keys, "w")


class Ledger(Telegram):
    """All findings, joined, in a frame; a right part named."""

    findings = {
        "foreign_numbers": "you used strange numbers: [<<offending>>]",
        "overused_numbers": "you used numbers: [<<offending>>] too often",
        "unused_numbers": "you left out numbers: [<<offending>>]",
        "operator_order": "an operator is out of order",
        "wrong_value": "it is all wrong",
        "wrong_value_after": "it is right up to <<prefix>> and no further",
        "partial": "it is nearly right",
    }


def test_joined_findings_come_back(tmp_path):
    style = Ledger()
    feedback = dict.fromkeys(KINDS, "Not right because <<findings>>.")
    keys = {"feedback": feedback, "findings": style.findings, "findings_separator": ", "}
    verifier = read_wording(OWN.to_json() | keys, "w")
    rng = np.random.default_rng(0)
    env = gymnasium.make(gym_cards.ENV_ID, verify_iter=9).unwrapped
    items = []
    for number in range(400):
        _, info = env.reset(seed=number)
        cards, numbers = info["plain_cards"], info["numbers"]
        a, b, c, d = rng.permutation(numbers)
        mistakes = (f"{a}+{b}*{c}", f"{a}+{b}+{c}+{d}+99", f"{a}+{b}+{c}+{d}+{d}", f"{a}+98*{c}")
        formula = mistakes[number % 5] if number % 5 < 4 else None
        reply = env.mistaken_reply(rng) if formula is None else json.dumps({"formula": formula})
        verdict = env._judge(reply)
        formula = verdict.info["formula"]
        sentence = verifier.feedback_to(
            verdict.info["findings"], cards, numbers, FaceRule(*TEN), 24, formula, 1, 1
        )
        turns = [
            ("human", style.prompt(cards, TEN)),
            ("gpt", style.reply(cards, numbers, formula)),
            ("human", sentence),
            ("gpt", style.reply(cards, numbers, info["solution"])),
        ]
        turns = [{"from": who, "value": text} for who, text in turns]
        items.append({"conversations": turns})
    wording = derive(read_dialogues(_write(tmp_path / "a.json", items))).wording
    assert wording.findings_separator == ", "
    assert {kind: wording.findings[kind] for kind in style.findings} == style.findings
    assert set(wording.feedback.values()) == {"Not right because <<findings>>."}


def _joined_dialogues(verifier, count, mistakes, values=TEN):
    """Dialogues with one of these mistakes, made of the hand's numbers, and a solution."""
    rng = np.random.default_rng(0)
    env = gymnasium.make(gym_cards.ENV_ID, face_rule=dict(zip("JQK", values, strict=True)))
    dialogues = []
    for number in range(count):
        _, info = env.reset(seed=number)
        cards, numbers = info["plain_cards"], info["numbers"]
        order = rng.permutation(numbers)
        formula = mistakes[number % len(mistakes)].format(*order, foreign=order[0] + 20)
        findings = verify(json.dumps({"formula": formula}), cards, numbers).info["findings"]
        sentence = verifier.feedback_to(
            findings, cards, numbers, FaceRule(*values), 24, formula, 1, 1
        )
        texts = [Telegram().prompt(cards, values), Telegram().reply(cards, numbers, formula)]
        texts += [sentence, Telegram().reply(cards, numbers, info["solution"])]
        roles = ["user", "assistant"] * 2
        dialogues.append([Message(r, t) for r, t in zip(roles, texts, strict=True)])
    return dialogues


def _framed(frame, separator, findings):
    feedback = dict.fromkeys(KINDS, frame)
    keys = {"feedback": feedback, "findings": findings, "findings_separator": separator}
    return read_wording(OWN.to_json() | keys, "w")


ORDINARY = (  # a number replaced, forgotten, used twice; signs and parentheses; a wrong value
    "{foreign}+{1}+{2}+{3}",
    "{0}+{1}+{2}",
    "{0}+{1}+{2}+{3}+{0}",
    "{0}++{1}++{2}++{3}",
    "{0}+{1}+{2}+{3})",
    "{0}-{1}-{2}-{3}",
)
TERSE = {
    "foreign_numbers": "nobody dealt [<<offending>>]",
    "overused_numbers": "too much of [<<offending>>] in it",
    "unused_numbers": "where is [<<offending>>]",
    "operator_order": "a sign too many",
    "unmatched": "a parenthesis too many",
    "wrong_value": "all of it is wrong",
}
LONG = {
    "foreign_numbers": "no card has the numbers <<offending>>",
    "overused_numbers": "there is only so much of <<offending>>",
    "unused_numbers": "you forgot (<<offending>>)",
    "operator_order": "you wrote a sign too many",
    "unmatched": "you closed what was not open",
    "wrong_value": "another number comes out",
}


@pytest.mark.parametrize(
    ("frame", "separator", "findings"),
    [
        ("Not so, as <<findings>>! Try again", "; ", TERSE),
        ("Wrong (<<findings>>). Try again", ", and ", TERSE),
        ("<<findings>>.\nOnce more:", "\n", LONG),
        ("No: <<findings>>", " and ", LONG),
        ("I say: <<findings>>.", " / ", LONG),
        ("<<findings>> Answer again.", " ", {}),
    ],
)
def test_joined_findings_are_learned_from_ordinary_mistakes(frame, separator, findings):
    verifier = _framed(frame, separator, findings)
    result = derive(_joined_dialogues(verifier, 60, ORDINARY))
    assert sum("explains 100.0 % of" in line for line in result.summary) == 5
    for formula in ("40+10+10+3", "1+10", "1+10+10+3+3", "1++10++10+3", "1)+40", "1*10+10+3"):
        rule, cards = FaceRule(*TEN), ["A", "10", "K", "3"]
        reply = json.dumps({"formula": formula})
        heard = verify(reply, cards, (1, 10, 10, 3)).info["findings"]
        for target in (24, 36):
            about = (heard, cards, (1, 10, 10, 3), rule, target, formula, 1, 1)
            assert result.wording.feedback_to(*about) == verifier.feedback_to(*about)


def test_finding_that_is_only_met_repeated_is_learned():
    verifier = _framed("Not so, as <<findings>>! Try again", "; ", TERSE)
    wording = derive(_joined_dialogues(verifier, 30, (ORDINARY[3], ORDINARY[5]))).wording
    assert wording.findings_separator == "; "
    assert wording.findings["operator_order"] == TERSE["operator_order"]
    assert set(wording.feedback.values()) == {"Not so, as <<findings>>! Try again"}


def test_findings_that_keep_the_own_sentence_in_a_frame_are_named():
    verifier = _framed("Not so, as <<findings>>! Try again", "; ", TERSE)
    result = derive(_joined_dialogues(verifier, 60, (*ORDINARY[:3], ORDINARY[5])))
    assert result.summary[-1].startswith("feedback: names all of foreign_numbers")
    assert "ILLEGAL_FORMULA (no example)" in result.summary[-2]
    result = derive(_joined_dialogues(verifier, 60, ORDINARY))
    assert result.summary[-1].endswith(
        "the project's own sentence, as the data has none, for close_order, foreign_character, "
        "number_order, open_order, unreadable"
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [(TEN, "none where J, Q and K do not all count"), (RANK, "none where J, Q and K all count")],
)
def test_kind_of_rule_that_was_not_met_is_told(values, line):
    met, both = (_joined_dialogues(OWN, 40, ORDINARY, v) for v in (values, (3, 3, 3)))
    assert any(line in told for told in derive(met).summary)
    rank = _joined_dialogues(OWN, 40, ORDINARY, RANK)
    assert not any("none where" in told for told in derive(both + rank).summary)


def test_formula_with_spaces_is_told_so():
    env = gymnasium.make(gym_cards.ENV_ID).unwrapped
    env.reset(seed=0, options={"cards": ["A", "10", "K", "3"]})
    for formula, words in (("10 + 10", "no spaces"), ("10+x", "no legal formula")):
        obs, reward, *_ = env.step(json.dumps({"formula": formula}))
        assert reward == -3
        assert words in obs["text"]
