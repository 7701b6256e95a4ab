"""Reading replies: the last candidate answers, as strict JSON or by pattern."""

import time

import pytest

from gym_dialogue.parse import field_start, read_fields

FIELDS = {"cards": list, "formula": str}
DRAFT = '{"cards": ["A"], "formula": "1"}'


@pytest.mark.parametrize(
    ("reply", "cards", "formula"),
    [
        ('{"cards": ["A", "2"], "formula": "1+2"}', ["A", "2"], "1+2"),
        ('{"cards": ["A", 2], "formula": "1+2", "more": {"formula": "9"}}', ["A", 2], "1+2"),
        ('So: {"cards": ["A", 2], "formula": "1+2", "more": {"formula": "9"}}', ["A", 2], "1+2"),
        ('{"answer": {"cards": ["A", 2], "formula": "1+2"}}', ["A", 2], "1+2"),
        ('{"formula": "1"} then {"formula": "2"}', None, "2"),
        ('```json\n{"cards": [1], "formula": "2"}\n```', [1], "2"),
        ("{'cards': ['A', 10,], 'formula': '1+2',}", ["A", 10], "1+2"),
        ("formula: 1+2", None, "1+2"),
        ("cards: [A, 2]\nformula: 1+2", ["A", 2], "1+2"),
        ("cards = none", None, None),
        ('{"cards": "A", "formula": 3}', None, None),
        ('{"cards": [true], "formula": null}', None, None),
        ('{"cards": [[1]], "formula": ["1"]}', None, None),
        ("", None, None),
        ("[1, 2]", None, None),
        ("{" * 3000, None, None),
        (None, None, None),
    ],
)
def test_table(reply, cards, formula):
    assert read_fields(reply, FIELDS) == {"cards": cards, "formula": formula}


@pytest.mark.parametrize(
    ("rest", "cards", "formula"),
    [
        # A later answer counts, whatever leniency it needs, and with its own fields alone.
        ("\nNo: {'cards': ['A', '2'], 'formula': '1+2'}", ["A", "2"], "1+2"),
        ('\nNo: {"cards": ["A", "2"], "formula": "1+2",}', ["A", "2"], "1+2"),
        ('\nNo: {"cards": ["A", "2"], "formula": "1+2"', ["A", "2"], "1+2"),
        ("\nNo: {cards: [A, 2], more: {a: 1}, formula: 1+2}", ["A", 2], "1+2"),
        ("\nNo: {'cards': ['A', '2'], 'formula': '2'} or {'formula': '1+2'}", None, "1+2"),
        ("\nformula: 1+2", None, "1+2"),
        ("\n- cards: [A, 2]\n- formula: 1+2", ["A", 2], "1+2"),
        (" No, wait. formula: 1+2", None, "1+2"),
        (' The "formula": "1+2"', None, "1+2"),
        ('\nNo: {"cards": ["2"]}', ["2"], None),
        ('\nNo: {"formula": null}', None, None),
        # Speaking of the answer, or breaking off, does not take it back.
        ("\nThis formula: all the numbers, each once.", ["A"], "1"),
        ("\nMy subformula: 2", ["A"], "1"),
        ('\nNo: {"cards": [', ["A"], "1"),
        ('\nNo: {"formula": "2*', ["A"], "1"),
        ('\n{"other": 1}', ["A"], "1"),
    ],
)
def test_the_last_candidate_answers(rest, cards, formula):
    actual = {"cards": cards, "formula": formula}
    assert read_fields(DRAFT + rest, FIELDS) == actual
    lenient = DRAFT.replace('"', "'")
    assert read_fields(lenient + rest, FIELDS) == actual


