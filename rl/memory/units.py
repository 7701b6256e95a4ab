"""Units of memory."""

MIB, GIB = 2**20, 2**30
DEVICE_BYTES = 80 * GIB
"""Memory of the paper's devices, against which a plan is judged."""


def size_text(size: float) -> str:
    """Return bytes as text in GiB, or in MiB below one GiB."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / MIB:,.1f} MiB"
