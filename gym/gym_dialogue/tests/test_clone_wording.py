"""Wording files from a clone: what an environment says equals what the cloned code would send.

The clone is a miniature, in sentences of this project, of how the released code is laid out. The
tests run its functions for what it would send; the wording is derived from its text alone.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import gym_cards
import gym_virl
from gym_cards.formula import evaluate, find_faults, tokenize
from gym_cards.printed import printed_solutions
from gym_dialogue import InputError
from gym_dialogue.wording import derive, main
from gym_virl.city import city_of
from gym_virl.routes import read_blocks, write_routes

CLONE = Path(__file__).parent / "miniature"
ROUTES = Path(gym_virl.__file__).parent / "tests" / "data"


def load(file):
    """A module of the miniature, run."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, CLONE / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prompts = load("prompt_lib/prompts.py")
utils_rl = load("utils_rl.py")
Evaluator = load("evaluation/evaluator/base_evaluator.py").BaseEvaluator
Walk = load("gym/gym_virl/envs/navigation.py").NavigationEnvironment


@pytest.fixture(scope="module", params=["gp_l", "virl_l"])
def wording_file(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("wording"), request.param)


def write(directory, task, clone=CLONE):
    path = directory / f"{task}.json"
    main([str(clone), f"--task={task}", f"--out={path}"])
    return path


# GeneralPoints.

HAND = ["6", "4", "Q", "J"]
FORMULAS = [
    "7+{q}+6",  # two findings
    "6*4+{q}*{j}",
    "6(4)+)*{q}+{j}",
    "6 + 4",
    None,  # no formula at all
    "6+6+4+4+{q}+{j}",
    "6*4*({q}-{j}",
    "",
]


def numbers_of(rule_is_10):
    return [6, 4, 10 if rule_is_10 else 12, 10 if rule_is_10 else 11]


def replies_to(rule_is_10, language_only):
    """Replies with every kind of finding, and to an image one that misreads it."""
    _, _, queen, jack = numbers_of(rule_is_10)
    for formula in FORMULAS:
        fields = {"cards": HAND}
        if formula is not None:
            fields["formula"] = formula.format(q=queen, j=jack)
        yield json.dumps(fields)
    if not language_only:
        yield json.dumps({"cards": HAND[:3], "formula": "1"})


def game(rule_is_10, language_only, replies):
    """What the miniature sends: the prompt, and what it says of each reply."""
    evaluator = Evaluator()
    evaluator.formulate_oracle_arguments(rule_is_10, 24)
    library = prompts.Q_GeneralPoint_EQN_L if language_only else prompts.Q_GeneralPoint_EQN_VL
    shown = {"cards": HAND} if language_only else {}
    yield library.format(**shown, **evaluator.oracle_arguments)
    numbers = numbers_of(rule_is_10)
    solutions = printed_solutions(tuple(sorted(numbers)), 24)
    for reply in replies:
        fields = json.loads(reply)
        formula = fields.get("formula", "None")
        faults, left_open = find_faults(tokenize(formula))
        value = None if faults or left_open else evaluate(tokenize(formula))
        _, message = utils_rl.step_rewards(
            numbers, formula, solutions, value, fields["cards"], HAND, language_only
        )
        yield evaluator.hear({"Verify Info": message})["content"]


@pytest.mark.parametrize("language_only", [True, False])
@pytest.mark.parametrize("rule_is_10", [True, False])
def test_cards(tmp_path, rule_is_10, language_only):
    file = write(tmp_path, "gp_l" if language_only else "gp_vl")
    env = gymnasium.make(
        gym_cards.ENV_ID,
        treat_face_cards_as_10=rule_is_10,
        language_only=language_only,
        resolution=84,
        verify_iter=20,
        prompt_file=str(file),
    ).unwrapped
    replies = list(replies_to(rule_is_10, language_only))
    obs, _ = env.reset(seed=0, options={"cards": HAND})
    heard = [obs["text"]]
    for reply in replies:
        obs, *_ = env.step(reply)
        heard.append(obs["text"])
    sent = list(game(rule_is_10, language_only, replies))
    assert heard == sent
    assert heard[0].startswith("\n# Puzzle")
    assert heard[0].endswith("}\n\n")
    numbers = numbers_of(rule_is_10)
    assert env._reply("F", HAND) == prompts.ResponseEqn.format(
        cards=HAND, numbers=numbers, formula="F=24"
    )
    check_env(env, skip_render_check=True)


