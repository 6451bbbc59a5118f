"""The only place where options of numba stand.

`nogil` lets kernels run beside the threads of a stage, `cache` makes a second start free of compilation. No fastmath:
results must be the same on every machine. `NUMBA_DISABLE_JIT=1` makes every kernel plain Python (tests do so once).
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numba
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., object])

_FOR_WRITING: Final = 1
_KEEP: Final = 3
_DATA: Final = 1
"""What `llvm.prefetch` is told: the line will be written, will be needed again, is no code."""


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


def _emit_prefetch(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """One instruction of the processor. No bounds are looked at: a line that is not there is not fetched."""
    array_type, _ = signature.args
    array = context.make_array(array_type)(context, builder, arguments[0])
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = builder.module.declare_intrinsic(
        "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    )
    place = builder.bitcast(builder.gep(array.data, [arguments[1]]), byte)
    builder.call(function, [place, number(_FOR_WRITING), number(_KEEP), number(_DATA)])
    return context.get_dummy_value()


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    return numba.types.void(array, index), _emit_prefetch


def _nothing(array: npt.NDArray[Any], index: Any) -> None:
    """Without compilation there is nothing to fetch."""


prefetch: Final[Callable[[npt.NDArray[Any], Any], None]] = _nothing if numba.config.DISABLE_JIT else _prefetch
"""For kernels: fetch the line of array[index], one-dimensional, into the nearest cache; it will be written soon.

Changes no result. It pays where places are jumped to that cannot be guessed, and are known some steps ahead.
"""
