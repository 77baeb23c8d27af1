"""The process that started this one in, an end that comes with its end out."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

PARENT_VARIABLE: Final = "TALLYHOLD_PARENT"
"""Process id of the appliance that started this one, which then ends with it."""
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def end_with_parent() -> bool:
    """Stop in order when the appliance that started this process has died without stopping it.

    False where it is gone already, or the kernel cannot tell.
    """
    parent = os.environ.get(PARENT_VARIABLE, "")
    if not parent.isdigit():
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    tied = libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) == 0
    return tied and os.getppid() == int(parent)
