"""Inspect (inspect_ai): an environment as a task, one sample a seeded episode.

    from gym_dialogue.adapters.inspect_tasks import dialogue_task
    inspect_ai.eval(dialogue_task("gym_cards/GeneralPoint-oneline-v0", 100), model="openai/NAME")

or on the command line, `-T` naming the arguments of `environment`:

    inspect eval gym/gym_dialogue/adapters/inspect_tasks.py -T episodes=20 --model openai/NAME
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gym_dialogue.adapters.episodes import check_seeds, make, reply
from gym_dialogue.adapters.library import library
from gym_dialogue.chat import data_url
from gym_dialogue.images import open_images
from gym_dialogue.messages import Message
from gym_dialogue.rollout import EpisodePlayer, Task

with library("inspect"):
    from inspect_ai import Task as InspectTask
    from inspect_ai import task
    from inspect_ai.dataset import Sample
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageUser,
        ContentImage,
        ContentText,
    )
    from inspect_ai.scorer import Score, Scorer, Target, accuracy, scorer, stderr
    from inspect_ai.solver import Generate, Solver, TaskState, solver


@task
def environment(
    env_id: str = "gym_cards/GeneralPoint-oneline-v0",
    episodes: int = 100,
    seed: int = 0,
    **kwargs: Any,
) -> InspectTask:
    """Return a task of episodes seeded `seed`, `seed` + 1, ...; `kwargs` are the environment's."""
    return dialogue_task(env_id, episodes, seed, kwargs)


def dialogue_task(
    env_id: str, episodes: int, seed: int = 0, kwargs: Mapping[str, Any] | None = None
) -> InspectTask:
    """Return episodes of an environment as an Inspect task, scored by success of the episode and by
    the first reply, with standard errors clustered by puzzle. Raises InputError for arguments that
    the environment does not take.
    """
    given = dict(kwargs or {})
    player = EpisodePlayer(make(env_id, given)[0])
    samples = []
    for number in check_seeds(episodes, seed):
        prompt = player.start(Task(number, (number,))).messages
        about = {"env_seed": number, "puzzle": player.episode.puzzle}
        samples.append(Sample(id=number, input=[_chat(m) for m in prompt], metadata=about))
    return InspectTask(
        dataset=samples,
        solver=plays(env_id, given),
        scorer=[episode_success(), first_reply()],
        name=env_id.partition("/")[2] or env_id,
    )


@solver
def plays(env_id: str, kwargs: Mapping[str, Any]) -> Solver:
    """Play a sample's episode to its end. Where a fresh dialogue begins, so do the messages."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        seed = state.metadata["env_seed"]
        player = EpisodePlayer(make(env_id, kwargs)[0])
        player.start(Task(seed, (seed,)))
        is_over = False
        while not is_over:
            state.messages = [_chat(message) for message in player.dialogue.messages]
            state = await generate(state)
            output = state.output
            is_over = player.answer(reply(output.completion, str(output.stop_reason)))
            # With every reply, as a limit may end the sample before the episode ends.
            state.metadata["is_success"] = player.episode.is_success
            state.metadata["turns"] = [
                {"reward": t.reward, "outcomes": list(t.outcomes), "is_right": t.is_right}
                for t in player.episode.turns
            ]
        return state

    return solve


@scorer(metrics=[accuracy(), stderr(cluster="puzzle")])
def episode_success() -> Scorer:
    """Score whether the episode succeeded, with the rewards and outcomes of its turns beside."""

    async def score(state: TaskState, target: Target) -> Score:
        turns = state.metadata.get("turns", [])
        outcomes = [turn["outcomes"][0] for turn in turns]
        return Score(
            value=float(state.metadata.get("is_success", False)),
            answer=state.output.completion,
            explanation=", ".join(outcomes),
            metadata={"turns": turns, "total_reward": sum(turn["reward"] for turn in turns)},
        )

    return score


@scorer(metrics=[accuracy(), stderr(cluster="puzzle")])
def first_reply() -> Scorer:
    """Score whether the first reply was right."""

    async def score(state: TaskState, target: Target) -> Score:
        turns = state.metadata.get("turns", [])
        return Score(value=float(bool(turns) and turns[0]["is_right"]))

    return score


def _chat(message: Message) -> ChatMessage:
    if message.role == "assistant":
        return ChatMessageAssistant(content=message.text)
    if message.image is None:
        return ChatMessageUser(content=message.text)
    images = [ContentImage(image=data_url(image)) for image in open_images(message.image)]
    return ChatMessageUser(content=[*images, ContentText(text=message.text)])
