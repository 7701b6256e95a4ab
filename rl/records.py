"""What is recorded of an update: statistics of its episodes, its compute, sampled dialogues."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator

from gym_command.files import append_json
from gym_command.run_dir import RunDir
from gym_dialogue import Episode, Turn
from gym_dialogue.images import Image, save_image
from gym_dialogue.messages import messages_to_json
from gym_policy.compute import LEARNED, SAMPLED
from rl.experience import Experience


def episode_statistics(
    episodes: Sequence[Episode], experiences: Sequence[Experience], accelerator: Accelerator
) -> dict[str, float]:
    """Return success, reward, lengths and, with images, recognition, over all ranks' episodes.

    Counts are sums over the ranks; `success` is a share of episodes, `first_reply` of first replies
    to a task, `reward_per_turn` and `reply_tokens` are means over turns, `return` over episodes.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    first_turns = list(_first_turns(episodes))
    recognized = [turn.recognized for turn in first_turns if turn.recognized is not None]
    counts = [
        len(episodes),
        len(turns),
        sum(episode.is_success for episode in episodes),
        len(first_turns),
        sum(turn.is_right for turn in first_turns),
        sum(turn.reward for turn in turns),
        sum(len(turn.reply.token_ids) for turn in turns),
        sum(len(experience.token_ids) for experience in experiences),
        len(recognized),
        sum(recognized),
    ]
    sums = torch.tensor(counts, dtype=torch.float32, device=accelerator.device)
    (
        num_episodes,
        num_turns,
        num_successes,
        num_first,
        num_first_right,
        reward,
        reply_tokens,
        dialogue_tokens,
        num_shown,
        num_recognized,
    ) = accelerator.reduce(sums, "sum").tolist()
    recognition = {"recognition": num_recognized / num_shown} if num_shown else {}
    return recognition | {
        "episodes": num_episodes,
        "turns": num_turns,
        "success": num_successes / num_episodes,
        "first_reply": num_first_right / num_first,
        "reward_per_turn": reward / num_turns,
        "return": reward / num_episodes,
        "reply_tokens": reply_tokens / num_turns,
        "tokens_sampled": reply_tokens,
        "tokens_in_dialogues": dialogue_tokens,
    }


def _first_turns(episodes: Sequence[Episode]) -> Iterator[Turn]:
    """Yield the first turn of every dialogue that has one."""
    for episode in episodes:
        for dialogue in range(len(episode.dialogues)):
            if turns := episode.turns_of(dialogue):
                yield episode.turns[turns[0]]


def update_flops(parameters: int, dialogue_tokens: float, epochs: int, scored: int) -> float:
    """Return the floating-point operations of one update: of N parameters and D tokens of collected
    dialogues (prompts and replies) 2 N D to sample them and 6 N D an epoch to learn from them, as
    the paper counts (arXiv 2501.17161), and 2 N D for each of the `scored` passes between, which
    the paper leaves out.
    """
    return parameters * dialogue_tokens * (SAMPLED * (1 + scored) + LEARNED * epochs)


def log_dialogues(run_dir: RunDir, update: int, episodes: Sequence[Episode]) -> None:
    """Append dialogues, with the reward and outcome of each turn, to a run's dialogues.jsonl; their
    images become files beside it.
    """
    numbers = itertools.count()

    def save(image: Image) -> str:
        file = run_dir.image(update, next(numbers))
        save_image(file, image)
        return str(file.relative_to(run_dir.path))

    records = [
        {
            "update": update,
            "puzzle": episode.puzzle,
            "is_success": episode.is_success,
            "dialogues": [messages_to_json(d.messages, save) for d in episode.dialogues],
            "rewards": [turn.reward for turn in episode.turns],
            "outcomes": [turn.outcome for turn in episode.turns],
        }
        for episode in episodes
    ]
    append_json(run_dir.dialogues_file, *records)
