"""The only place of the simulator where options of numba stand (the simulator does not import the package's `jit`).

`nogil`: kernels run beside the TCP thread. `cache`: a second start is free of compilation.
"""

from collections.abc import Callable
from typing import TypeVar

import numba
from numba.core import entrypoints

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a pure function on arrays and scalars."""
    compiled: F = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


def without_extensions() -> None:
    """Leave out what other packages add to numba: it takes half a second, and no kernel here uses it.

    For a simulator in a process of its own. Call it before the first kernel.
    """
    entrypoints._already_initialized = True  # numba has no option for it; a numba without this name just loads them
