"""The environment: Gymnasium's contract, dealing, splits, options, and replies of every kind."""

import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import gym_cards
from gym_cards.hands import in_split, is_heldout
from gym_cards.prompts import FORMAT, load_wording, read_wording
from gym_cards.rules import FACES, FaceRule, random_rule
from gym_dialogue import InputError
from gym_dialogue.policy import NoisyOraclePolicy
from gym_dialogue.rollout import Task, rollout


def _make(**kwargs):
    return gymnasium.make(gym_cards.ENV_ID, **kwargs)


VISION = {"language_only": False, "resolution": 112}


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"face_rule": "random"},
        {"num_cards": 5},
        {"steps": True, "face_rule": "random"},
        VISION,
        VISION | {"layout": "scatter", "table_color": "random"},
        VISION | {"recognition_only": True},
    ],
)
def test_environment_passes_check_env(kwargs):
    check_env(_make(**kwargs).unwrapped, skip_render_check=True)


def test_arguments_of_the_contract_are_all_taken():
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


def test_same_seed_gives_the_same_episode_and_no_global_state_is_used():
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


def test_episode_ends_with_a_solution():
    env = _make()
    _, info = env.reset(seed=0)
    _, reward, terminated, truncated, after = env.step(env.unwrapped.oracle_reply())
    assert (reward, terminated, truncated) == (5.0, True, False)
    assert after["is_success"]
    assert after["feedback"] == ""
    assert after["formula"] == info["solution"]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.unwrapped.step("")


def test_episode_ends_with_the_last_allowed_reply_and_its_own_penalty():
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


def test_split_is_fixed_for_all_time():
    # These hands were held out from the first version on. If this fails, restore the salt.
    assert [is_heldout(hand) for hand in HELDOUT] == [True] * len(HELDOUT)
    assert not is_heldout([1, 2, 3, 4])
    assert is_heldout(HELDOUT[0][::-1])


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_larger_share_holds_out_the_same_puzzles_and_others(split):
    env = _make(split=split, heldout_share=0.25)
    numbers = [env.reset(seed=seed)[1]["numbers"] for seed in range(40)]
    assert all(is_heldout(hand, 0.25) == (split == "heldout") for hand in numbers)
    assert len(env.unwrapped.each_once()) == {"train": 431, "heldout": 135}[split]
    assert all(is_heldout(hand, 0.25) for hand in HELDOUT)


@pytest.mark.parametrize("share", [0, 1, -0.1, True, "half"])
def test_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(ValueError, match=r"heldout_share=.*must be a number between 0 and 1"):
        _make(split="train", heldout_share=share)


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


def test_heldout_puzzles_are_never_met_with_other_faces():
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
def test_rules_are_read_from_names_integers_and_mappings(spec, values):
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
def test_hands_that_cannot_be_played_are_refused(options, word):
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
        {"num_cards": 6},
        {"reward_mode": "sum"},
        {"face_cards_color": "blue"},
        {"resolution": 0},
        {"resolution": 55, "language_only": False},
        {"resolution": 4097, "language_only": False},
        {"table_color": "pink"},
        {"layout": "pile"},
        {"recognition_only": True},
    ],
)
def test_bad_arguments_are_named_in_the_error(kwargs):
    with pytest.raises(InputError, match=next(iter(kwargs)).replace("_", ".")):
        _make(**kwargs)


