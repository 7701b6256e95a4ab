"""The paper's settings and launchers on a miniature of the released data, made here."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from evaluation.evaluate import CommandConfig, load_settings
from evaluation.play import evaluation_tasks
from evaluation.suites import CONFIG_DIR, load_task
from gym_command.command import InputError, parse_config
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import Renderer
from gym_policy.models.load import save_renderer
from gym_policy.testing import tiny_mllama_processor
from gym_virl import export
from gym_virl.geo import COMPASS, RELATIVE
from gym_virl.routes import read_routes
from rl.config import RLConfig as RLConfig
from rl.testing import ROOT, tiny_llama, tiny_mllama, tiny_tokenizer
from sft.config import SFTConfig

RELEASED = Path("data/SFTvsRL_Data")
NYC, MINI = (RELEASED / "VIRL_routes" / name for name in ("nyc_1k_routes", "VLN_mini"))
TASKS = ("gp_l", "gp_vl", "virl_l", "virl_vl")

needs_environment = pytest.mark.skipif(
    not (ROOT / ".venv" / "made-from").is_file(), reason="the launchers have made no .venv here"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """This project with a miniature of the released data, two embedded cities, in its place."""
    place = tmp_path_factory.mktemp("project")
    for name in (
        ".venv",
        "assets",
        "evaluation",
        "gym",
        "requirements.txt",
        "rl",
        "scripts",
        "sft",
    ):
        (place / name).symlink_to(ROOT / name)
    for folder, city, count in ((NYC, "new_york", 12), (MINI, "london", 18)):
        flags = [f"--out={place / folder}", f"--city={city}", f"--num_routes={count}"]
        flags += ["--resolution=16", "--panoramas=routes"]
        export.main(parse_config(export.Config, flags))
    texts = [("\nMake 24 of 6, 6, 6, 6.\n", '{"formula": "6+6+6+6"}\n')] * 4
    for kind in ("gp-l", "virl-l"):
        records = [
            {
                "image": None,
                "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}],
            }
            for q, a in texts
        ]
        file = place / RELEASED / "SFT_Data" / kind / "data.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(records))
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9)
    for part in (model, tokenizer):
        part.save_pretrained(place / "VIRL-L-Init")
    seeing = tiny_tokenizer(with_images=True)
    tiny_mllama(seeing).save_pretrained(place / "VIRL-VL-Init")
    processor = tiny_mllama_processor(seeing)
    save_renderer(Renderer(seeing, processor), place / "VIRL-VL-Init")
    return place


def _launch(project, script, *arguments, **environment):
    return subprocess.run(
        ["bash", str(project / "scripts" / script), *arguments],
        env=os.environ | {"PROCESSES": "1", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def _turns(project, run):
    lines = (project / run / "turns.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@needs_environment
def test_an_evaluation_as_the_papers_plays_every_route_once_in_order(project):
    # A part of a reply's tokens, so that it is quick; all else is as the settings say.
    done = _launch(
        project,
        "eval_ood.sh",
        "VIRL-L-Init",
        "paper",
        "--run_dir=runs/paper",
        "--eval.max_new_tokens=4",
        PROCESSES="2",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("note: VIRL-L-Init was trained on the released wording") == 1
    turns = _turns(project, "runs/paper")
    settings = (project / "runs/paper/config.yaml").read_text()
    assert "dtype: bfloat16" in settings
    assert "task: virl_l_paper" in settings
    for suite, folder in (("id", NYC), ("rule_ood", NYC), ("mini", MINI)):
        played = [t["puzzle"] for t in turns if t["suite"] == suite and t["turn"] == 0]
        assert played == [
            route.name for route in read_routes(project / folder / "route_infos.json")
        ]
        assert len(played) == (18 if suite == "mini" else 12)
        assert max(t["turn"] for t in turns if t["suite"] == suite) == 1  # verify_iter 2
    page = (project / "runs/paper/report.html").read_text()
    assert "otherwise than recorded (" not in page


@needs_environment
def test_an_evaluation_with_street_views_plays_vln_mini_too(project):
    done = _launch(
        project,
        "eval_ood.sh",
        "paper",
        "--run_dir=runs/views",
        "--eval.max_new_tokens=2",
        "--env.kwargs.resolution=16",
        CKPT_NAME="VIRL-VL-Init",
    )
    assert done.returncode == 0, done.stderr
    played = [t for t in _turns(project, "runs/views") if t["suite"] == "mini" and t["turn"] == 0]
    routes = read_routes(project / MINI / "route_infos.json")
    assert [t["puzzle"] for t in played] == [route.name for route in routes]
    assert len(played) == 18
    assert "otherwise than recorded (" not in (project / "runs/views/report.html").read_text()


@needs_environment
def test_launchers_at_scale_paper_run_on_the_miniature(project):
    done = _launch(project, "train_rl_virl_l.sh", "paper", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "task: virl_l_paper" in done.stdout
    assert "note: tianzhechu/VIRL-L-Init was trained on the released wording" in done.stdout
    done = _launch(
        project,
        "train_sft_gp_l.sh",
        "paper",
        f"--data_file={RELEASED}/SFT_Data/gp-l/data.json",
        "--run_dir=runs/sft",
        "--num_steps=2",
        "--save_every=0",
        "--batch_size=2",
        "--gradient_checkpointing=false",
        CKPT_NAME="VIRL-L-Init",
        ACCELERATE_CONFIG="scripts/accelerate/cpu.yaml",
    )
    assert done.returncode == 0, done.stderr
    assert (project / "runs/sft/checkpoints/update-000002/config.json").is_file()
    assert "model: VIRL-L-Init" in (project / "runs/sft/config.yaml").read_text()


@pytest.mark.parametrize("task", ["virl_l_nyc", "virl_vl_nyc", "virl_l_paper", "virl_vl_paper"])
def test_the_suites_on_released_data_walk_what_they_say(task, project, monkeypatch):
    monkeypatch.chdir(project)
    sees = "_vl_" in task
    for number, suite in enumerate(load_task(task).suites):
        assert suite.env.kwargs.get("resolution", 1200) == 1200
        small = suite.env.kwargs | ({"resolution": 16} if sees else {})
        (env,) = make_envs(EnvConfig(suite.env.id, small), 1)
        for episode in evaluation_tasks(0, number, 2):
            obs, _ = env.reset(seed=episode.env_seed)
            assert ("image" in obs) is sees
            assert not sees or obs["image"].any()
            reply = json.loads(env.unwrapped.oracle_reply())
            assert any(name in reply["current instruction"] for name in COMPASS)
            if "turn" in reply["action"]:
                names = RELATIVE if suite.name == "rule_ood" else COMPASS
                assert any(f"({name})" in reply["action"] for name in names)
        assert len(env.unwrapped.atlas) == (18 if suite.name == "mini" else 12)
        assert env.unwrapped.relocates or task == "virl_l_nyc"
        order = "released" if task == "virl_vl_paper" else "aligned"
        assert env.unwrapped.view_order == order


@pytest.mark.parametrize("learner", ["rl", "sft"])
@pytest.mark.parametrize("task", TASKS)
def test_the_paper_settings_find_the_released_data(learner, task, project, monkeypatch):
    monkeypatch.chdir(project)
    file = f"--config={ROOT / learner / 'configs' / f'{task}_paper.yaml'}"
    config = parse_config({"rl": RLConfig, "sft": SFTConfig}[learner], [file])
    assert config.task == f"{task}_paper"
    load_task(config.task)
    for env in [config.env] if learner == "rl" else [source.env for source in config.sources]:
        small = env.kwargs | ({"resolution": 100} if "resolution" in env.kwargs else {})
        (made,) = make_envs(EnvConfig(env.id, small), 1)
        made.reset(seed=0)


@pytest.mark.parametrize("task", TASKS)
def test_the_settings_of_an_evaluation_as_the_papers(task):
    config = load_settings(CONFIG_DIR / "paper" / f"{task}.yaml")
    assert config == CommandConfig(task=f"{task}_paper", dtype="bfloat16", eval=config.eval)
    evaluation = config.eval
    assert (evaluation.max_new_tokens, evaluation.decoding) == (256, ["sampled"])
    assert evaluation.sampling == "generation_config"
    is_gp = task.startswith("gp")
    assert evaluation.verify_iter == (5 if is_gp else 2)
    assert evaluation.episodes == 234 if is_gp else evaluation.each_once
    suites = load_task(config.task).suites
    assert [suite.shift for suite in suites[:2]] == ["none", "rule"]
    assert any(suite.shift == "visual" for suite in suites) == (task != "gp_l")
    look = {"layout": "row", "table_color": "released"}
    assert task != "gp_vl" or all(look.items() <= suite.env.kwargs.items() for suite in suites)


def test_what_is_not_there_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for suite in load_task("virl_l_paper").suites:
        with pytest.raises(InputError, match="is not there; fetch it with: bash scripts/download"):
            make_envs(suite.env, 1)
