"""What a run has measured, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """A section's result: a multiple of its baseline (unit `x`) or a share of it (unit `%`), and
    the target, if there is one.
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
    """Print ratios as a Markdown table."""
    print("\n| section | measured | ratio | aim |\n|---|---|---|---|")
    print("\n".join(map(str, ratios)))
