"""The environment: Gymnasium's contract, dealing, splits, options, and replies of every kind."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import gym_cards
from gym_cards.hands import in_split, is_heldout
from gym_cards.rules import FACES, FaceRule, random_rule
from gym_dialogue import InputError


def _make(**kwargs):
    return gymnasium.make(gym_cards.ENV_ID, **kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"face_rule": "random"}, {"num_cards": 5}])
def test_check_env(kwargs):
    check_env(_make(**kwargs).unwrapped, skip_render_check=True)


def test_every_argument_of_the_contract_is_taken():
    env = _make(
        target_points=24,
        treat_face_cards_as_10=True,
        ood=False,
        face_cards_color="mixed",
        language_only=True,
        resolution=1200,
        verify_iter=5,
    )
    obs, info = env.reset(seed=7, options={"cards": ["A", "10", "K", "3"]})
    assert info["plain_cards"] == ["A", "10", "K", "3"]
    assert info["numbers"] == [1, 10, 10, 3]
    assert '"A", "10", "K", "3"' in obs["text"]
    assert obs["new_dialogue"] == 1


def test_the_same_seed_gives_the_same_episode_and_no_global_state_is_used():
    first, second = _make(), _make()
    np.random.seed(1)
    obs, info = first.reset(seed=7)
    np.random.seed(2)
    again, info_again = second.reset(seed=7)
    assert obs["text"] == again["text"]
    assert info == info_again
    assert [first.reset()[0]["text"] for _ in range(5)] == [
        second.reset()[0]["text"] for _ in range(5)
    ]


def test_an_episode_ends_with_a_solution():
    env = _make()
    _, info = env.reset(seed=0)
    _, reward, terminated, truncated, after = env.step(env.unwrapped.oracle_reply())
    assert (reward, terminated, truncated) == (5.0, True, False)
    assert after["is_success"]
    assert after["feedback"] == ""
    assert after["formula"] == info["solution"]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.unwrapped.step("")


def test_an_episode_ends_with_the_last_allowed_reply_and_its_own_penalty():
    env = _make(verify_iter=3)
    env.reset(seed=0)
    seen = [env.step("nonsense") for _ in range(3)]
    assert [s[1] for s in seen] == [-3.0] * 3
    assert [s[2] for s in seen] == [False, False, True]
    assert [s[4]["remaining_steps"] for s in seen] == [2, 1, 0]
    assert all(s[0]["new_dialogue"] == 0 and s[0]["text"] == s[4]["feedback"] for s in seen)


@pytest.mark.parametrize("dealing", ["deck", "independent"])
@pytest.mark.parametrize("split", ["train", "heldout", "all"])
def test_deals_are_solvable_and_in_their_split(dealing, split):
    env = _make(dealing=dealing, split=split, treat_face_cards_as_10=False, ood=True)
    env.reset(seed=0)
    for _ in range(50):
        _, info = env.reset()
        assert info["solution"]
        assert in_split(info["numbers"], split)
        assert any(card in FACES for card in info["plain_cards"])
        cards = list(zip(info["plain_cards"], info["suits"], strict=True))
        assert dealing == "independent" or len(set(cards)) == 4


def test_the_split_is_fixed_for_all_time():
    # These hands were held out from the first version on. If this fails, restore the salt.
    assert [is_heldout(hand) for hand in HELDOUT] == [True] * len(HELDOUT)
    assert not is_heldout([1, 2, 3, 4])
    assert is_heldout(HELDOUT[0][::-1])


HELDOUT = [
    [1, 1, 1, 13],
    [1, 3, 5, 13],
    [1, 8, 12, 12],
    [2, 4, 6, 12],
    [3, 3, 3, 11],
    [3, 6, 8, 12],
    [4, 5, 12, 12],
    [5, 6, 7, 8],
    [7, 10, 12, 12],
]


def test_no_heldout_puzzle_is_met_with_other_faces():
    ten = FaceRule.of("10")
    for hand in HELDOUT:
        faces = ["K" if number == 10 else "A" if number == 1 else str(number) for number in hand]
        if all(number <= 10 for number in hand):
            assert is_heldout(ten.numbers(faces))


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("10", [10, 10, 10]),
        ("rank", [11, 12, 13]),
        ("5", [5, 5, 5]),
        (7, [7, 7, 7]),
        ({"J": 1, "Q": 2, "K": 3}, [1, 2, 3]),
    ],
)
def test_rules_are_data(spec, values):
    assert FaceRule.of(spec).numbers(FACES) == values
    _, info = _make(face_rule=spec, ood=True).reset(seed=1)
    assert info["numbers"] == FaceRule.of(spec).numbers(info["plain_cards"])


def test_random_rules_are_never_named_ones():
    rng = np.random.default_rng(0)
    drawn = {random_rule(rng) for _ in range(3000)}
    assert not drawn & {FaceRule.of(name) for name in ("10", "rank", "5", "7", "12")}
    assert len(drawn) > 1000


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"cards": ["A", "A", "A", "A"]}, "no formula makes 24"),
        ({"cards": ["A", "2", "3"]}, "list of 4 ranks"),
        ({"cards": ["A", "2", "3", "X"]}, "'X'"),
        ({"cards": ["3"] * 5}, "list of 4 ranks"),
        ({"cards": "A234"}, "list of 4 ranks"),
        ({"hand": []}, "'hand'"),
    ],
)
def test_hands_that_cannot_be_played_raise_value_error(options, word):
    with pytest.raises(ValueError, match=word):
        _make().reset(options=options)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"verify_iter": 0},
        {"target_points": 0},
        {"target_points": True},
        {"face_rule": "eleven"},
        {"face_rule": {"J": 1}},
        {"face_rule": 0},
        {"split": "test"},
        {"dealing": "shoe"},
        {"num_cards": 3},
        {"reward_mode": "sum"},
        {"face_cards_color": "blue"},
        {"resolution": 0},
        {"language_only": False},
    ],
)
def test_bad_arguments_are_named(kwargs):
    with pytest.raises(InputError, match=next(iter(kwargs)).replace("_", ".")):
        _make(**kwargs)


def test_all_solutions_on_request():
    _, info = _make().reset(options={"cards": ["3", "3", "8", "8"], "all_solutions": True})
    assert info["solutions"] == ["8/(3-8/3)"]
    assert "solutions" not in _make().reset(seed=0)[1]


def test_a_hundred_thousand_random_replies_never_raise():
    rng = np.random.default_rng(0)
    env = _make(verify_iter=1).unwrapped
    env.reset(seed=0)
    words = [
        '{"cards": [',
        '"formula": "',
        "'formula': ",
        "10",
        "+",
        "(",
        ")",
        "=",
        "}",
        "]",
        '"',
        "[" * 50,
        "{" * 20,
        "\\",
        "\x00",
        "é",
        "\n",
        "9" * 30,
        ",",
        ": ",
        "K",
    ]
    picks = rng.integers(len(words), size=(100_000, 8))
    for pick in picks:
        verdict = env._judge("".join(words[i] for i in pick))
        assert verdict.outcomes


@pytest.mark.parametrize("reply", ["", "x" * 1_000_000, "\x00\x01", "[" * 99999, "exit()"])
def test_hostile_replies(reply):
    env = _make()
    env.reset(seed=0)
    assert env.step(reply)[1] == -3


def test_scripted_replies_mean_what_they_say():
    env = _make(treat_face_cards_as_10=False).unwrapped
    rng = np.random.default_rng(0)
    outcomes = set()
    for seed in range(60):
        env.reset(seed=seed)
        assert env._judge(env.oracle_reply()).is_right
        mistake = env._judge(env.mistaken_reply(rng))
        assert not mistake.is_right
        outcomes.add(mistake.outcomes[0])
    assert outcomes >= {"NO_SOLUTION", "INCORRECT_NUMBER", "ILLEGAL_FORMULA"}


def test_no_torch_is_needed():
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "import gymnasium, gym_cards\n"
        "env = gymnasium.make('gym_cards/GeneralPoint-oneline-v0'); env.reset(seed=0)\n"
        "print(env.step(env.unwrapped.oracle_reply())[1])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "5.0", run.stderr


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (["--cards=[3,3,8,8]", "--reply=[\"{'formula': '8/(3-8/3)'}\"]"], 0, "CORRECT_SOLUTION"),
        (["--cards=[A,A,A,A]"], 2, "no formula makes 24"),
        (["--face_rule=eleven"], 2, "face rule"),
        (["--seed=3"], 0, "solutions: "),
    ],
)
def test_the_command(flags, code, word):
    run = subprocess.run(
        [sys.executable, "-m", "gym_cards", *flags], capture_output=True, text=True
    )
    assert run.returncode == code, run.stderr
    assert word in run.stdout + run.stderr
    assert run.stderr.count("\n") == (code == 2)
