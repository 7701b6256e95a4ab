"""Writes a trained checkpoint's model card, and sends it to the hub if asked to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evaluation.metrics import FIRST_REPLY
from evaluation.report import format_json
from gym_command.checkpoints import TRAINING_DIR, update_of
from gym_command.command import run_command
from gym_command.files import write_atomically
from gym_command.hub import check_repo_id, push_directory
from gym_command.run_dir import RunDir, saved_checkpoints
from gym_dialogue import InputError
from gym_dialogue.checks import read_json
from gym_policy.models.adapter import base_of
from gym_policy.training.checkpoint import SUMS_FILE

_NOT_SHOWN = ("run_dir", "resume", "dry_run", "engines")
_NOT_SENT = (f"{TRAINING_DIR}/*", SUMS_FILE)  # the sums are of the training state too
_PATH = object()

_CARD = """---
{header}---

# {title}

{name} of {initial} on {env}: {how}. The policy answers dialogues with a verifier; prompts,
verifier and evaluation are those of the framework that trained it, where
`bash scripts/eval_ood.sh {shown}` evaluates it again.

## Success

First replies, % [95 % interval], {episodes} episodes each:

{table}

## Settings

```yaml
{settings}```
"""


@dataclass
class ShareConfig:
    """Write a model card into a run's last checkpoint, and send it to the hub."""

    checkpoint: str = ""
    """A run, which stands for its last checkpoint, or one of its checkpoints."""
    push_to_hub: str | None = None
    """OWNER/NAME of the repository, which is made if need be. None: nothing is sent."""
    private: bool = True
    """Whether a repository that is made is private."""
    license: str | None = None
    """Such as apache-2.0, for the card. A fine-tuned model's follows from its base's."""


def main(config: ShareConfig) -> Path:
    """Write README.md into the checkpoint; return the checkpoint. Raises InputError."""
    if not config.checkpoint:
        raise InputError("checkpoint: name a run or one of its checkpoints with --checkpoint=RUN")
    checkpoint = Path(saved_checkpoints(config.checkpoint)[-1])
    run = RunDir(checkpoint.parent.parent)
    settings = run.settings()
    if not settings:
        raise InputError(f"checkpoint {checkpoint}: is not in a run's directory (no config.yaml)")
    if config.push_to_hub:
        check_repo_id(config.push_to_hub)
        _check_base(checkpoint)
    card = checkpoint / "README.md"
    write_atomically(card, format_card(config, checkpoint, settings, _results(run, checkpoint)))
    print(f"Model card: {card}")
    if config.push_to_hub:
        address = push_directory(
            checkpoint, config.push_to_hub, "model", config.private, ignore=_NOT_SENT
        )
        print(f"Sent to {address}")
    return checkpoint


def _is_adapter(checkpoint: Path) -> bool:
    return not (checkpoint / "config.json").is_file()


def _is_hub_name(model: str) -> bool:
    return model.count("/") == 1 and not Path(model).exists()


def _check_base(checkpoint: Path) -> None:
    """Raises InputError for an adapter whose base lies on this machine: no one could load it."""
    if _is_adapter(checkpoint) and not _is_hub_name(base := base_of(checkpoint)):
        raise InputError(
            f"push_to_hub: {checkpoint} is an adapter on {base}, which is here alone: merge them "
            f"(python -m gym_policy.models.merge {checkpoint} OUT), and share the whole model"
        )


def _without_paths(settings: Any) -> Any:
    """Return settings without what says where things lie on the machine that trained it."""
    if isinstance(settings, dict):
        kept = {key: _without_paths(value) for key, value in settings.items()}
        return {key: value for key, value in kept.items() if value is not _PATH}
    if isinstance(settings, list):
        return [value for value in map(_without_paths, settings) if value is not _PATH]
    is_path = isinstance(settings, str) and (
        settings.startswith(("/", "~", ".")) or ("/" in settings and Path(settings).exists())
    )
    return _PATH if is_path else settings


def _results(run: RunDir, checkpoint: Path) -> dict[str, Any]:
    """Return the run's evaluation, its checkpoint's alone; empty where it was not evaluated."""
    if not run.summary_file.is_file():
        return {}
    summary = read_json(run.summary_file, str(run.summary_file))
    try:
        return {
            "suites": summary["suites"],
            "decodings": summary["checkpoints"].get(checkpoint.name, {}),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{run.summary_file}: is no summary of an evaluation") from error


def format_card(
    config: ShareConfig, checkpoint: Path, settings: dict[str, Any], results: dict[str, Any]
) -> str:
    """Return the card's text: what was trained on what, its results and its settings."""
    algorithm = settings.get("algorithm")
    name = f"{algorithm.upper()} fine-tuning" if algorithm else "Supervised fine-tuning"
    model, is_adapter = str(settings.get("model")), _is_adapter(checkpoint)
    is_hub_name = _is_hub_name(model)
    shown = _without_paths({k: v for k, v in settings.items() if k not in _NOT_SHOWN})
    config_file = checkpoint / "config.json"
    has_vision = not is_adapter and "vision_config" in read_json(config_file, str(checkpoint))
    header: dict[str, Any] = {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "image-text-to-text" if has_vision else "text-generation",
        "tags": ["verifiable", "multi-turn", algorithm or "sft"],
    }
    if config.license:
        header["license"] = config.license
    if is_hub_name:
        header["base_model"] = model
    return _CARD.format(
        header=yaml.safe_dump(header, sort_keys=False),
        title=config.push_to_hub or checkpoint.parent.parent.name,
        name=name,
        initial=f"`{model}`" if is_hub_name else "an initial checkpoint made by this project",
        env=_learned_from(settings),
        how=f"{update_of(checkpoint)} {'updates' if algorithm else 'steps'}, "
        f"seed {settings.get('seed')}",
        shown=config.push_to_hub or "CHECKPOINT",
        episodes=_episodes(results),
        table=_table(results),
        settings=yaml.safe_dump(shown, sort_keys=False),
    )


def _learned_from(settings: dict[str, Any]) -> str:
    """Return the names of the environments, or that it was a file."""
    if settings.get("data_file"):
        return "the dialogues of a file"
    sources = settings.get("sources") or [{"env": settings.get("env")}]
    try:
        return ", ".join(dict.fromkeys(f"`{source['env']['id']}`" for source in sources))
    except (TypeError, KeyError) as error:
        raise InputError("config.yaml of the run: names no environment (env.id)") from error


def _episodes(results: dict[str, Any]) -> str:
    counts = {
        suite["episodes"]
        for by_suite in results.get("decodings", {}).values()
        for suite in by_suite.values()
    }
    return " or ".join(map(str, sorted(counts))) or "no"


def _table(results: dict[str, Any]) -> str:
    """Return a Markdown table of first-reply success, a column a decoding."""
    decodings = results.get("decodings")
    if not decodings:
        return "It was not evaluated."
    lines = [["suite", *decodings], ["---"] * (len(decodings) + 1)]
    for name, suite in results["suites"].items():
        cells = [format_json(d[name]["metrics"][FIRST_REPLY]) for d in decodings.values()]
        lines.append([suite["title"], *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    run_command(main, ShareConfig)