# V-IRL.


@pytest.fixture(scope="module")
def routes(tmp_path_factory):
    """Routes in the released form: of the city, with and without landmarks, and one of one leg."""
    path = tmp_path_factory.mktemp("routes") / "route_infos.json"
    city = city_of("london")
    chosen = [r for r in map(city.route, range(60)) if straight(r)][:6]
    assert len(chosen) == 6
    write_routes(path, chosen, [""] * len(chosen))
    data = json.loads(path.read_text())
    only = data[0][0]
    block = only["milestone_info"].split("}")[0] + "}\n"
    one_leg = json.loads(json.dumps(only)) | {"milestone_info": block}
    one_leg["route_results"]["geocode_list"] = only["route_results"]["geocode_list"][:1]
    data[0].append(one_leg)
    path.write_text(json.dumps([data[0], len(data[0])]))
    return path


def straight(route):
    """Whether no turn of a route crosses north or south, which the miniature does not wrap."""
    headings = [route.init_heading, *(m.heading for m in route.milestones)]
    return all(abs(b - a) < 180 for a, b in pairwise(headings))


@pytest.mark.parametrize("language_only", [True, False])
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("number", range(7))
def test_walk(tmp_path, routes, number, absolute, language_only):
    file = write(tmp_path, "virl_l" if language_only else "virl_vl")
    env = gymnasium.make(
        gym_virl.ENV_ID,
        route_info_path=str(routes),
        absolute_action=absolute,
        drop_rate=0.0,
        straight_line_length=2,
        verify_iter=3,
        prompt_file=str(file),
    ).unwrapped
    env.has_image = not language_only  # the words alone are compared: no panoramas are drawn
    env._look = lambda: None
    obs, info = env.reset(seed=0, options={"route_idx": number})
    route = json.loads(routes.read_text())[0][number]
    blocks = read_blocks(route["milestone_info"])
    walk = Walk(blocks, int(route["init_heading"]), absolute, language_only, points=2)
    evaluator = Evaluator()
    library = prompts.Q_VIRL_L if language_only else prompts.Q_VIRL_VL
    space = utils_rl.set_str_action_space(SimpleNamespace(absolute_action=absolute))
    for step, place in enumerate(walk.rail):
        walk.observation_list.append(walk.look(step))
        wanted = library.format(
            instruction=walk.str_instruction,
            action_space=space,
            obs_act_seq=walk.get_observation_action_sequence(
                walk.action_list, walk.observation_list
            ),
        )
        assert obs["text"] == wanted
        assert info["gt_action"] == place["gt_action"]
        assert env.oracle_reply() == prompts.ResponseVIRL.format(
            current_observation=walk.observation_list[-1],
            current_instruction=place["instruction"],
            action=place["gt_action"],
        )
        for observed, action in (("at an intersection", "go"), ("nothing", "forward")):
            reply = {"current observation": observed, "action": action}
            obs, *_ = env.step(json.dumps(reply))
            _, message = utils_rl.step_rewards_virl(
                action, observed, place["gt_action"], walk.observation_list[-1]
            )
            assert obs["text"] == evaluator.hear({"Verify Info": message})["content"]
        obs, _, ended, _, info = env.step(env.oracle_reply())
        walk.action_list.append(place["gt_action"])
        assert ended == (step == len(walk.rail) - 1)


def test_the_environments_hold_their_contract_in_the_wording(tmp_path):
    env = gymnasium.make(gym_virl.ENV_ID, prompt_file=str(write(tmp_path, "virl_l")))
    check_env(env.unwrapped, skip_render_check=True)


# What is not there.


