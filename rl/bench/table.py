"""What a run has measured, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """A section's result: how many times as much as what it is held against (unit `x`), or which
    share of it (unit `%`), and what is aimed at, if anything.
    """

    section: str
    what: str
    value: float
    aim: str = ""
    unit: str = "x"

    def __str__(self) -> str:
        shown = f"{100 * self.value:.0f} %" if self.unit == "%" else f"{self.value:.2f} x"
        return f"| {self.section} | {self.what} | {shown} | {self.aim} |"


def print_table(ratios: Sequence[Ratio]) -> None:
    """In Markdown."""
    print("\n| section | measured | ratio | aim |\n|---|---|---|---|")
    print("\n".join(map(str, ratios)))
