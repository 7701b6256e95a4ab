"""The page of a run: what it says, what it holds, and how it behaves in a real browser."""

import base64
import io
import json
import re

import numpy as np
import PIL.Image
import pytest
import yaml

import evaluation.claims
import evaluation.page
from evaluation import report
from evaluation.claims import claims
from evaluation.html import ReportConfig, leave_report, main, write_run_report
from evaluation.page import Figure, Report, Table, write_report
from evaluation.play import EvalConfig, play_suites
from evaluation.replay import Comparison, Played, Utterance, encode_image
from evaluation.seeds import read_results
from evaluation.suites import load_task
from evaluation.testing import in_browser
from gym_dialogue import InputError, NoisyOraclePolicy, OraclePolicy, Policy, Reply

EVIL = "</script><img src=x onerror=\"document.title='taken'\"><!-- ${1}"


class _Evil(Policy):
    """Says what would run, if a page took it for markup."""

    def act(self, dialogues):
        return [Reply(EVIL) for _ in dialogues]


def _run(directory, task, policies, episodes, verify_iter=2, **settings):
    suites = load_task(task).suites
    config = EvalConfig(episodes=episodes, verify_iter=verify_iter, batch_size=episodes)
    results = {
        label: play_suites(by_decoding, suites, config, show_progress=False)
        for label, by_decoding in policies.items()
    }
    directory.mkdir()
    report.write(directory, results, suites, verify_iter)
    settings = {"task": task, "seed": 3, "eval": {"seed": 0}} | settings
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    return directory


def _both(error_rate):
    return {
        "sampled": NoisyOraclePolicy(error_rate),
        "greedy": NoisyOraclePolicy(error_rate / 2),
    }


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """A run that ended better than it started, by pictures, with what training leaves."""
    directory = tmp_path_factory.mktemp("cards") / "run"
    _run(directory, "gp_vl", {"update-0": _both(0.8), "update-9": _both(0.1)}, 12)
    row = {"first_reply": 0.25, "turns": 40.0, "flops": 2e9, "seconds_learn": 6.0}
    rows = [row | {"update": i, "kl": 0.1 / i, "entropy": 0.5} for i in range(1, 10)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    write_run_report(directory)
    return directory


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """An evaluation of three checkpoints on routes, one of which says what would run."""
    directory = tmp_path_factory.mktemp("walks") / "<b>evaluation"
    names = {"evil": _Evil(), "a/<i>middle": NoisyOraclePolicy(0.4), "end": OraclePolicy()}
    _run(directory, "virl_l", {label: {"sampled": p} for label, p in names.items()}, 4)
    write_run_report(directory, per_suite=3)
    return directory


def _page(directory):
    return (directory / "report.html").read_text(encoding="utf-8")


def _data(page):
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page)[1])


def _key(comparison):
    return f"{comparison['suite']}/{comparison['decoding']}/{comparison['number']}"


def test_page_loads_nothing(cards, walks):
    for page in (_page(cards), _page(walks)):
        assert "default-src 'none'" in page
        sources = re.findall(r"(?:src|href)=[\"']?([^\"'\s>]+)", page.partition("<script")[0])
        assert sources
        assert all(source.startswith(("data:", "#")) for source in sources)
    assert len(_page(cards)) < 3_000_000


def test_text_of_models_is_data(walks):
    page = _page(walks)
    assert EVIL not in page
    assert "<b>evaluation" not in page
    assert page.count("</script>") == page.count("<script")
    data = _data(page)
    assert data["labels"] == ["evil", "a/<i>middle", "end"]
    replies = [
        reply["text"]
        for comparison in data["comparisons"]
        for dialogue in comparison["played"]["evil"]["dialogues"]
        for reply in dialogue["replies"]
    ]
    assert set(replies) == {EVIL}