def test_image_takes_the_place_of_the_cards_line():
    env = _make(**VISION)
    assert env.observation_space["image"].shape == (112, 112, 3)
    obs, info = env.reset(seed=7)
    text = _make().reset(seed=7)[0]["text"]
    assert obs["text"].split("\n")[::2] == text.split("\n")[::2]
    assert "image" in obs["text"]
    assert "Cards:" not in obs["text"]
    assert info["recognized"] is None
    after = env.step("nonsense")[0]
    assert (after["image"] == obs["image"]).all()
    assert len(np.unique(obs["image"].reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("layout", ["grid", "scatter"])
def test_same_seed_gives_the_same_image(layout):
    first, second = (_make(**VISION, layout=layout, table_color="random") for _ in range(2))
    pictures = [env.reset(seed=3)[0]["image"] for env in (first, second)]
    pictures += [env.reset()[0]["image"] for env in (first, second)]
    pictures += [env.reset(seed=3)[0]["image"] for env in (first, second)]
    first, second, next_first, next_second, *again = (p.tobytes() for p in pictures)
    assert first == second == again[0] == again[1]
    assert next_first == next_second != first


@pytest.mark.parametrize(
    "look",
    [
        {"face_cards_color": "black"},
        {"face_cards_color": "red"},
        {"layout": "row"},
        {"layout": "scatter"},
        {"table_color": "random"},
        {"recognition_only": True},
    ],
)
def test_look_does_not_change_what_is_dealt(look):
    plain, other = _make(), _make(**VISION, **look)
    for seed in (5, None, None):
        dealt, shown = (env.reset(seed=seed)[1] for env in (plain, other))
        assert dealt["plain_cards"] == shown["plain_cards"]
    colors = {"black": {"spades", "clubs"}, "red": {"hearts", "diamonds"}}
    if "face_cards_color" in look:
        assert set(shown["suits"]) <= colors[look["face_cards_color"]]
    else:
        assert dealt["suits"] == shown["suits"]


def test_random_tables_are_of_every_colour():
    env = _make(**VISION, table_color="random")
    tables = {tuple(env.reset(seed=seed)[0]["image"][0, 0]) for seed in range(40)}
    assert len(tables) == 5


def test_misread_cards_end_the_check_of_a_reply():
    env = _make(**VISION)
    env.reset(seed=0, options={"cards": ["A", "10", "K", "3"]})
    right = '{"cards": ["3", "k", 10, "A"], "formula": "10+10+1+3"}'
    wrong = '{"cards": ["A", "10", "Q", "3"], "formula": "10+10+1+3"}'
    silent = '{"formula": "10+"}'
    for reply in (wrong, silent):
        _, reward, _, _, info = env.step(reply)
        assert (reward, info["outcomes"]) == (-1.5, ("INCORRECT_VISION",))
        assert info["recognized"] is False
    assert env.step(right.replace("+3", "*3"))[4]["recognized"] is True
    assert env.step(right)[1:3] == (5.0, True)


def test_recognition_is_none_without_images():
    env = _make()
    env.reset(seed=0)
    assert env.step('{"cards": [], "formula": "1"}')[4]["recognized"] is None


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ('{"cards": ["A", "10", "K", "3"]}', 5),
        ("I see {'cards': ['k', 3, 10, 'a',]}", 5),
        ('{"cards": ["A", "10", "K"]}', -1.5),
        ('{"cards": ["A", "10", "K", "3", "3"]}', -1.5),
        ('{"cards": ["A", "10", "K", "4"]}', -1.5),
        ('{"formula": "10+10+1+3"}', -1.5),
        ("", -1.5),
    ],
)
def test_recognition_only_judges_the_cards_alone(reply, reward):
    env = _make(**VISION, recognition_only=True)
    obs, info = env.reset(seed=0, options={"cards": ["A", "10", "K", "3"]})
    assert "formula" not in obs["text"]
    assert info["answer_field"] == "cards"
    _, got, terminated, _, info = env.step(reply)
    assert got == reward
    assert terminated is info["is_success"] is info["recognized"] is (reward == 5)
    assert info["outcome"] == ("CORRECT_SOLUTION" if reward == 5 else "INCORRECT_VISION")


def test_scripted_replies_to_images_sometimes_misread_a_card():
    rng = np.random.default_rng(0)
    env = _make(**VISION).unwrapped
    names = _make(**VISION, recognition_only=True).unwrapped
    outcomes = []
    for seed in range(300):
        env.reset(seed=seed)
        assert env._judge(env.oracle_reply()).is_right
        outcomes.append(env._judge(env.mistaken_reply(rng)).outcomes[0])
        names.reset(seed=seed)
        assert names._judge(names.oracle_reply()).is_right
        assert not names._judge(names.random_reply(rng)).is_right
    assert set(outcomes) >= {"NO_SOLUTION", "INCORRECT_NUMBER", "ILLEGAL_FORMULA"}
    assert 0.04 < outcomes.count("INCORRECT_VISION") / 300 < 0.2


def test_turns_of_a_rollout_tell_what_was_recognized():
    env = _make(**VISION, recognition_only=True)
    episode = rollout([env], NoisyOraclePolicy(0.5), [Task(4, (0,))])[0]
    assert [turn.recognized for turn in episode.turns] == [t.is_right for t in episode.turns]
    turn = rollout([_make()], NoisyOraclePolicy(0), [Task(4, (0,))])[0].turns[0]
    assert turn.recognized is None


IMAGE_PROMPT = "Make <<target>>. J <<J>>, Q <<Q>>, K <<K>>."


def _wording_file(path, **keys):
    keys = {"format": FORMAT, "prompt": f"{IMAGE_PROMPT} <<cards>>"} | keys
    path.write_text(json.dumps(keys))
    return str(path)


