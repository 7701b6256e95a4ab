"""What libraries raise where a model cannot be loaded, and the one line that a user can act on."""

from __future__ import annotations

from pickle import UnpicklingError

from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError

LOAD_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RecursionError,
    UnpicklingError,
    SafetensorError,
    HfHubHTTPError,
    StrictDataclassError,
)


def load_reason(error: Exception) -> str:
    """Return why something could not be loaded, in one line that a user can act on."""
    if "trust_remote_code" in str(error):
        return (
            "it needs Python code that comes with it, which is not run unasked; if you trust it, "
            "pass --trust_remote_code"
        )
    if isinstance(error, UnpicklingError):
        return "it is a pickle that asks for more than weights; save it as safetensors"
    return first_line(error)


def first_line(error: Exception) -> str:
    """Return what an error says, in one line: its first, and the next ones where that ends in a
    colon.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = lines[0] if lines else type(error).__name__
    for line in lines[1:4]:
        if not detail.endswith(":"):
            break
        detail += f" {line}"
    return f"{type(error).__name__} {detail}" if isinstance(error, KeyError) else detail
