"""Reading replies: strict JSON, then each field by pattern."""

import pytest

from gym_dialogue.parse import MAX_REPLY_CHARS, read_fields

FIELDS = {"cards": list, "formula": str}


@pytest.mark.parametrize(
    ("reply", "cards", "formula"),
    [
        ('{"cards": ["A", "2"], "formula": "1+2"}', ["A", "2"], "1+2"),
        ('{"cards": ["A", 2], "formula": "1+2", "more": {"formula": "9"}}', ["A", 2], "1+2"),
        ('{"formula": "1"} then {"formula": "2"}', None, "2"),
        ('```json\n{"cards": [1], "formula": "2"}\n```', [1], "2"),
        ("{'cards': ['A', 10,], 'formula': '1+2',}", ["A", 10], "1+2"),
        ("formula: 1+2", None, "1+2"),
        ("cards = none", None, None),
        ('{"cards": "A", "formula": 3}', None, None),
        ('{"cards": [true], "formula": null}', None, None),
        ('{"cards": [[1]], "formula": ["1"]}', None, None),
        ("", None, None),
        ("[1, 2]", None, None),
        ("{" * 3000, None, None),
        ('{"formula": "' + "1" * MAX_REPLY_CHARS + '"}', None, None),
        (None, None, None),
    ],
)
def test_table(reply, cards, formula):
    assert read_fields(reply, FIELDS) == {"cards": cards, "formula": formula}