def test_image_prompts_of_wording_files_are_needed_and_used(tmp_path):
    text_only = _wording_file(tmp_path / "text.json")
    with pytest.raises(InputError, match=r"language_only=False: .*image_prompt"):
        _make(**VISION, prompt_file=text_only)
    env = _make(**VISION, prompt_file=text_only, recognition_only=True)
    own = _make(**VISION, recognition_only=True)
    assert env.reset(seed=0)[0]["text"] == own.reset(seed=0)[0]["text"]
    keys = {
        "recognition_prompt": "Name <<count>> cards…",
        "recognition_reply": "{'cards': [<<cards>>]}",
    }
    file = _wording_file(tmp_path / "both.json", image_prompt=IMAGE_PROMPT, **keys)
    assert _make(**VISION, prompt_file=file).reset(seed=0)[0]["text"].startswith("Make 24. J 10")
    env = _make(**VISION, prompt_file=file, recognition_only=True).unwrapped
    assert env.observation_space.contains(env.reset(seed=0)[0])
    assert env._prompt.text == "Name four cards…"
    assert env.oracle_reply().startswith("{'cards': [\"")
    assert env._judge(env.oracle_reply()).is_right
    assert read_wording(load_wording(file).to_json(), "again") == load_wording(file)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"recognition_prompt": "<<cards>>"}, "key recognition_prompt: unknown placeholder"),
        ({"recognition_reply": "<<formula>>"}, "key recognition_reply: unknown placeholder"),
        (
            {"recognition_prompt": "Look.", "recognition_reply": "<<cards>>"},
            "key recognition_reply: the verifier finds no cards",
        ),
        (
            {"image_prompt": IMAGE_PROMPT, "reply": '{"formula": "<<formula>>"}'},
            "key reply: the verifier finds no cards",
        ),
    ],
)
def test_wordings_for_images_that_cannot_be_played_are_refused(tmp_path, keys, words):
    with pytest.raises(InputError, match=words):
        load_wording(_wording_file(tmp_path / "wording.json", **keys))


def test_all_solutions_come_on_request():
    _, info = _make().reset(options={"cards": ["3", "3", "8", "8"], "all_solutions": True})
    assert info["solutions"] == ["8/(3-8/3)"]
    assert "solutions" not in _make().reset(seed=0)[1]


def test_random_replies_never_raise():
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
def test_hostile_replies_are_illegal_formulas(reply):
    env = _make()
    env.reset(seed=0)
    assert env.step(reply)[1] == -3


def test_scripted_replies_are_right_or_mistaken_as_meant():
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


def test_package_needs_no_torch():
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
        (["--cards=[3,3,8,8]", '--reply={"formula": "8/(3-8/3)"}'], 0, "CORRECT_SOLUTION"),
        (["--cards=[A,A,A,A]"], 2, "no formula makes 24"),
        (["--face_rule=eleven"], 2, "face rule"),
        (["--seed=3"], 0, "solutions: "),
    ],
)
def test_command_judges_replies_and_names_bad_flags(flags, code, word):
    run = subprocess.run(
        [sys.executable, "-m", "gym_cards", *flags], capture_output=True, text=True
    )
    assert run.returncode == code, run.stderr
    assert word in run.stdout + run.stderr
    assert run.stderr.count("\n") == (code == 2)


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [
        ({}, 566),
        ({"treat_face_cards_as_10": False}, 1362),
        ({"treat_face_cards_as_10": False, "dealing": "independent"}, 1362),
    ],
)
def test_each_once_plays_every_puzzle_once(kwargs, count):
    env = gymnasium.make("gym_cards/GeneralPoint-oneline-v0", **kwargs)
    puzzles = env.unwrapped.each_once()
    assert len(puzzles) == count
    assert puzzles == sorted(puzzles, key=lambda options: options["numbers"])
    hands = set()
    for seed, options in enumerate(puzzles[:: count // 60]):
        _, info = env.reset(seed=seed, options=options)
        assert sorted(info["numbers"]) == options["numbers"]
        assert env.unwrapped.rule.numbers(info["plain_cards"]) == info["numbers"]
        cards = list(zip(info["plain_cards"], info["suits"], strict=True))
        assert kwargs.get("dealing") or len(set(cards)) == 4
        hands.add(tuple(info["suits"]))
        assert env.reset(seed=seed, options=options)[1] == info
    assert len(hands) > 20


def test_each_once_keeps_to_the_split_and_to_hands_with_a_face_card():
    def play_once(**kwargs):
        env = gymnasium.make("gym_cards/GeneralPoint-oneline-v0", **kwargs)
        return env, {tuple(options["numbers"]) for options in env.unwrapped.each_once()}

    _, train = play_once(split="train")
    _, heldout = play_once(split="heldout")
    _, whole = play_once()
    assert train | heldout == whole
    assert not train & heldout
    env, faces = play_once(ood=True)
    assert all(10 in numbers for numbers in faces)
    for seed in range(20):
        _, info = env.reset(seed=seed, options={"numbers": [1, 2, 3, 10]})
        assert set(info["plain_cards"]) & {"J", "Q", "K"}
    with pytest.raises(InputError, match="no hand counts as them"):
        env.reset(options={"numbers": [6, 6, 6, 6]})
    with pytest.raises(InputError, match="no formula makes 24"):
        env.reset(options={"numbers": [1, 1, 1, 10]})
    for wrong in ([1, 2, 3], "1234", [1, 2, 3, "4"]):
        with pytest.raises(InputError, match="must be a list of 4 integers"):
            env.reset(options={"numbers": wrong})
    env, _ = play_once()
    with pytest.raises(InputError, match="face_rule random"):
        play_once(face_rule="random")