@pytest.mark.parametrize(
    ("reply", "formula"),
    [
        (f"<think>{DRAFT}</think>I give up.", None),
        (f"<think>{DRAFT}</think>", None),
        (f"<think>\nformula: 2\n{DRAFT}", None),
        (f"{DRAFT}\n</think>\n\nI give up.", None),
        (f"{DRAFT}</think>formula: 2", "2"),
        (f'<think>{DRAFT}</think>\n{{"formula": "2"}}', "2"),
        (f"<think>hm</think>formula: 2<think>{DRAFT}</think>", "2"),
        (f"<think>a <think> b</think>{DRAFT}</think>formula: 2", "2"),
        (f'<think>hm</think>{{"formula": "2"}}<think>{DRAFT}', "2"),
        (f"<thinking>{DRAFT}</thinking>no", None),
        (f"<thought>{DRAFT}</thought>no", None),
        (f"<Reasoning>{DRAFT}</Reasoning>no", None),
        (f"[THINK]{DRAFT}[/THINK]no", None),
        (f"<think >{DRAFT}</think >no", None),
        (f"<seed:think>{DRAFT}</seed:think>no", None),
        (f"◁think▷{DRAFT}◁/think▷no", None),
        (f"<|begin_of_thought|>{DRAFT}<|end_of_thought|>no", None),
        (f"<|channel|>analysis<|message|>{DRAFT}<|end|>", None),
        (f"<|channel|>analysis<|message|>{DRAFT}<|end|><|channel|>final<|message|>no", None),
        (f"[reasoning] I think: {DRAFT}", "1"),
        ("<b>thinking</b> formula: 2", "2"),
    ],
)
def test_thinking_is_no_answer(reply, formula):
    assert read_fields(reply, {"formula": str}) == {"formula": formula}


@pytest.mark.parametrize(
    ("reply", "field"),
    [
        (DRAFT, '"formula": "1"'),
        ('{"formula": "1+2", "more": {"formula": "9"}}', '"formula": "1+2"'),
        ('{"note": "formula: 3", "formula": "1"}', '"formula": "1"'),
        ('{"formula": "1", "note": "formula: 3"}', '"formula": "1"'),
        ('{"formula": "1"} then {"formula": "2"}', '"formula": "2"'),
        (f"{DRAFT} No: {{'formula': '2'}}", "'formula': '2'"),
        (f"{DRAFT} This formula: adds", '"formula": "1"}'),
        ("My formula: 2", "formula: 2"),
        (f"<think>{DRAFT}</think>\nformula: 2", "formula: 2"),
        ('{"cards": [1], "formula": "1+', '"formula": "1+'),
        (f"{DRAFT}</think>I give up", None),
        ("I give up", None),
        ("", None),
    ],
)
def test_where_the_field_that_is_read_begins(reply, field):
    start = field_start(reply, "formula")
    assert start == (None if field is None else reply.index(field))


BEGUN = '{"cards": ["A"], "note": "'


@pytest.mark.parametrize(
    ("reply", "formula"),
    [
        ("so " * 10_000 + DRAFT, "1"),
        ("<think>" + "so " * 10_000 + f"</think>{DRAFT}", "1"),
        (DRAFT + "so " * 10_000, "1"),
        (BEGUN + "so " * 10_000 + '", "formula": "1"}', "1"),
        ("{'cards': ['A'], 'formula': '1'}" + " " * 30_000, "1"),
    ],
)
def test_a_reply_of_any_length_is_read(reply, formula):
    assert read_fields(reply, FIELDS) == {"cards": ["A"], "formula": formula}
    assert reply.startswith('"formula"', field_start(reply, "formula")) or "'" in reply


@pytest.mark.parametrize(
    "unit",
    [
        *("{", "}", "[", '"', "'", " ", "\n", "\\", ":", "1", "a", "<", "</think>", "<think>"),
        *('{"', '{"a":', '{"formula":', '{"formula":[', '{"cards":[', "[[", "{ ", '{"a":{},'),
        *(
            "formula:",
            "formula :",
            "formula: ",
            'formula:"',
            "formula:'x\"",
            "formula:1,",
            "'formula'",
        ),
        *(
            "cards:[",
            "cards: [1,",
            "cards:[1]",
            "{'formula': '1'}",
            '{"formula": "1"}',
            "formula:\n",
        ),
        *(".formula:{", "- formula:[", "\nformula:   ", "<think></think>", "[THINK]"),
    ],
)
def test_hostile_replies_are_read_at_once(unit):
    hostile = unit * (250_000 // len(unit))
    began = time.process_time()
    for reply in (hostile, BEGUN + hostile, hostile + DRAFT, f"<think>{hostile}</think>{DRAFT}"):
        read_fields(reply, FIELDS)
        field_start(reply, "formula")
    assert time.process_time() - began < 4  # eight readings; a quadratic one takes minutes
