"""The project's pages hold the tables that their command writes from the results that are kept."""

import copy

import pytest

from evaluation.study.markdown import BLOCKS, claim_table, contrast_table
from evaluation.study.publish import KEPT, PAGES, _keep, kept_studies, with_tables
from gym_dialogue import InputError


def _interval(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def _change(value, *seeds):
    return _interval(value) | {"per_seed": list(seeds), "p": 0.01, "p_sign_flip": 0.25}


RESULTS = {
    "task": "gp_l",
    "scale": "tiny",
    "finished": True,
    "decodings": ["sampled", "greedy"],
    "headline": ["rl", "sft"],
    "primary": "rule",
    "suites": {"id": {"title": "ID", "shift": "none"}, "rule": {"title": "Rule", "shift": "rule"}},
    "arms": {"sft": {"title": "SFT"}, "rl": {"title": "RL"}},
    "start": {
        d: {"id": _interval(0.3), "rule": _interval(0.1 + 0.1 * (d == "sampled@0.7"))}
        for d in ("sampled", "sampled@0.7", "greedy")
    },
    "curves": {
        name: {
            "sampled": {
                s: {"first_reply": [_interval(0.3), _interval(0.5)]} for s in ("id", "rule")
            }
        }
        for name in ("sft", "rl")
    },
    "changes": {
        name: {"sampled": {"id": _interval(0.2), "rule": _interval(0.2)}} for name in ("sft", "rl")
    },
    "contrasts": [
        {
            "first": "rl",
            "second": "sft",
            "match": match,
            "suite": suite,
            "change": {d: _change(0.05, 0.04, 0.06) for d in ("sampled", "greedy", "both")},
        }
        for match in ("compute", "id")
        for suite in ("id", "rule")
    ],
}

PAGE = """Words.
<!-- results: gp_l_tiny {} -->
an old table
<!-- end of results -->
More words.
"""


def test_tables_are_written_between_their_marks():
    written = with_tables(PAGE.format("start"), {"gp_l_tiny": RESULTS}, "page")
    assert written == (
        "Words.\n<!-- results: gp_l_tiny start -->\n"
        "| initial checkpoint, first reply, % | sampled | sampled@0.7 | greedy |\n"
        "| --- | --- | --- | --- |\n"
        "| ID | 30.0 [28.0, 32.0] | 30.0 [28.0, 32.0] | 30.0 [28.0, 32.0] |\n"
        "| Rule | 10.0 [8.0, 12.0] | 20.0 [18.0, 22.0] | 10.0 [8.0, 12.0] |\n"
        "<!-- end of results -->\nMore words.\n"
    )
    assert with_tables(written, {"gp_l_tiny": RESULTS}, "page") == written


def test_arms_stand_beside_the_initial_checkpoint_at_its_best():
    shown = BLOCKS["arms"](RESULTS)
    assert "| Rule | 10.0 [8.0, 12.0] | 20.0 [18.0, 22.0] (sampled@0.7) | 50.0 (+20.0 [" in shown


def test_claim_is_at_equal_success_and_adjusted_for_the_number_of_tasks():
    other = copy.deepcopy(RESULTS) | {"task": "virl_l"}
    for contrast in other["contrasts"]:
        contrast["change"]["both"]["p"] = 0.04
    shown = claim_table({"a": RESULTS, "b": other})
    assert "| gp_l | 2 | Rule | +5.0 [+3.0, +7.0] | +4.0 +6.0 | 0.020 |" in shown
    assert "| virl_l | 2 | Rule | +5.0 [+3.0, +7.0] | +4.0 +6.0 | 0.040 |" in shown
    assert "(+4 +6)" in contrast_table(RESULTS)


@pytest.mark.parametrize(("study", "table"), [("chess_tiny", "start"), ("gp_l_tiny", "moves")])
def test_table_that_there_is_not_is_named(study, table):
    page = PAGE.format(table).replace("gp_l_tiny", study)
    with pytest.raises(InputError, match=f"page: results: {study} {table}: the study must be"):
        with_tables(page, {"gp_l_tiny": RESULTS}, "page")


def test_unfinished_study_is_not_kept(tmp_path):
    (tmp_path / "results.json").write_text('{"finished": false}')
    with pytest.raises(InputError, match="is not of a finished study"):
        _keep(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_pages_hold_what_the_command_writes(page):
    text = page.read_text(encoding="utf-8")
    assert with_tables(text, kept_studies(KEPT), str(page)) == text
