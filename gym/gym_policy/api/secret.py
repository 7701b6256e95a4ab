"""A key, and texts without it."""

from __future__ import annotations

import re
from html.entities import html5

_LONG = 12  # characters from which on a key is no ordinary word, as `none` and `EMPTY` are


class Secret:
    r"""A key that no text is to show, in whatever way it is escaped there: as JSON (`\/`,
    `\u002f`), as a URL (`%2F`, more than once) or as HTML (`&#47;`). In its place stands `name`.
    """

    def __init__(self, value: str, name: str):
        self._pattern = re.compile("".join(map(_escaped, value))) if value else None
        self._is_long = len(value) >= _LONG
        self._shown = f"[{name}]"

    def __bool__(self) -> bool:
        return self._pattern is not None

    def scrub(self, text: str) -> str:
        """Return the text without the key. To be cut short afterwards, not before."""
        return text if self._pattern is None else self._pattern.sub(lambda _: self._shown, text)

    def is_in(self, text: str) -> bool:
        """Return whether the text holds the key, and not just a word that the key is."""
        return self._is_long and self._pattern.search(text) is not None


def _escaped(char: str) -> str:
    """Return a pattern for a character, plain or escaped."""
    digits = "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in f"{ord(char):02x}")
    names = "".join(f"|{name}" for name, text in html5.items() if text == char and name[-1] == ";")
    return (
        rf"\\{{0,16}}(?:{re.escape(char)}|%(?:25){{0,3}}{digits}|u00{digits}"
        rf"|&(?:#0{{0,4}}{ord(char)};|#[xX]0{{0,4}}{digits};{names}))"
    )