def test_page_of_a_run_says_what_it_did(cards):
    page = _page(cards)
    summary, results = read_results(cards)
    first, *by_shift = claims(summary, results)
    assert first.startswith("From update-0 to update-9, the share of first replies that are right")
    assert " rose on " in first
    assert [c.split(":")[0] for c in by_shift] == [
        "In distribution",
        "New puzzles",
        "Another rule",
        "Other looks",
    ]
    start, end = (
        summary["checkpoints"][label]["sampled"]["id"]["metrics"]["first_reply"]["value"]
        for label in ("update-0", "update-9")
    )
    change = summary["differences"]["update-9"]["sampled"]["id"]["first_reply"]
    interval = (
        f"{100 * (end - start):+.1f} [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"
    )
    sentence = f"ID (black, faces 10) {100 * start:.1f} → {100 * end:.1f} %, {interval}, clear of"
    assert sentence in by_shift[0]
    assert sentence in page
    assert "12 episodes for each suite and decoding" in page
    assert "9 updates on 360 replies, 2.00e+09 FLOPs, 0.9 minutes; seed 3." in page
    assert interval + " *" in page  # in the table
    assert (cards / "learning.png").stat().st_size > 10_000
    assert page.count("<figure>") == 2


def _summary(first, turns):
    """Of two checkpoints and a suite; changes as (value, low, high) of two measures."""
    measured = {"first_reply": {"value": 0.5, "low": 0.4, "high": 0.6}}
    names = ("value", "low", "high")
    changes = {
        "first_reply": dict(zip(names, first, strict=True)),
        "within_2": dict(zip(names, turns, strict=True)),
    }
    return {
        "verify_iter": 2,
        "suites": {"a": {"title": "A", "shift": "rule"}},
        "checkpoints": {label: {"sampled": {"a": {"metrics": measured}}} for label in "se"},
        "differences": {"e": {"sampled": {"a": changes}}},
    }


@pytest.mark.parametrize(
    ("first", "turns", "shown"),
    [
        ((0.1, 0.05, 0.2), (0.2, 0.1, 0.3), "+10.0 [+5.0, +20.0], clear of zero."),
        ((0.1, -0.05, 0.2), (0.0, -0.1, 0.1), "+10.0 [-5.0, +20.0], not clear of zero."),
        (
            (0.1, -0.05, 0.2),
            (-0.2, -0.3, -0.1),
            "not clear of zero (but clearly other: -20.0 [-30.0, -10.0]).",
        ),
        (
            (0.1, 0.05, 0.2),
            (-0.2, -0.3, -0.1),
            ", clear of zero (but clearly other: -20.0 [-30.0, -10.0]).",
        ),
        ((None, None, None), (0.0, 0.0, 0.0), "nan [+nan, +nan], not clear of zero."),
    ],
)
def test_claim_holds_what_speaks_against_it(first, turns, shown, monkeypatch):
    rows = [("first reply", "sampled", "first_reply"), ("other", "sampled", "within_2")]
    monkeypatch.setattr(evaluation.claims, "table_rows", lambda verify_iter, records: rows)
    whole, sentence = claims(_summary(first, turns), {"s": {}})
    assert sentence.startswith("Another rule: A 50.0 → 50.0 %, ")
    assert sentence.endswith(shown)
    clearly = first[1] is not None and first[1] > 0
    assert whole.endswith(" rose on A." if clearly else " did not change clearly on A.")


def test_images_are_there_once(cards):
    images = _data(_page(cards))["images"]
    assert len(set(images)) == len(images) > 20


