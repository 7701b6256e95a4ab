"""Deal or take a hand, show its prompt and solutions, and judge replies to it.

`python -m gym_cards --cards=[A,10,K,3] --reply='{"formula": "10+10+1+3"}'`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gym_cards.env import GeneralPointsEnv
from gym_command.command import run_command


@dataclass
class Config:
    """Show a hand of GeneralPoints, and what the verifier says of replies to it."""

    cards: list[str | int] | None = None
    """The hand, such as [A,10,K,3]. None: dealt from the seed."""
    seed: int = 0
    """Of the deal."""
    face_rule: str = "10"
    """What J, Q and K count as: 10, rank, 5, 7, 12 or random."""
    target_points: int = 24
    """What the formula must make."""
    num_cards: int = 4
    """2 to 5."""
    reply: str | list[str] = field(default_factory=list)
    """A reply to judge, or a list of them in order."""


def main(config: Config) -> None:
    """Run the command."""
    replies = [config.reply] if isinstance(config.reply, str) else config.reply
    env = GeneralPointsEnv(
        target_points=config.target_points,
        face_rule=config.face_rule,
        num_cards=config.num_cards,
        verify_iter=max(1, len(replies)),
    )
    options: dict[str, Any] = {"all_solutions": True}
    if config.cards is not None:
        options["cards"] = [str(card) for card in config.cards]
    obs, info = env.reset(seed=config.seed, options=options)
    print(f"{obs['text']}\n\nsolutions: {len(info['solutions'])}, such as {info['solution']}")
    for reply in replies:
        _, reward, ended, _, info = env.step(reply)
        print(f"{reward:+g} {' '.join(info['outcomes'])} {info['feedback']}".rstrip())
        if ended:
            break


if __name__ == "__main__":
    run_command(main, Config)
