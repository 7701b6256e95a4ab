"""How far a checkpoint has moved from the initial one, on a task: the KL divergence between the two
over the tokens of replies.

`forward` is E over x, y ~ initial of KL(initial || checkpoint), which *RL's Razor* (arXiv
2509.04259) finds to predict what is forgotten, measured on the new task; `reverse` is E over x, y ~
checkpoint of KL(checkpoint || initial), the one that a KL penalty in RL bounds. Both are exact over
the vocabulary at every token, so that only dialogues are sampled: summed over a reply's tokens,
their mean is the divergence between distributions over replies, with less variance than the mean of
log ratios.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from evaluation.play import evaluation_tasks
from evaluation.suites import load_task
from gym_command.command import run_command
from gym_command.files import write_atomically
from gym_command.run_dir import saved_checkpoints
from gym_dialogue import Episode, InputError, Task, rollout, shows_images
from gym_dialogue.make import EnvConfig, Kwargs, make_envs, with_prompt_file
from gym_policy import ModelPolicy, load_model, load_renderer
from gym_policy.distributed import join_processes
from gym_policy.logprobs import states_at_once, tempered_logprobs
from gym_policy.renderer import Rendered
from gym_policy.training.freezing import check_linear_head
from gym_policy.vision import image_inputs, join_images

_SCORED_TOGETHER = 16  # dialogues in one forward pass


@dataclass
class DivergenceConfig:
    """Measure the KL divergence between an initial checkpoint and others trained from it."""

    start: str = ""
    """The initial checkpoint: a directory saved by save_pretrained, a hub name, or a run, which
    stands for its first checkpoint."""
    checkpoints: list[str] = field(default_factory=list)
    """What is compared with it: the same, but a run stands for its last checkpoint."""
    task: str = "gp_l"
    """The task, by name or YAML file."""
    suite: str = "id"
    """Which of its suites is played."""
    prompt_file: str | None = None
    """Wording of prompts and feedback. None: the environment's own."""
    chat_template_kwargs: Kwargs | None = None
    """Variables of the models' chat templates, such as {"enable_thinking": false}."""
    trust_remote_code: bool = False
    """Whether Python code that comes with a model is run. Without it, a model that needs such code
    is refused."""
    episodes: int = 100
    """Episodes, the same for all: the first of those that an evaluation with this seed plays."""
    seed: int = 0
    """Decides every episode and every random number of sampling."""
    temperature: float = 1.0
    """Of sampling, and of the distributions that are compared."""
    max_new_tokens: int = 64
    """Tokens a reply may have."""
    verify_iter: int = 1
    """Replies that an episode (or a position of it) allows."""
    batch_size: int = 100
    """Episodes played side by side."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; divergences are computed in float32 from the logits."""
    device: str | None = None
    """Such as cpu or cuda:0. None: a GPU if there is one."""
    out: str | None = None
    """The JSON file of results. None: runs/divergence-TASK-TIME.json."""


def divergence(
    start: ModelPolicy,
    policy: ModelPolicy,
    envs: Sequence[Any],
    tasks: Sequence[Task],
    from_start: Sequence[Episode] | None = None,
) -> dict[str, Any]:
    """Measure forward and reverse KL divergence in nats between two policies of the same tokenizer
    and temperature, on the replies to `tasks` in `envs`; `from_start` are the episodes of the
    initial checkpoint, where they have been played already (`play`).

    Returns `forward_per_token`, `forward_per_reply`, `reverse_per_token`, `reverse_per_reply`,
    `forward_tokens`, `reverse_tokens`, `forward_replies`, `reverse_replies` and `episodes`, the
    sums over each episode by direction, for intervals. The ranks take tasks in turn, and each
    returns all of it. Raises InputError for policies that do not compare.
    """
    _check_pair(start, policy)
    by_direction = {
        "forward": _measured(start, policy, envs, tasks, from_start),
        "reverse": _measured(policy, start, envs, tasks),
    }
    results: dict[str, Any] = {}
    for name, records in by_direction.items():
        kl = sum(record.kl for record in records)
        tokens = sum(record.tokens for record in records)
        replies = sum(record.replies for record in records)
        results |= {
            f"{name}_per_token": kl / max(tokens, 1),
            f"{name}_per_reply": kl / max(replies, 1),
            f"{name}_tokens": tokens,
            f"{name}_replies": replies,
        }
    episodes = {name: [asdict(r) for r in records] for name, records in by_direction.items()}
    return results | {"episodes": episodes}