def test_large_images_are_shrunk_when_many(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    views = [encode_image(rng.integers(0, 255, (300, 400, 3), np.uint8)) for _ in range(6)]
    dialogues = [[Utterance("user", "Where?", view)] for view in views * 2]
    comparison = Comparison("s", "S", "none", "greedy", 0, "p", {"a": Played(False, 0, dialogues)})
    monkeypatch.setattr(evaluation.page, "MAX_IMAGE_BYTES", sum(map(len, views)) // 4)
    write_report(tmp_path / "a.html", Report("t", ["c"], dialogues=[comparison]))
    uris = _data((tmp_path / "a.html").read_text())["images"]
    files = [base64.b64decode(uri.partition(",")[2]) for uri in uris]
    assert [PIL.Image.open(io.BytesIO(file)).size for file in files] == [(200, 150)] * 6
    assert sum(map(len, files)) < 1.1 * evaluation.page.MAX_IMAGE_BYTES


def test_other_reports_than_of_runs(tmp_path):
    figure = tmp_path / "curve.svg"
    figure.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    shown = Utterance("assistant", "4", reward=1.0, outcomes=("RIGHT",), is_right=True)
    played = Played(True, 1.0, [[Utterance("user", "2 + 2?"), shown]])
    whole = Report(
        "A <study>",
        ["RL & SFT differ."],
        ["A note."],
        [Table("A table", ["a", "b"], [["1", "<2>"]])],
        [Figure("A curve", figure)],
        [Comparison("s", "S", "none", "sampled", 0, "p", {"RL": played, "SFT": played}, True)],
    )
    write_report(tmp_path / "study.html", whole)
    page = (tmp_path / "study.html").read_text()
    for text in (
        "A &lt;study&gt;",
        "RL &amp; SFT",
        "&lt;2&gt;",
        "image/svg+xml",
        "1 of 1 dialogues",
    ):
        assert text in page
    write_report(tmp_path / "bare.html", Report("Bare", []))
    assert "<script" not in (tmp_path / "bare.html").read_text()
    with pytest.raises(InputError, match=r"gone\.png"):
        write_report(
            tmp_path / "x.html", Report("t", [], figures=[Figure("", tmp_path / "gone.png")])
        )
    with pytest.raises(InputError, match=r"must be a \.png or \.svg"):
        write_report(tmp_path / "x.html", Report("t", [], figures=[Figure("", tmp_path / "a.pdf")]))


def test_bad_input_is_one_line(cards, tmp_path, capsys):
    with pytest.raises(InputError, match="name at least one"):
        main(ReportConfig())
    with pytest.raises(InputError, match="per_suite"):
        main(ReportConfig([str(cards)], per_suite=-1))
    with pytest.raises(InputError, match=r"summary\.json"):
        main(ReportConfig([str(tmp_path)]))
    file = tmp_path / "other.yaml"
    file.write_text("task: x\nsuites: [{name: other}]\n")
    with pytest.raises(InputError, match="none of the suites"):
        main(ReportConfig([str(cards)], task=str(file)))
    for name in ("summary.json", "turns.jsonl"):
        (tmp_path / name).write_text((cards / name).read_text())
    with pytest.raises(InputError, match="names no task"):
        main(ReportConfig([str(tmp_path)]))
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        main(ReportConfig([str(tmp_path)], task="gp_vl", per_suite=0))
    leave_report(tmp_path)  # at the end of a run: said, and no failure
    assert "No report.html: " in capsys.readouterr().out


def test_page_in_a_browser(cards):
    told = in_browser(
        cards / "report.html",
        """
        const keys = () => all("#episodes button", (button) => button.dataset.key);
        const told = {every: keys(), heads: all(".head b", (head) => head.textContent)};
        told.widths = all("img", (image) => image.naturalWidth);
        told.shown = all("#episode img", (image) => image.naturalWidth);
        const replies = (side) => side.querySelectorAll(".reply").length;
        told.sides = all(".said", replies);
        pick("suite", "rule_ood");
        told.suite = keys();
        pick("decoding", "greedy");
        told.greedy = keys();
        pick("decoding", "");
        pick("suite", "");
        pick("change", "gained");
        told.gained = keys();
        pick("outcome", "NO_SOLUTION");
        told.outcome = keys();
        told.hash = location.hash;
        told.chips = all("#episode .reply .chip", (chip) => chip.textContent);
        document.querySelectorAll("#episodes button")[1].click();
        told.second = document.querySelector("[aria-current]").dataset.key;
        document.querySelector("[aria-current]").dispatchEvent(
          new KeyboardEvent("keydown", {key: "ArrowUp", bubbles: true}));
        told.first = document.querySelector("[aria-current]").dataset.key;
        told.focus = document.activeElement.dataset.key;
        pick("right", "update-0");
        told.none = all("#episode .nothing", (line) => line.textContent);
        pick("change", "");
        told.alone = all(".head b", (head) => head.textContent);
        return told;
        """,
    )
    comparisons = _data(_page(cards))["comparisons"]

    def keys(*conditions):
        return [_key(c) for c in comparisons if all(condition(c) for condition in conditions)]

    def gained(c):
        return not c["played"]["update-0"]["won"] and c["played"]["update-9"]["won"]

    def says_no_solution(c):
        replies = [r for p in c["played"].values() for d in p["dialogues"] for r in d["replies"]]
        return "NO_SOLUTION" in [reply["outcomes"][0] for reply in replies]

    assert told["every"] == keys(lambda c: c["decoding"] == "sampled")
    assert told["suite"] == keys(lambda c: c["decoding"] == "sampled" and c["suite"] == "rule_ood")
    assert told["greedy"] == keys(lambda c: c["decoding"] == "greedy" and c["suite"] == "rule_ood")
    assert told["gained"] == keys(gained)
    assert told["outcome"] == keys(gained, says_no_solution)
    assert len(keys()) > len(told["gained"]) > len(told["outcome"]) > 1
    assert told["heads"] == ["before: update-0", "after: update-9"]
    first = next(c for c in comparisons if _key(c) == told["every"][0])
    assert told["sides"] == [
        len(first["played"][label]["dialogues"][0]["replies"]) for label in ("update-0", "update-9")
    ]
    assert told["shown"] == [84]  # the prompt that both columns share
    assert min(told["widths"]) > 0
    assert "change=gained" in told["hash"]
    assert "outcome=NO_SOLUTION" in told["hash"]
    assert "NO_SOLUTION" in told["chips"]
    assert (told["first"], told["second"]) == tuple(told["outcome"][:2])
    assert told["focus"] == told["first"]
    assert told["none"] == ["No sampled episode is like this."]
    assert told["alone"] == ["update-0"]


def test_link_to_a_view(walks):
    told = in_browser(
        walks / "report.html",
        """
        return {
          title: document.title,
          listed: all("#episodes button", (button) => button.dataset.key),
          heads: all(".head b", (head) => head.textContent),
          steps: all(".head:first-child .steps button", (step) => step.title),
          positions: all(".position h4", (head) => head.textContent),
          replies: all("#episode .reply .text", (text) => text.textContent),
          fresh: all("#episode .prompt .who", (who) => who.textContent),
          smuggled: document.querySelectorAll("img[onerror], i").length,
        };
        """,
        "#suite=rule_ood&left=evil&right=a%2F%3Ci%3Emiddle&outcome=nonsense",
    )
    comparisons = [c for c in _data(_page(walks))["comparisons"] if c["suite"] == "rule_ood"]
    assert told["title"] == "virl_l: <b>evaluation"
    assert told["listed"] == [_key(c) for c in comparisons]
    assert told["heads"] == ["before: evil", "after: a/<i>middle"]
    positions = len(comparisons[0]["played"]["evil"]["dialogues"])
    assert told["steps"] == [f"position {i + 1}: failed" for i in range(positions)]
    assert told["positions"] == [f"Position {i + 1} of {positions}" for i in range(positions)]
    assert told["replies"].count(EVIL) == 2 * positions
    assert told["fresh"] == ["prompt"] + ["new in the prompt"] * (positions - 1)
    assert told["smuggled"] == 0
