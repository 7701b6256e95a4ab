"""Whole runs, as a user starts them: on one process and on two, and every kind of bad input."""

import json
import shutil
import sys

import pytest
import torch
import yaml

from evaluation.evaluate import CommandConfig, main_with_run_settings
from evaluation.evaluate import main as evaluate
from evaluation.play import EvalConfig
from gym_command.command import parse_config, run_command
from gym_dialogue import InputError, Task
from gym_policy import load_model, load_tokenizer
from rl.config import RLConfig
from rl.tasks import TaskStream
from rl.testing import SMALL, command, deepspeed, tiny_llama, tiny_tokenizer
from rl.train import train


@pytest.mark.parametrize(("algorithm", "processes"), [("ppo", 1), ("ppo", 2), ("grpo", 2)])
def test_a_run_leaves_everything_that_it_should(algorithm, processes, start, tmp_path, monkeypatch):
    run = tmp_path / "run"
    flags = [f"--model={start}", f"--run_dir={run}", f"--algorithm={algorithm}", *SMALL]
    done = command("rl.train", *flags, processes=processes)
    assert done.returncode == 0, done.stderr
    assert "rule OOD" in done.stdout
    assert done.stdout.count("Run directory") == 1  # only one rank prints
    assert yaml.safe_load((run / "config.yaml").read_text())["algorithm"] == algorithm
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["update"] for m in metrics] == [1, 2]
    for m in metrics:
        assert m["logprob_gap"] < 1e-4
        assert m["turns"] >= 8 * processes
        assert m["entropy"] > 0
        assert m["grad_norm"] > 0
        assert "eval/id/sampled" in m
        assert ("explained_variance" in m) == (algorithm == "ppo")
    assert list((run / "tensorboard").rglob("events*")) or list(run.rglob("events*"))
    assert "2 updates on" in (run / "report.html").read_text()
    dialogues = (run / "dialogues.jsonl").read_text().splitlines()
    assert json.loads(dialogues[0])["dialogues"][0][0]["role"] == "user"
    before, after = (run / "checkpoints" / f"update-{n:06d}" for n in (0, 2))
    load_tokenizer(str(after))
    weights = [load_model(str(path)).state_dict() for path in (before, after)]
    assert any(not torch.equal(weights[0][k], weights[1][k]) for k in weights[0])

    # The evaluation command reads the run and prints the same numbers, on any number of ranks.
    flags = [f"--checkpoints=['{run}']", f"--run_dir={tmp_path / 'eval'}"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *flags])
    run_command(main_with_run_settings, CommandConfig)
    assert (tmp_path / "eval" / "table.txt").read_text() == (run / "table.txt").read_text()


def test_an_optional_suite_with_nothing_to_play_is_no_part_of_a_run(start, tmp_path, capsys):
    file = tmp_path / "few.yaml"
    gone = {"name": "gone", "optional": True, "env": {"kwargs": {"target_points": 989}}}
    file.write_text(yaml.safe_dump({"task": "few", "suites": [gone, {"name": "id"}]}))
    flags = [f"--model={start}", f"--run_dir={tmp_path}/run", *SMALL, f"--task={file}"]
    with pytest.raises(InputError, match=r"must be one of eval/id/sampled$"):
        train(parse_config(RLConfig, [*flags, "--best_by=eval/gone/sampled"]))
    assert "suite gone: left out: no hand of 4 cards that makes 989" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--num_update=3"], "num_update"),
        (["--algorithm=dpo"], "algorithm"),
        (["--lr=fast"], "lr"),
        (["--model=/nowhere/x"], "no such directory"),
        (["--task=chess"], "chess"),
        (["--env.kwargs.verify_iter=0"], "verify_iter"),
        (["--env.kwargs.colour=red"], "colour"),
        (["--env.kwargs.face_rule=eleven"], "face rule"),
        (["--microbatch_size=3"], "microbatch_size"),
        (["--sampler=telepathy"], "sampler"),
        (["--importance_cap=0"], "importance_cap"),
        (["--run_dir=/dev/null/run"], "cannot be written"),
        (["--trackers=[abacus]"], "abacus"),
        (["--trackers=[clearml]"], "pip install clearml"),
        (["--best_by=eval/id/greedy"], "must be one of eval/id/sampled"),
        (["--lora.rank=4", "--lora.targets=[nothing]"], "lora.targets"),
        (["--prompt_file=/nowhere.json"], "/nowhere.json"),
    ],
)
def test_bad_input_is_one_line_and_code_2(flags, word, start, tmp_path, monkeypatch, capsys):
    argv = ["train", f"--model={start}", f"--run_dir={tmp_path}/run", *SMALL, *flags]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as stop:
        run_command(train, RLConfig)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert word in lines[0]


