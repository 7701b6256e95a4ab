"""The study's analysis on made-up measurements whose answer is known, and its bad input."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import yaml

from evaluation.records import EpisodeRecord, TurnRecord
from evaluation.study.__main__ import _begin, main
from evaluation.study.analysis import read_study
from evaluation.study.config import ArmConfig, StudyConfig, check_config, study_file
from evaluation.study.figures import draw
from evaluation.study.layout import START, Measured, Place, read_measured, write_measured
from evaluation.study.results import results
from evaluation.study.run import places, run_study
from evaluation.study.steps import Steps
from evaluation.study.text import claims, format_table
from evaluation.suites import load_task
from gym_command.command import parse_config
from gym_command.files import append_json
from gym_command.lock import locked, sole_writer
from gym_dialogue import InputError

SUITES = [suite.name for suite in load_task("gp_l").suites]
EPISODES = 200


def _records(rates):
    """Records of one decoding: the first `rate` of the episodes of a suite are right at once, half
    of the others at the second reply.
    """
    by_suite = {}
    for suite in SUITES:
        right = round(rates.get(suite, 0.1) * EPISODES)
        by_suite[suite] = []
        for number in range(EPISODES):
            later = number >= right and number % 2 == 0
            verdicts = [True] if number < right else [False, later]
            turns = [TurnRecord(0, "x", 1.0, ("X",), "", is_right, 3) for is_right in verdicts]
            by_suite[suite].append(EpisodeRecord(number, str(number), any(verdicts), turns))
    return {"sampled": by_suite}


def _config(**kwargs):
    arms = [
        ArmConfig("sft", "sft", "f.yaml", "SFT", ["--num_steps=30"], every=10),
        ArmConfig("rl", "rl", "f.yaml", "RL", ["--num_updates=10"], every=5),
    ]
    config = StudyConfig(known_arms=arms, start_config="f.yaml", **{"seeds": 2} | kwargs)
    config.eval.decoding = ["sampled"]
    return config


RATES = {  # (update, FLOPs) -> rate under the OOD rule; ID rises alike in both arms
    "sft": [(10, 100.0, 0.10), (20, 200.0, 0.05), (30, 900.0, 0.0)],
    "rl": [(5, 90.0, 0.25), (10, 195.0, 0.40)],
}


@pytest.fixture
def study(tmp_path):
    config = _config()
    for place in places(config, tmp_path):
        if place.arm == START:
            records = _records({"id": 0.3, "rule_ood": 0.2})
            write_measured(place.measured(0), Measured(records, 2))
            continue
        for update, flops, rate in RATES[place.arm]:
            checkpoint = place.run / "checkpoints" / f"update-{update:06d}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "config.json").write_text("{}")
            append_json(place.run / "metrics.jsonl", {"update": update, "flops": flops})
            divergence = {"forward_per_reply": flops / 1000, "reverse_per_reply": 0.1}
            records = _records({"id": 0.3 + flops / 2000, "rule_ood": rate})
            write_measured(place.measured(update), Measured(records, 2, divergence))
    return config, tmp_path


def test_arms_are_compared_at_equal_compute(study):
    config, directory = study
    data = results(read_study(config, directory))
    assert data["finished"]
    equal = data["equal_compute"]
    assert equal["budget"] == 195.0
    # 200 counts as equal to 195, 900 does not.
    assert {name: arm["update"] for name, arm in equal["arms"].items()} == {"sft": 20, "rl": 10}
    cells = {name: arm["sampled"]["rule_ood"]["first_reply"] for name, arm in equal["arms"].items()}
    assert cells["sft"]["start"]["value"] == cells["rl"]["start"]["value"] == 0.2
    assert cells["sft"]["change"]["value"] == pytest.approx(-0.15)
    assert cells["rl"]["change"]["value"] == pytest.approx(0.2)
    assert cells["sft"]["change"]["high"] < 0 < cells["rl"]["change"]["low"]


def test_curves_replies_and_divergence(study):
    config, directory = study
    data = results(read_study(config, directory))
    curve = data["curves"]["sft"]["sampled"]["rule_ood"]["first_reply"]
    assert [point["value"] for point in curve] == [0.2, 0.1, 0.05, 0.0]
    assert data["arms"]["sft"]["flops"] == [0.0, 100.0, 200.0, 900.0]
    # Right at once in 20 %, at the second reply in half of the rest.
    within = [point["value"] for point in data["replies"]["start"]["sampled"]["rule_ood"]]
    assert within == pytest.approx([0.2, 0.6])
    assert len(data["divergence"]) == 2 * (3 + 2)
    point = next(p for p in data["divergence"] if p["arm"] == "rl" and p["update"] == 10)
    assert point["forward_per_reply"] == 0.195
    assert point["changes"]["rule_ood"] == pytest.approx(0.2)


def test_tables_have_checks_and_success_in_any_of_several_tries(study):
    config, directory = study
    for place in places(config, directory):
        updates = [0] if place.arm == START else [update for update, _, _ in RATES[place.arm]]
        for file in map(place.measured, updates):
            measured = read_measured(file)
            for episodes in measured.records["sampled"].values():
                for episode in episodes:
                    episode.turns[0] = replace(episode.turns[0], checks={"rule_read": True})
                # The second try at a deal is right where the first one of its neighbour is.
                turns = [episode.turns for episode in episodes]
                seconds = zip(episodes, turns[1:] + turns[:1], strict=True)
                episodes += [replace(episode, turns=other) for episode, other in seconds]
            write_measured(file, measured)
    read = read_study(config, directory)
    data = results(read)
    first = data["equal_compute"]["arms"]["sft"]["sampled"]["rule_ood"]
    assert first["first_reply"]["start"]["value"] == pytest.approx(0.2)
    # Of 200 deals 40 are right in the first try; one more is in the second.
    assert first["pass_at_2"]["start"]["value"] == pytest.approx(41 / 200)
    assert first["check/rule_read"]["value"]["value"] == 1.0
    table = format_table(read, data)
    assert "right in at least one of 2 first replies, sampled" in table
    assert "rule read in the first reply, sampled" in table


def _change(data, match):
    wanted = {"first": "rl", "second": "sft", "match": match, "suite": "rule_ood"}
    (one,) = [c for c in data["contrasts"] if wanted.items() <= c.items()]
    return one["change"]["sampled"]


def test_arms_are_compared_at_an_equal_level_of_each_kind(study):
    config, directory = study
    data = results(read_study(config, directory))
    # RL ends at 40 % in distribution, where SFT has 5 % under the other rule at its second point.
    assert _change(data, "id")["value"] == pytest.approx(0.40 - 0.05)
    # At 195 FLOPs, and at a divergence of 0.195, SFT is at 95 % of the way from 10 to 5 %.
    for match in ("compute", "kl"):
        assert _change(data, match)["value"] == pytest.approx(0.40 - 0.0525)
        assert _change(data, match)["per_seed"] == pytest.approx([0.3475] * 2)


def test_seeds_that_lack_an_arm_are_not_compared(study):
    config, directory = study
    Place(directory, 0, "rl").measured(10).unlink()
    data = results(read_study(config, directory))
    assert data["arms"]["sft"]["seeds"] == [0, 1]
    change = _change(data, "id")
    assert (len(change["per_seed"]), change["p"]) == (1, None)  # no interval over seeds


def test_arm_is_compared_with_the_initial_checkpoint_at_its_best_temperature(study):
    config, directory = study
    config.start_decoding = ["sampled@0.5"]
    for seed in range(2):
        file = Place(directory, seed, START).measured(0)
        measured = read_measured(file)
        measured.records["sampled@0.5"] = _records({"id": 0.25, "rule_ood": 0.35})["sampled"]
        write_measured(file, measured)
    read = read_study(config, directory)
    data = results(read)
    assert data["start"]["sampled@0.5"]["rule_ood"]["value"] == 0.35
    gains = data["over_best_start"]["rl"]["sampled"]
    assert (gains["rule_ood"]["best"], gains["id"]["best"]) == ("sampled@0.5", "sampled")
    assert gains["rule_ood"]["value"] == pytest.approx(0.40 - 0.35)
    assert any(
        "rule OOD (11, 12, 13) (sampled@0.5): sampled +5.0 [" in c for c in claims(read, data)
    )
    assert "initial checkpoint, first reply: sampled, sampled@0.5\n" in format_table(read, data)


def test_failures_are_told_by_their_reasons(study):
    config, directory = study
    data = results(read_study(config, directory))
    assert data["failures"]["start"]["sampled"]["rule_ood"] == {"right": 0.2, "x": 0.8}
    assert data["failures"]["rl"]["sampled"]["rule_ood"] == {"right": 0.4, "x": 0.6}


def test_changes_are_over_the_episodes_that_both_played(study):
    config, directory = study
    for seed in range(2):
        file = Place(directory, seed, "sft").measured(10)
        measured = read_measured(file)
        for suite, records in measured.records["sampled"].items():
            measured.records["sampled"][suite] = records[:100]
        write_measured(file, measured)
    read = read_study(config, directory)
    # Of the first 100 episodes the start gets 40 right at once, of all 200 no more than that.
    assert read.arms[0].value(0, "sampled", "rule_ood", "first_reply").value == pytest.approx(0.2)
    data = read.arms[0].against_start(1, "sampled", "rule_ood", "first_reply")
    assert [data[name].value for name in ("start", "value", "change")] == pytest.approx(
        [0.4, 0.2, -0.2]
    )
    point = next(p for p in results(read)["divergence"] if (p["arm"], p["update"]) == ("sft", 10))
    assert point["changes"]["rule_ood"] == pytest.approx(-0.2)
    # SFT at its second checkpoint, of all 200 episodes.
    assert any("SFT 20.0 -> 5.0, -15.0 [" in claim for claim in claims(read, results(read)))


def test_checkpoints_of_interruptions_are_left_out(study):
    config, directory = study
    interrupted = Place(directory, 0, "sft")
    checkpoint = interrupted.run / "checkpoints" / "update-000007"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    write_measured(interrupted.measured(7), read_measured(interrupted.measured(10)))
    assert 7 in interrupted.updates
    data = results(read_study(config, directory))
    assert data["finished"]
    assert data["arms"]["sft"]["updates"] == [0, 10, 20, 30]


def test_updates_of_an_arm(tmp_path):
    arm = ArmConfig("rl", "rl", str(tmp_path / "rl.yaml"), every=4)
    with pytest.raises(InputError, match="cannot be read"):
        arm.updates()
    (tmp_path / "rl.yaml").write_text("num_updates: 8\n")
    assert arm.updates() == [4, 8]
    arm.options = ["--num_updates=9"]
    assert arm.updates() == [4, 8, 9]
    arm.package = "sft"
    with pytest.raises(InputError, match="num_steps"):
        arm.updates()


def test_claim_says_what_is_clear_of_the_initial_checkpoint(study, tmp_path):
    config, directory = study
    read = read_study(config, directory)
    data = results(read)
    *_, claim, sft, rl = claims(read, data)
    title = "rule OOD (11, 12, 13), at equal compute, first reply, sampled"
    assert claim.startswith(f"{title}: SFT 20.0 -> 5.0, -15.0 [")
    assert (
        claim.index("below the initial checkpoint")
        < claim.index("RL 20.0 -> 40.0")
        < claim.index("above")
    )
    assert "20.0 -> 5.0, -15.0 [" in sft
    assert "below the initial checkpoint" in sft.split("rule OOD")[1].split(";")[0]
    assert "above the initial checkpoint" in rl.split("rule OOD")[1].split(";")[0]
    assert (
        "held-out puzzles 10.0 -> 10.0, +0.0 [+0.0, +0.0], not clear of the initial checkpoint"
        in rl
    )
    headlines = claims(read, data)[:3]
    assert headlines[1].startswith(
        "RL less SFT, rule OOD (11, 12, 13), at equal success in distribution (2 seeds, first "
        "reply): sampled +35.0 ["
    )
    assert "(by seed +35.0 +35.0; p below 0.001, by sign flips 0.500)" in headlines[1]
    assert "RL - start" in format_table(read, data)
    names = [file.stem for _, file in draw(read, data, tmp_path / "figures")]
    assert names == [
        *("frontier", "forest", "divergence", "failures", "curves", "changes", "replies")
    ]


def test_episodes_are_compared_where_both_arms_are_at_their_ends(study):
    config, directory = study
    config.known_arms[0].options = ["--num_steps=20"]  # so SFT ends at the compute of RL
    read = read_study(config, directory)
    *_, episodes, _, _ = claims(read, results(read))
    # Half of what fails at first is right at the second reply: 0.05 -> 0.525, 0.4 -> 0.7.
    assert "episode of up to 5 replies, sampled: SFT 60.0 -> 52.5, -7.5 [" in episodes
    assert "RL 60.0 -> 70.0, +10.0 [" in episodes
    assert "episode of up to 5 replies, sampled" in format_table(read, results(read))


def test_unfinished_study_says_so_and_shows_the_rest(study):
    config, directory = study
    Place(directory, 1, "rl").measured(10).unlink()
    read = read_study(config, directory)
    data = results(read)
    assert (data["finished"], data["missing"]) == (False, ["seed1/rl"])
    assert data["arms"]["rl"]["seeds"] == [0]
    assert claims(read, data)[0].startswith("Unfinished: seed1/rl")
    only_starts = read_study(_config(arms=["rl"]), directory.parent / "none")
    assert claims(only_starts, results(only_starts)) == ["Nothing has been measured yet."]


def test_jobs_that_are_done_are_not_done_again(study):
    config, directory = study
    for seed in range(2):
        start = Place(directory, seed, START).directory / "start.json"
        start.write_text(json.dumps({"path": str(directory / "s")}))
    (directory / "s").mkdir()
    (directory / "s" / "config.json").write_text("{}")
    run_study(config, directory)  # nothing is left to run, so no command is started
    assert not (directory / "steps.jsonl").exists()
    with pytest.raises(InputError, match="seed9/rl"):
        run_study(_config(only=["seed9/rl"]), directory)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"arms": ["sft", "dpo"]}, "dpo"),
        ({"arms": []}, "arms"),
        ({"seeds": 0}, "seeds"),
        ({"start_model": "a/b"}, "start"),
        ({"end_verify_iter": 0}, "end_verify_iter"),
        ({"end_episodes": 299}, "end_episodes"),
    ],
)
def test_settings_that_are_wrong_are_named(change, word):
    with pytest.raises(InputError, match=word):
        check_config(_config(**change))


def test_suite_of_the_claim_is_one_of_the_suites(tmp_path):
    config = parse_config(StudyConfig, [f"--config={study_file('gp_l', 'tiny')}"])
    config.primary, config.run_dir = "chess", str(tmp_path / "study")
    with pytest.raises(InputError, match="primary=chess: must be one of id, heldout"):
        main(config)
    assert not (tmp_path / "study").exists()


def test_files_that_are_wrong_are_named(tmp_path):
    with pytest.raises(InputError, match="gp_l_tiny"):
        study_file("chess", "tiny")
    broken = tmp_path / "update-000001.json.gz"
    broken.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="run the study again"):
        read_measured(broken)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_command_of_a_study_ends_with_it_however_that_dies(tmp_path):
    trains = (
        "import sys, time; from gym_command.lock import sole_writer\n"
        "with sole_writer('run'):\n print('up', file=sys.stderr, flush=True); time.sleep(600)"
    )
    study = (
        "import sys; from pathlib import Path; from evaluation.study.steps import Steps\n"
        "with Steps(Path('steps.jsonl'), ['train']) as steps:\n"
        " steps.run('train', 'seed0/rl', [sys.executable, '-c', sys.argv[1]], Path('log.txt'))"
    )
    with subprocess.Popen([sys.executable, "-c", study, trains], cwd=tmp_path) as process:
        log = tmp_path / "log.txt"
        while not log.exists() or "\nup\n" not in log.read_text():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    with locked(tmp_path / "run" / ".lock", lambda: None):
        pass  # until the training is gone
    with sole_writer(tmp_path / "run"):
        pass


def test_study_asked_to_end(tmp_path, capsys):
    """Between two commands it ends at once; a command that ends well all the same is counted."""
    account, log = tmp_path / "steps.jsonl", tmp_path / "log.txt"
    before = signal.getsignal(signal.SIGTERM)
    asks = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "os.kill(os.getppid(), signal.SIGTERM); time.sleep(0.2)"
    )

    def study(number, command):
        with Steps(account, ["train", "evaluate"]) as steps:
            steps.run("train", f"seed{number}/rl", [sys.executable, "-c", command], log)
            signal.raise_signal(signal.SIGTERM)

    for number, command in enumerate(("pass", asks)):
        with pytest.raises(SystemExit) as ended:
            study(number, command)
        assert ended.value.code == 128 + signal.SIGTERM
        assert "run the study again to go on" in capsys.readouterr().out
        assert len(account.read_text().splitlines()) == number + 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_study_that_is_older_than_a_setting_goes_on(tmp_path):
    config = parse_config(StudyConfig, [f"--config={study_file('gp_l', 'tiny')}"])
    _begin(config, tmp_path)
    file = tmp_path / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    for key in ("each_once", "top_p", "sampling"):
        del settings["eval"][key]
    del settings["dtype"]
    file.write_text(yaml.safe_dump(settings))
    _begin(config, tmp_path)
    changed = replace(config, eval=replace(config.eval, top_p=0.9))
    with pytest.raises(InputError, match=r"eval=.*but the study"):
        _begin(changed, tmp_path)
