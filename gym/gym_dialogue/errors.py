"""The one exception that means: what the user gave cannot be used."""


class InputError(ValueError):
    """Bad input, with a message of one line: what was wrong, where, and what would be right.

    Libraries raise it like any ValueError; the commands print its line and exit with code 2.
    """
