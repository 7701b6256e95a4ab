"""Pinned metrics: three updates of multi-turn cards, in words and in images, to show that a change
of the code changes no number.

After a change that is meant to alter the numbers, run this file with `-vv` and copy what it
obtained. Sampled counts are exact; the rest may differ with the order in which another CPU adds up,
which Adam's first steps enlarge.
"""

import json

import pytest

from gym_command.command import parse_config
from gym_policy import Renderer
from gym_policy.models.load import save_renderer
from rl.config import RLConfig
from rl.testing import ROOT, SMALL, THAT_SEE, tiny_tokenizer
from rl.train import train

TRAINING_ONLY = [*SMALL, "--num_updates=3", "--eval_every=0", "--eval_ends=false", "--trackers=[]"]
# A shipped initial checkpoint, which also plays in words: rewards within a group differ.
CARDS = [
    f"--model={next((ROOT / 'assets' / 'start').glob('gp_vl-*'))}",
    "--env.kwargs.verify_iter=3",
    "--turns_per_update=24",
    "--num_envs=16",
    "--max_new_tokens=24",
    "--minibatch_size=16",
    "--microbatch_size=8",
    "--lr=1e-5",
    "--grpo.group_size=4",
]
IMAGES = [
    "--env.kwargs.language_only=false",
    "--env.kwargs.resolution=84",
    "--env.kwargs.face_cards_color=black",
    "--lr=1e-4",
]
EXACT = ("turns", "success", "reward_per_turn", "tokens_sampled", "tokens_in_dialogues")


def _metrics(tmp_path, *flags):
    run = tmp_path / "run"
    train(parse_config(RLConfig, [*TRAINING_ONLY, f"--run_dir={run}", *flags]))
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _check(metrics, expected):
    """`expected`: the values of the three updates by metric."""
    obtained = {name: [row[name] for row in metrics] for name in expected}
    assert obtained == {
        name: pytest.approx(values, rel=1e-6 if name in EXACT else 2e-3, abs=1e-6)
        for name, values in expected.items()
    }


def test_three_ppo_updates_of_cards_in_words_are_pinned(tmp_path):
    metrics = _metrics(tmp_path, *CARDS, "--algorithm=ppo", "--kl_coef=0.01")
    _check(
        metrics,
        {
            "turns": [52, 55, 54],
            "success": [0.4166667, 0.1904762, 0.2727273],
            "reward_per_turn": [-1.480769, -2.727273, -2.074074],
            "tokens_sampled": [964, 993, 1014],
            "tokens_in_dialogues": [1389, 1403, 1430],
            "approx_kl": [0.02923432, 0.004700141, 0.003807184],
            "ref_kl": [0.0005873469, 0.0003942203, 0.0005451827],
            "policy_loss": [-0.02300773, -0.01755348, -0.01481371],
            "value_loss": [18.23001, 22.23413, 18.83295],
            "entropy": [0.410557, 0.4107119, 0.4086755],
            "grad_norm": [20.70864, 28.18637, 31.13917],
        },
    )


def test_three_grpo_updates_of_cards_in_words_are_pinned(tmp_path):
    metrics = _metrics(tmp_path, *CARDS, "--algorithm=grpo")
    _check(
        metrics,
        {
            "turns": [56, 56, 50],
            "success": [0.1, 0.3333333, 0.4583333],
            "reward_per_turn": [-2.482143, -1.857143, -1.3],
            "tokens_sampled": [1004, 1019, 914],
            "tokens_in_dialogues": [1409, 1459, 1330],
            "approx_kl": [0.0005518387, 0.000179112, 6.958957e-05],
            "policy_loss": [0.03111348, 0.3066839, 0.2285157],
            "entropy": [0.4225939, 0.3753328, 0.3731143],
            "grad_norm": [2.558038, 2.533497, 2.961332],
        },
    )


def test_three_ppo_updates_of_cards_in_images_are_pinned(tmp_path):
    make_model, make_processor = THAT_SEE["mllama"]
    tokenizer = tiny_tokenizer(with_images=True)
    make_model(tokenizer).save_pretrained(tmp_path / "model")
    save_renderer(Renderer(tokenizer, make_processor(tokenizer)), tmp_path / "model")
    metrics = _metrics(tmp_path, f"--model={tmp_path / 'model'}", *IMAGES, "--algorithm=ppo")
    _check(
        metrics,
        {
            "turns": [16, 16, 16],
            "reward_per_turn": [-1.5, -1.5, -1.5],
            "tokens_sampled": [128, 122, 128],
            "tokens_in_dialogues": [3983, 3978, 3984],
            "approx_kl": [0.0007127207, 0.0002163555, 0.0001222994],
            "policy_loss": [-0.0255577, -0.01382961, -0.01007913],
            "value_loss": [2.497815, 2.496775, 2.495698],
            "entropy": [5.558506, 5.558465, 5.558527],
            "grad_norm": [5.867554, 5.916033, 5.919191],
        },
    )
