"""The only place where options of numba stand.

`nogil` lets kernels run beside the threads of a stage, `cache` makes a second start free of compilation. No fastmath:
results must be the same on every machine. `NUMBA_DISABLE_JIT=1` makes every kernel plain Python (tests do so once).
"""

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a pure function on arrays and scalars."""
    compiled: F = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


def inlined(function: F) -> F:
    """Compile a small helper into its callers' loops."""
    compiled: F = numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")(function)
    return compiled


def internal(function: F) -> F:
    """Compile a function that only kernels call: it cannot be called from Python, and so compiles in half the time.

    It makes no array and keeps none (`_nrt`): else each call would count references to all the arrays that it is given,
    and a word that is no hit would take as long as some hundred hits.
    """
    compiled: F = numba.njit(
        nogil=True, cache=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False
    )(function)
    return compiled
