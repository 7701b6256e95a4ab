"""A study's results.json as Markdown tables, for RESULTS.md and the front page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evaluation.metrics import FIRST_REPLY
from evaluation.report import format_json
from evaluation.statistics import holm
from evaluation.study.contrasts import MATCHES, best_decoding, headline, title_of, whole

Data = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def start_table(data: Data) -> str:
    """Return first-reply success of the initial checkpoints by suite and decoding, in %."""
    decodings = list(data["start"])
    rows = [
        [title, *(format_json(data["start"][d][suite]) for d in decodings)]
        for suite, title in _titles(data).items()
    ]
    return table(["initial checkpoint, first reply, %", *decodings], rows)


def arms_table(data: Data) -> str:
    """Return first-reply success of the last checkpoints by suite, in % in the first decoding, and
    in brackets their change from the initial checkpoint; beside them the initial checkpoint in its
    best decoding.
    """
    decoding = data["decodings"][0]
    head = [f"first reply, {decoding}, %", "initial", "initial at its best"]
    head += [arm["title"] for arm in data["arms"].values()]
    rows = []
    for suite, title in _titles(data).items():
        best = best_decoding(data["start"], suite)
        row = [
            title,
            format_json(data["start"][decoding][suite]),
            f"{format_json(data['start'][best][suite])} ({best})",
        ]
        for name in data["arms"]:
            last = data["curves"][name][decoding][suite][FIRST_REPLY][-1]
            change = data["changes"][name][decoding][suite]
            row.append(f"{100 * last['value']:.1f} ({format_json(change, '+')})")
        rows.append(row)
    return table(head, rows)


def contrast_table(data: Data) -> str:
    """Return the first arm of the headline less the second, by suite and match, in points."""
    shown = whole(data["decodings"])
    names = [data["arms"][name]["title"] for name in data["headline"]]
    what = f"{names[0]} less {names[1]}, points, {title_of(shown)}"
    head = [what, *(f"at {match}" for match in MATCHES.values())]
    rows = []
    for suite, title in _titles(data).items():
        changes = [headline(data, data["headline"], match, suite) for match in MATCHES]
        rows.append([title, *(_with_seeds(c[shown]) if c else "" for c in changes)])
    return table(head, rows)


def claim_table(studies: Mapping[str, Data]) -> str:
    """Return the primary endpoint of each study, with p values adjusted for their number (Holm)."""
    endpoints = {name: primary(data) for name, data in studies.items()}
    adjusted = holm({n: e["p"] for n, e in endpoints.items() if e and e["p"] is not None})
    head = ["task", "seeds", "suite of the claim", "RL less SFT, points", "by seed", "p (Holm)"]
    rows = []
    for name, endpoint in endpoints.items():
        data = studies[name]
        if not endpoint:
            continue
        rows.append(
            [
                data["task"],
                str(len(endpoint["per_seed"])),
                _titles(data)[data["primary"]],
                format_json(endpoint, "+"),
                " ".join(f"{100 * value:+.1f}" for value in endpoint["per_seed"]),
                f"{adjusted[name]:.3f}" if name in adjusted else "",
            ]
        )
    return table(head, rows)


def primary(data: Data) -> Data:
    """Return the primary endpoint of a study: the headline at equal success in distribution, in the
    suite of the claim, mean of decodings. Empty where it was not measured.
    """
    change = headline(data, data["headline"], "id", data["primary"])
    return change.get(whole(data["decodings"]), {})


BLOCKS: dict[str, Callable[[Data], str]] = {
    "start": start_table,
    "arms": arms_table,
    "contrasts": contrast_table,
}
"""Tables of one study by name."""


def _titles(data: Data) -> dict[str, str]:
    return {name: suite["title"] for name, suite in data["suites"].items()}


def _with_seeds(change: Data) -> str:
    """Return an interval with the value under each seed."""
    shown = format_json(change, "+")
    if len(change["per_seed"]) < 2:
        return f"{shown} (one seed)"
    return f"{shown} ({' '.join(f'{100 * value:+.0f}' for value in change['per_seed'])})"
