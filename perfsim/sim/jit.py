"""Compilation with Numba, and where the machine code is kept.

Compiling takes seconds, so the machine code is kept on disk for the next process: in ``__pycache__`` beside the module,
or in the user's cache folder where that cannot be written to. It is all that perfsim writes unasked.
``NUMBA_CACHE_DIR`` names another folder, and ``PERFSIM_CACHE=0`` keeps nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called; it takes numbers and arrays and lets other threads run."""
    if os.environ.get("PERFSIM_CACHE", "1") != "0":
        try:
            return njit(function, cache=True, nogil=True)
        except RuntimeError:  # there is no folder that can be written to
            pass
    return njit(function, nogil=True)