def play(policy: ModelPolicy, envs: Sequence[Any], tasks: Sequence[Task]) -> list[Episode]:
    """Play the tasks that fall to this rank: the ranks take them in turn."""
    state = PartialState()
    return rollout(envs, policy, tasks[state.process_index :: state.num_processes])


def _measured(
    sampled: ModelPolicy,
    other: ModelPolicy,
    envs: Sequence[Any],
    tasks: Sequence[Task],
    played: Sequence[Episode] | None = None,
) -> list[EpisodeDivergence]:
    """Apply `episode_divergences` to all tasks, in their order, on every rank."""
    state = PartialState()
    world = state.num_processes
    if played is not None:
        records = episode_divergences(sampled, other, played)
    else:
        records = []
        together = len(envs) * world
        for first in range(0, len(tasks), together):  # all images together may be more than fits
            episodes = play(sampled, envs, tasks[first : first + together])
            records += episode_divergences(sampled, other, episodes)
    if world == 1:
        return records
    by_rank = gather_object([records])
    return [by_rank[i % world][i // world] for i in range(len(tasks))]


@dataclass
class EpisodeDivergence:
    """The KL divergence of one episode, in nats, summed over the tokens of its replies."""

    puzzle: str
    env_seed: int
    kl: float = 0.0
    tokens: int = 0
    replies: int = 0


@torch.no_grad()
def episode_divergences(
    sampled: ModelPolicy, other: ModelPolicy, episodes: Sequence[Episode]
) -> list[EpisodeDivergence]:
    """Measure KL(sampled || other) on episodes that `sampled` played."""
    records = [EpisodeDivergence(e.puzzle, e.task.env_seed) for e in episodes]
    dialogues = [
        (number, sampled.renderer.render(dialogue))
        for number, episode in enumerate(episodes)
        for index, dialogue in enumerate(episode.dialogues)
        if episode.turns_of(index)
    ]
    # Dialogues of similar length share a batch, so that little of it is padding.
    dialogues.sort(key=lambda pair: len(pair[1].token_ids))
    with ExitStack() as stack:
        for policy in (sampled, other):
            stack.enter_context(policy.sampling())
        for first in range(0, len(dialogues), _SCORED_TOGETHER):
            part = dialogues[first : first + _SCORED_TOGETHER]
            rendered = [r for _, r in part]
            by_token = _token_divergences(sampled, other, rendered)
            for (number, r), kl in zip(part, by_token, strict=True):
                record = records[number]
                record.kl += kl.sum().item()
                record.tokens += len(kl)
                record.replies += len(r.prompt_ends)
    return records


def _token_divergences(
    sampled: ModelPolicy, other: ModelPolicy, dialogues: Sequence[Rendered]
) -> tuple[torch.Tensor, ...]:
    """Return for each dialogue KL(sampled || other) (n,) in float64 at its n reply tokens."""
    states = [_states(policy.model, dialogues) for policy in (sampled, other)]
    heads = [policy.model.get_output_embeddings() for policy in (sampled, other)]
    decoding = sampled.decoding
    # Some tokens at a time: with all of their logits at once, a large vocabulary fills the memory.
    rows = states_at_once(heads[0].weight.shape[0], states[0].device.type)
    parts = []
    for first in range(0, len(states[0]), rows):
        p, q = (
            tempered_logprobs(
                head(s[first : first + rows]), decoding.temperature, decoding.suppressed
            )
            for head, s in zip(heads, states, strict=True)
        )
        # KL(p || q) = sum_v p(v) (log p(v) - log q(v))
        parts.append(torch.linalg.vecdot(p.exp().double(), (p - q).double()))
    counts = [sum(turn >= 0 for turn in rendered.turn) for rendered in dialogues]
    return torch.cat(parts).split(counts)


def _states(model: PreTrainedModel, dialogues: Sequence[Rendered]) -> torch.Tensor:
    """Return the last hidden states (N, H) from which a model predicts the N reply tokens.
    Right padding under a causal model needs no attention mask: no real token sees a pad.
    """
    width = max(len(rendered.token_ids) for rendered in dialogues)
    ids = [r.token_ids + [0] * (width - len(r.token_ids)) for r in dialogues]
    at = [
        row * width + position - 1
        for row, rendered in enumerate(dialogues)
        for position, turn in enumerate(rendered.turn)
        if turn >= 0
    ]
    # What the other model's vision tower makes of an image is not what this one's does.
    processed = [r.processed_image and replace(r.processed_image, features=None) for r in dialogues]
    images = join_images(processed, [r.image_at for r in dialogues], model.device)
    input_ids = torch.tensor(ids, device=model.device)
    body = getattr(model, model.base_model_prefix)
    seen = image_inputs(model, input_ids, images)
    hidden = body(input_ids=input_ids, use_cache=False, **seen).last_hidden_state
    return hidden.flatten(0, 1)[torch.tensor(at, device=model.device)]


def _check_pair(start: ModelPolicy, policy: ModelPolicy) -> None:
    vocabularies = [p.renderer.tokenizer.get_vocab() for p in (start, policy)]
    sizes = [p.model.get_output_embeddings().weight.shape[0] for p in (start, policy)]
    if vocabularies[0] != vocabularies[1] or sizes[0] != sizes[1]:
        raise InputError(
            "divergence: start and checkpoint have different vocabularies, so their distributions "
            "do not compare: name the initial checkpoint that it was trained from as --start"
        )
    if start.decoding.temperature != policy.decoding.temperature:
        raise InputError("divergence: start and checkpoint must have the same temperature")
    if min(start.decoding.top_p, policy.decoding.top_p) < 1:
        raise InputError(
            "divergence: is of whole distributions: with eval.top_p=1 and eval.sampling=given only"
        )


def main(config: DivergenceConfig) -> None:
    """Measure each checkpoint, print a line for it, and write the results. Raises InputError."""
    _check_config(config)
    task = load_task(config.task)
    names = [suite.name for suite in task.suites]
    if config.suite not in names:
        raise InputError(f"suite={config.suite}: must be one of {', '.join(names)}")
    start_path = saved_checkpoints(config.start)[0]
    paths = list(dict.fromkeys(saved_checkpoints(path)[-1] for path in config.checkpoints))
    number = names.index(config.suite)
    env = with_prompt_file(task.suites[number].env, config.prompt_file)
    env = EnvConfig(env.id, {"verify_iter": config.verify_iter} | env.kwargs)
    envs = make_envs(env, min(config.batch_size, config.episodes))
    state = join_processes()
    tasks = evaluation_tasks(config.seed, number, config.episodes)
    start = _load(start_path, config, envs[0])
    # Played once for all checkpoints, where keeping that takes no images.
    from_start = None if shows_images(envs[0]) else play(start, envs, tasks)
    results = {}
    for path in paths:
        policy = _load(path, config, envs[0])
        results[path] = divergence(start, policy, envs, tasks, from_start)
        if state.is_main_process:
            print(f"{path}: {_in_words(results[path])}")
        del policy
    if state.is_main_process:
        shared = {"start": start_path, "task": task.task, "suite": config.suite}
        shared |= {key: getattr(config, key) for key in ("episodes", "seed", "temperature")}
        stamp = time.strftime("%Y%m%d-%H%M%S")
        out = Path(config.out or f"runs/divergence-{task.task}-{stamp}.json")
        write_atomically(out, json.dumps(shared | {"checkpoints": results}, indent=1) + "\n")
        print(f"Results are in {out}")
    state.destroy_process_group()


def _check_config(config: DivergenceConfig) -> None:
    if not config.start or not config.checkpoints:
        raise InputError("start, checkpoints: name both with --start=PATH --checkpoints=[PATH,...]")
    for name in ("episodes", "max_new_tokens", "verify_iter", "batch_size", "temperature"):
        if not getattr(config, name) > 0:
            raise InputError(f"{name}={getattr(config, name)}: must be above 0")


def _in_words(results: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {results[f'{name}_per_token']:.5f} nats a token, "
        f"{results[f'{name}_per_reply']:.4f} a reply"
        for name in ("forward", "reverse")
    )


def _load(path: str, config: DivergenceConfig, env: Any) -> ModelPolicy:
    renderer = load_renderer(path, config.chat_template_kwargs, config.trust_remote_code)
    if shows_images(env):
        renderer.require_images(f"suite {config.suite}", path)
    model = load_model(path, config.dtype, config.trust_remote_code)
    model.to(config.device or PartialState().device)  # type: ignore[arg-type]
    check_linear_head(model)
    return ModelPolicy(
        model,
        renderer,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
    )


if __name__ == "__main__":
    run_command(main, DivergenceConfig)
