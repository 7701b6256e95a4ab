"""Exceptions that mean: what the user gave cannot be used."""


class InputError(ValueError):
    """Bad input, with a message of one line: what was wrong, where, and what would be right.

    Libraries raise it like any ValueError; the commands print its line and exit with code 2.
    """


class NothingToPlayError(InputError):
    """An environment's arguments leave it no episode: no route, or no hand, is of its split."""


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks; its type's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