@pytest.fixture
def clone(tmp_path):
    """A copy of the miniature, to be damaged."""
    return shutil.copytree(CLONE, tmp_path / "clone")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


UTILS, WALK = "utils_rl.py", "gym/gym_virl/envs/navigation.py"
EVALUATOR = "evaluation/evaluator/base_evaluator.py"
ILLEGAL = 'stepper.add(REWARD_FN["ILLEGAL_FORMULA"], '
EARLY, UNMATCHED = f"{ILLEGAL}\"a ')' too early\")", f"{ILLEGAL}\"a ')' without '('\")"
CLOSE = f"""if prev_token_type in ["number", "close_paren"]:
                if paren_stack:
                    paren_stack.pop()
                else:
                    {UNMATCHED}
            else:
                {EARLY}"""
CLOSE_AGAIN = f"""if prev_token_type not in ["number", "close_paren"]:
                {EARLY}
            elif not paren_stack:
                {UNMATCHED}
            else:
                paren_stack.pop()"""
LOG = """    def log(self, info):
        print(f"Verify Info {info['Verify Info']}")

    def hear"""
FIRST = '                first_msg = "To begin, face" if idx == 0 else "Face"\n'


@pytest.mark.parametrize(
    ("task", "file", "old", "new"),
    [
        ("gp_vl", UTILS, 'f"nobody dealt {invalid_numbers}"', '"nobody dealt {}".format(lot)'),
        ("gp_vl", UTILS, 'f"nobody dealt {invalid_numbers}"', '"nobody dealt %s" % lot'),
        ("gp_vl", UTILS, '"; ".join(message_list) + "!"', 'f"{\'; \'.join(message_list)}!"'),
        ("gp_vl", UTILS, CLOSE, CLOSE_AGAIN),
        (
            "gp_vl",
            EVALUATOR,
            "f\"Not so, as {info['Verify Info']} Try again\"",
            "\"Not so, as {} Try again\".format(info['Verify Info'])",
        ),
        ("gp_vl", EVALUATOR, "    def hear", LOG),
        ("virl_vl", WALK, FIRST, FIRST.replace('"To begin, face" if idx == 0 else "Face"',
                                               '"Face" if idx > 0 else "To begin, face"')),
        ("virl_vl", WALK, FIRST, '                first_msg = "Face"\n                if not idx:\n'
         '                    first_msg = "To begin, face"\n'),
        ("virl_vl", WALK, FIRST, '                if idx == 0:\n                    first_msg = '
         '"To begin, face"\n                else:\n                    first_msg = "Face"\n'),
        ("virl_vl", WALK, "enumerate(zip(action_list, observation_list, strict=False)):",
         "enumerate(zip(action_list, observation_list, strict=False), 1):"),
        ("virl_vl", UTILS, '("intersection" in output_obs) and ("intersection" not in gt_obs)',
         '("intersection" not in gt_obs) and ("intersection" in output_obs)'),
        ("virl_vl", UTILS, '"""A miniature of a v', '\ufeff"""A miniature of a v'),
    ],
)  # fmt: skip
def test_another_way_to_write_the_same_gives_the_same_wording(clone, task, file, old, new):
    edit(clone / file, old, new)
    if "enumerate" in old:
        edit(clone / file, "O_{i + 1}", "O_{i}")
        edit(clone / file, "A_{i + 1}", "A_{i}")
    assert derive(clone, task)[0] == derive(CLONE, task)[0]


def test_what_is_not_found_is_said(clone):
    edit(clone / UTILS, '"; ".join(message_list) + "!"', "joined(message_list)")
    edit(clone / UTILS, 'f"where is {underused_numbers}"', "words(underused_numbers)")
    lines = "\n".join(derive(clone, "gp_vl")[1])
    assert "feedback: not found, the project's own: unused_numbers" in lines
    assert "what joins two messages is not found: taken to be ', ' and '.'" in lines
    edit(clone / WALK, 'else "Face"', "else name_of(idx)")
    edit(clone / WALK, "Nothing of note here", "Nothing of note around")
    lines = "\n".join(derive(clone, "virl_vl")[1])
    assert "steps: not found; the project's own" in lines
    assert "nothing in sight: said at the start as between intersections" in lines