@pytest.mark.parametrize(
    ("how", "flags"),
    [
        (None, ["--lora.rank=4", "--lora.dropout=0.1", "--kl_coef=0.1", "--dtype=bfloat16"]),
        (deepspeed(2), ["--kl_coef=0.1", "--gradient_checkpointing"]),
        (deepspeed(3), ["--lora.rank=4", "--kl_coef=0.1", "--dtype=bfloat16"]),
    ],
    ids=["adapter", "zero2", "zero3-adapter"],
)
def test_a_run_of_every_kind_is_evaluated_and_goes_on(how, flags, start, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [f"--model={start}", f"--run_dir={run}", *SMALL, "--save_every=1", *flags]

    def play(*more, how=how):
        if how is None:  # in this process, which is quicker
            train(parse_config(RLConfig, [*flags, *more]))
            return capsys.readouterr().out
        done = command("gym_command.launch", how, "rl.train", *flags, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    play()
    table = (run / "table.txt").read_text()
    metrics = (run / "metrics.jsonl").read_text()
    assert json.loads(metrics.splitlines()[1])["ref_kl"] > 0
    is_adapter = "--lora.rank=4" in flags
    last = run / "checkpoints" / "update-000002"
    assert (last / "adapter_config.json").is_file() == is_adapter
    assert (last / "config.json").is_file() != is_adapter

    settings = yaml.safe_load((run / "config.yaml").read_text())["eval"]
    evaluate(CommandConfig([str(run)], run_dir=f"{run}/eval", eval=EvalConfig(**settings)))
    if "--dtype=bfloat16" not in flags:
        assert (run / "eval" / "table.txt").read_text() == table

    # Lose the second update, as if the run had been ended after the first, and go on.
    shutil.rmtree(last)
    (run / "evaluations" / "update-000002.json").unlink()
    # The state of ZeRO-2 also goes on without DeepSpeed.
    assert "Resuming from" in play("--resume", how="2" if how == deepspeed(2) else how)
    assert _without_times(run / "metrics.jsonl") == _without_times(metrics)


def test_an_adapter_does_not_go_on_over_another_base(start, tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(start, base)
    flags = [f"--model={base}", f"--run_dir={run}", *SMALL, "--lora.rank=2", "--num_updates=1"]
    train(parse_config(RLConfig, flags))
    tiny_llama(tiny_tokenizer(), seed=1).save_pretrained(base)
    with pytest.raises(InputError, match="another base"):
        train(parse_config(RLConfig, [*flags, "--resume"]))


def test_a_run_goes_on_without_its_start(start, tmp_path, capsys):
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(start, base)
    flags = [f"--model={base}", f"--run_dir={run}", *SMALL, "--num_updates=1"]
    train(parse_config(RLConfig, flags))
    shutil.rmtree(base)
    train(parse_config(RLConfig, [*flags, "--resume"]))
    assert "Resuming from" in capsys.readouterr().out


def _without_times(metrics):
    text = metrics if isinstance(metrics, str) else metrics.read_text()
    records = [json.loads(line) for line in text.splitlines()]
    return [
        {k: pytest.approx(v, abs=1e-6) for k, v in record.items() if "seconds" not in k}
        for record in records
    ]


def test_bad_input_is_one_line_on_two_processes_too(start, tmp_path):
    flags = [f"--model={start}", f"--run_dir={tmp_path}/run", "--minibatch_size=3"]
    done = command("rl.train", *flags, processes=2)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr


def test_an_update_plays_whole_groups_with_streams_of_their_own():
    config = RLConfig(seed=3, turns_per_update=10)
    streams = [TaskStream(config, 4, 1, rank, 2) for rank in range(2)]
    tasks = [list(stream) for stream in streams]
    assert [len(part) for part in tasks] == [12, 12]
    groups = [t.env_seed for part in tasks for t in part]
    assert len(set(groups)) == 6
    assert len({t.sample_key for part in tasks for t in part}) == 24
    other = list(TaskStream(config, 4, 2, 0, 2))
    assert not {t.env_seed for t in other} & set(groups)
    assert isinstance(other[0], Task)


def test_a_run_learns_from_what_another_sampler_says(start, tmp_path):
    run = tmp_path / "run"
    flags = [f"--model={start}", f"--run_dir={run}", *SMALL, "--num_updates=1", "--eval_every=0"]
    done = command("rl.train", *flags, "--sampler=paged", "--old_logprobs=recomputed")
    assert done.returncode == 0, done.stderr
    (metrics,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 0 < metrics["logprob_gap"] < 1e-3
    assert metrics["grad_norm"] > 0


def test_the_benchmark_runs(start):
    flags = [f"--model={start}", "--turns=16", "--single_turns=2", "--repeats=1", "--episodes=40"]
    flags += ["--vocabulary=1000", "--memory_tokens=32", "--max_new_tokens=3"]
    flags += ["--samplers=[cached,generate]", f"--memory_shapes=['{start}']"]
    flags += [f"--shape={start}", "--limit_batches=[2]", "--limit_prompt=8", "--limit_reply=4"]
    flags += ["--limit_turns=4", "--limit_single_turns=2", "--lora_rank=2"]
    flags += ["--peer_prompts=1", "--peer_updates=2"]
    parts = "env,navigation,rollout,learner,memory,end_to_end,limits"
    done = command("rl.bench", f"--sections=[{parts}]", *flags)
    assert done.returncode == 0, done.stderr
    for line in ("1,000 deals", "a grid of four views", "are padding", "GiB the body alone"):
        assert line in done.stdout
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line[:2] == "| "]
    assert {row[0] for row in rows[1:]} == set(parts.split(",")) - {"navigation"}
    measured = {what: ratio for _, what, ratio, *_ in rows[1:]}
    assert all(float(r.split()[0]) > 0 for r in measured.values() if r.endswith("x"))
    for what in (
        "groups of 8 on one hand: cached against generate",
        "sampling and learning, many against one at a time",
        f"{start}, static, batch 2: decoding, of the memory bandwidth",
        f"{start}: learning, of the matrix rate",
        f"{start}, by adapters: both, many against one at a time",
    ):
        assert what in measured
    done = command("rl.bench", "--sections=[peer]", *flags)
    assert done.returncode in (0, 2), done.stderr
    assert done.returncode == 0 or "section peer: needs TRL" in done.stderr
