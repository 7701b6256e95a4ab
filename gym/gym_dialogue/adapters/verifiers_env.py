"""verifiers (the environments hub): the environments as a taskset and as the env that plays it.

    vf-eval gym-dialogue-verifiers --env.taskset.env-id gym_virl/Navigation-v0 --model NAME

A dialogue is an interaction and a trace of its own, so that each is trained on as it was seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from gym_dialogue.adapters.episodes import check_seeds, make, reply
from gym_dialogue.adapters.library import library
from gym_dialogue.chat import chat_message
from gym_dialogue.rollout import EpisodePlayer, Task, Turn

with library("verifiers"):
    import httpx
    import verifiers.v1 as vf
    from verifiers.v1.dialects.chat import message_to_wire


class ChatHarness(vf.Harness[vf.HarnessConfig]):
    """Asks the model for its next message, without tools and without a program of its own."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Send the conversation so far to the interception server, which keeps the answer."""
        system_prompt, prompt = self.resolve_prompt(data)
        messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages += [message_to_wire(message) for message in prompt or []]
        async with httpx.AsyncClient(timeout=None) as client:
            answer = await client.post(
                f"{endpoint}/chat/completions",
                json={"model": ctx.model, "messages": messages},
                headers={"Authorization": f"Bearer {secret}"},
            )
        return vf.ProgramResult(int(answer.is_error), "", answer.text if answer.is_error else "")


class DialogueTasksetConfig(vf.TasksetConfig):
    """Which environment, its arguments, and the seed of the first episode."""

    env_id: str = "gym_cards/GeneralPoint-oneline-v0"
    kwargs: dict[str, Any] = {}
    seed: int = 0


class DialogueData(vf.TaskData):
    """An episode: the environment and the seed that it is dealt from."""

    env_id: str
    kwargs: dict[str, Any]
    env_seed: int


class DialogueTask(vf.Task[DialogueData, vf.State, vf.TaskConfig]):
    """A seeded episode; `DialogueVerifiersEnv` scores it."""


class DialogueTaskset(vf.Taskset[DialogueTask, DialogueTasksetConfig]):
    """Episodes seeded `seed`, `seed` + 1, ... without end."""

    INFINITE = True

    def load(self) -> Iterator[DialogueTask]:
        """Yield the tasks. Raises InputError for arguments that the environment does not take."""
        config = self.config
        player = EpisodePlayer(make(config.env_id, config.kwargs)[0])
        for seed in itertools.count(check_seeds(1, config.seed)[0]):
            player.start(Task(seed, (seed,)))
            data = DialogueData(
                name=f"{player.episode.puzzle}#{seed}",
                prompt=_prompt(player),
                env_id=config.env_id,
                kwargs=config.kwargs,
                env_seed=seed,
            )
            yield DialogueTask(data, config.task)


class DialogueEnvConfig(vf.EnvConfig):
    """The agent that plays."""

    player: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class DialogueVerifiersEnv(vf.Env[DialogueEnvConfig]):
    """Plays the verifier's side of an episode. Each trace, of one dialogue, has the sum of its
    turns' rewards and the metric `first_reply`; `episode_success` is the same in all of an episode.
    """

    async def run(self, task: DialogueTask, agents: vf.Agents) -> None:
        """Play an episode to its end, or until the agent's run ends."""
        data = task.data
        player = EpisodePlayer(make(data.env_id, data.kwargs)[0])
        player.start(Task(data.env_seed, (data.env_seed,)))
        episode, traces, goes_on = player.episode, [], True
        while goes_on:
            goes_on = False
            number = len(episode.dialogues) - 1
            of_dialogue = task.with_data(prompt=_prompt(player))
            async with agents.player.interaction(of_dialogue) as interaction:
                segment = await interaction.turn()
                while not segment.terminated:
                    if player.answer(reply(segment.last_reply)):
                        break
                    if len(episode.dialogues) - 1 > number:
                        goes_on = True
                        break
                    segment = await interaction.turn([chat_message(player.dialogue.messages[-1])])
            turns = [episode.turns[index] for index in episode.turns_of(number)]
            traces.append(interaction.trace)
            _record(interaction.trace, turns)
        for trace in traces:
            trace.record_metric("episode_success", episode.is_success)


def _prompt(player: EpisodePlayer) -> list[vf.UserMessage]:
    return [vf.UserMessage.model_validate(chat_message(m)) for m in player.dialogue.messages]


def _record(trace: vf.Trace, turns: list[Turn]) -> None:
    trace.record_reward("verifier", sum(turn.reward for turn in turns))
    trace.record_metric("first_reply", bool(turns) and turns[0].is_right)
    trace.info["turns"] = [
        {"reward": turn.reward, "outcomes": list(turn.outcomes)} for turn in turns
    ]