def test_nothing_is_executed(clone):
    edit(clone / "utils_rl.py", "import re\n", "import re\nraise SystemExit(3)\n")
    derive(clone, "gp_l")
    derive(clone, "virl_l")


@pytest.mark.parametrize(
    ("task", "flags", "damage", "said"),
    [
        ("gp_l", {}, lambda c: shutil.rmtree(c), "holds no dialogue|cannot be read"),
        ("gp_l", {}, lambda c: [p.unlink() for p in c.rglob("*.py")], "holds no Python file"),
        ("gp_l", {"prompt": "Q_NONE"}, None, "no constant named Q_NONE is in its files"),
        ("gp_l", {}, lambda c: (c / "prompt_lib/prompts.py").unlink(), "no constant named Q_Gen"),
        (
            "gp_l",
            {},
            lambda c: (c / "evaluation/evaluator/base_evaluator.py").unlink(),
            "the texts of {face_card_msg} are not found",
        ),
        (
            "gp_l",
            {},
            lambda c: edit(c / "prompt_lib/prompts.py", "# Puzzle", "# <<Puzzle>> <<puzzle>>"),
            "a text holds '<<puzzle>>'",
        ),
        ("virl_l", {}, lambda c: (c / "utils_rl.py").unlink(), "texts of {action_space} are not"),
        ("virl_l", {}, lambda c: (c / "prompt_lib/prompts.py").unlink(), "no constant named Q_V"),
        (
            "virl_l",
            {},
            lambda c: edit(c / "prompt_lib/prompts.py", "{instruction}", "{instructions}"),
            "has the field {instructions}; only instruction, action_space, obs_act_seq",
        ),
        (
            "virl_vl",
            {},
            lambda c: edit(c / "prompt_lib/prompts.py", "Q_VIRL_VL =", "Q_OTHER ="),
            "no prompt for images is found in its files: name the constant with --image_prompt",
        ),
        (
            "gp_l",
            {},
            lambda c: edit(
                c / "prompt_lib/prompts.py",
                "\nResponseEqn",
                "\nQ_GeneralPoint_EQN_L += '!'\nResponseEqn",
            ),
            "Q_GeneralPoint_EQN_L is not one constant text in its files",
        ),
        (
            "virl_l",
            {},
            lambda c: edit(
                c / "utils_rl.py",
                "def step_rewards_virl",
                'action_space = """forward() or stop() '
                'or turn_direction(x): northeast"""\n\n\ndef step_rewards_virl',
            ),
            "has 2 texts for {action_space} with the same moves",
        ),
        ("chess", {}, None, "task=chess: must be one of gp_l, gp_vl, virl_l, virl_vl"),
    ],
)
def test_what_is_missing_is_named(clone, task, flags, damage, said):
    if damage is not None:
        damage(clone)
    with pytest.raises(InputError, match=said) as error:
        derive(clone, task, **flags)
    assert "\n" not in str(error.value)


def test_without_the_environments_file_the_own_steps_stand_in(clone):
    (clone / "gym/gym_virl/envs/navigation.py").unlink()
    data, lines = derive(clone, "virl_l")
    assert "steps: not found; the project's own" in lines
    assert data["moves"]["absolute"][0] == '"forward()": go on'


def test_the_command_says_what_it_found(tmp_path):
    command = [sys.executable, "-m", "gym_dialogue.wording", str(CLONE)]
    out = tmp_path / "w.json"
    done = subprocess.run(
        [*command, "--task=virl_vl", f"--out={out}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "image_prompt: constant Q_VIRL_VL" in done.stdout
    assert json.loads(out.read_text())["format"] == "gym_virl wording 1"
    for flags in (
        ["--task=virl_l", f"--out={out}"],
        ["--task=virl_l"],
        [f"--out={tmp_path / 'x'}"],
    ):
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
