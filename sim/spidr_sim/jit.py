"""The only place of the simulator where options of numba stand (the simulator does not import the package's `jit`).

`nogil`: kernels run beside the TCP thread. `cache`: a second start is free of compilation.
"""

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a pure function on arrays and scalars."""
    compiled: F = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled
