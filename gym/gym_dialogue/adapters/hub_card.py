"""The card of a data set that `hub_dataset` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gym_dialogue.adapters.library import library

with library("hub_dataset"):
    from huggingface_hub import DatasetCardData

_CARD = """---
{header}
---

# Dialogues with a verifier: {env_id}

Episodes of the environment `{env_id}` with the arguments `{kwargs}`, seeded from {seed} on.

- `puzzles`: a row for each position, with its prompt and an answer that the verifier accepts.
- `dialogues`: a row for each dialogue of an oracle that errs in {error_rate:.0%} of its replies. A
  reply with `trained: false` is a mistake, context for the correction after it, without a loss.

`puzzle` is the same in all rows on the same cards or route: split and cluster by it. `env_seed`
deals the episode again (`env.reset(seed=env_seed)`).

| split | puzzles | dialogues |
|---|---|---|
"""


def format_card(
    names: Sequence[str],
    splits: Sequence[str],
    *,
    env_id: str,
    kwargs: Mapping[str, Any],
    seed: int,
    error_rate: float,
    **_: Any,
) -> str:
    """Return the card up to the rows of its table: `names` are the configurations, with a Parquet
    file for each of `splits`.
    """
    configs = [
        {
            "config_name": name,
            "data_files": [{"split": s, "path": f"{name}/{s}.parquet"} for s in splits],
        }
        for name in names
    ]
    data = DatasetCardData(
        license="apache-2.0", language="en", configs=configs, tags=["verifiable", "multi-turn"]
    )
    return _CARD.format(
        header=data.to_yaml(),
        env_id=env_id,
        kwargs=json.dumps(kwargs),
        seed=seed,
        error_rate=error_rate,
    )
