"""verifiers plays the same episodes as `rollout`. Runs where verifiers is installed (.ci/doors)."""

import asyncio
import itertools

import pytest

pytest.importorskip("verifiers")

import verifiers.v1 as vf

from gym_dialogue.adapters.tests.played import ENVIRONMENTS, EPISODES, played
from gym_dialogue.adapters.tests.served import chat_server

CARDS = "gym_cards/GeneralPoint-oneline-v0"


def _loaded(env_id, **kwargs):
    taskset = {
        "id": "gym-dialogue-verifiers",
        "env_id": env_id,
        "kwargs": ENVIRONMENTS[env_id] | kwargs,
    }
    config = vf.env_config_type("gym-dialogue-verifiers").model_validate({"taskset": taskset})
    return vf.load_environment(config)


def _evaluated(env, address):
    """The episodes of all tasks, played at the same time by the model at an address."""
    model = vf.ModelContext("m", vf.EvalClientConfig(base_url=address, api_key_var="NO_KEY"))

    async def play():
        async with env.serving():
            slots = [
                slot for task in itertools.islice(env.taskset, EPISODES) for slot in env.slots(task)
            ]
            return await asyncio.gather(*(env.run_slot(slot, model) for slot in slots))

    return asyncio.run(play())


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_traces_are_the_dialogues_of_rollout(env_id):
    episodes = played(env_id)
    with chat_server(episodes) as (address, _):
        results = _evaluated(_loaded(env_id), address)
    for episode, result in zip(episodes, results, strict=True):
        assert result.ok, [error.message for trace in result.traces for error in trace.errors]
        assert len(result.traces) == len(episode.dialogues)
        for number, trace in enumerate(result.traces):
            turns = [episode.turns[index] for index in episode.turns_of(number)]
            assert trace.reward == sum(turn.reward for turn in turns)
            assert trace.metrics["first_reply"] == float(turns[0].is_right)
            assert trace.metrics["episode_success"] == float(episode.is_success)
            outcomes = [tuple(turn["outcomes"]) for turn in trace.info["turns"]]
            assert outcomes == [turn.outcomes for turn in turns]
            contents = [message.content for message in trace.branches[-1].messages]
            expected = [message.text for message in episode.dialogues[number].messages]
            assert [_text(content) for content in contents] == expected


def _text(content):
    return content if isinstance(content, str) else content[-1].text


def test_images_are_shown_to_the_model():
    shown = {"language_only": False, "resolution": 84}
    episodes = played(CARDS, **shown)
    with chat_server(episodes) as (address, asked):
        results = _evaluated(_loaded(CARDS, **shown), address)
    assert [result.traces[0].metrics["episode_success"] for result in results] == [
        float(episode.is_success) for episode in episodes
    ]
    for messages in asked:
        image, text = messages[0]["content"]
        assert image["image_url"]["url"].startswith("data:image/png;base64,")
        assert text["type"] == "text"


def test_model_that_fails_is_an_error_of_the_episode():
    with chat_server([]) as (address, _):
        unknown = address.replace("/v1", "/nowhere")
    results = _evaluated(_loaded(CARDS), unknown)
    assert not any(result.ok for result in results)


def test_argument_that_the_environment_does_not_take_is_named():
    with pytest.raises(ValueError, match="takes no argument 'cards'"):
        next(iter(_loaded(CARDS, cards=4).taskset))
