"""Whether what a user asked with has the right form: a sentence each for what has not. Knows no run."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from ..config import Gate, MassCalibration
from ..config.gates import Window, check_window

_PAIR = 2
_CORNERS = 4


def check_keywords(given: Iterable[str], known: Sequence[str]) -> None:
    """Raises TypeError for a keyword that there is not: left unread, the answer would be to another question."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"unknown keyword {name!r}; there are: {', '.join(known)}{hint}")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of Python or numpy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_kinds(which: Mapping[str, Any], gate: Any) -> None:
    """Raises TypeError for a gate or a calibration that is none."""
    if gate is not None and not isinstance(gate, Gate):
        raise TypeError(f'gate={gate!r} is no Gate; give one, as Gate(name="iodine", tof=(13_800, 14_050))')
    calibration = which.get("calibration")
    if calibration is not None and not isinstance(calibration, MassCalibration):
        raise TypeError(
            f"calibration={calibration!r} is no MassCalibration; "
            "give one, as MassCalibration.from_peaks([(127, 13_900), (15, 4_800)])"
        )


def window(name: str, given: Any) -> Window:
    """A window (low, high) of numbers or None, as a user gave it. Raises ValueError."""
    pair = _numbers(given, _PAIR, or_none=True)
    if pair is None:
        raise ValueError(f"{name}={given!r} is no window; give (low, high) in numbers, None for an open side")
    return check_window("shot" if name == "shots" else name, (pair[0], pair[1]))


def shots(given: Any) -> Window:
    """A window of shot numbers. Raises ValueError."""
    low, high = window("shots", given)
    if not all(limit is None or float(limit).is_integer() for limit in (low, high)):
        raise ValueError(f"shots={given!r}: shots are counted in whole numbers; give (first, end)")
    return low, high


def roi(given: Any) -> tuple[float, float, float, float]:
    """A region of interest. Raises ValueError."""
    corners = _numbers(given, _CORNERS)
    if corners is None:
        raise ValueError(f"roi={given!r} is no region; give (x0, x1, y0, y1) in px, all four")
    return corners[0], corners[1], corners[2], corners[3]


def rows(given: Any) -> tuple[int, int]:
    """A range of rows. Raises ValueError."""
    pair = _numbers(given, _PAIR)
    if pair is None or not all(map(is_whole, pair)) or not 0 <= pair[0] <= pair[1]:
        raise ValueError(f"rows={given!r} is no range of rows; give (first, end) in whole numbers, 0 <= first <= end")
    return int(pair[0]), int(pair[1])


def points(given: Any) -> list[int]:
    """Numbers of points, each once. Raises ValueError."""
    wanted = [given] if is_whole(given) else list(given) if isinstance(given, Iterable) else [given]
    if isinstance(given, str) or not all(map(is_whole, wanted)):
        raise ValueError(f"point={given!r}; give a seq_num, several, or 'all'")
    numbers = [int(number) for number in wanted]
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise ValueError(f"point {twice} is asked for twice, and would count twice; name each point once")
    return numbers


def edges(name: str, given: Any) -> tuple[float, float]:
    """First and last edge of a spectrum. Raises ValueError."""
    pair = _numbers(given, _PAIR)
    if pair is None or not all(map(math.isfinite, pair)):
        raise ValueError(f"{name}={given!r} is no range; give (first, last) edge in finite numbers")
    if not pair[0] < pair[1]:
        raise ValueError(f"{name} is empty: {pair[0]:g} is not below {pair[1]:g}; give (first, last) edge")
    return float(pair[0]), float(pair[1])


def _numbers(given: Any, n: int, *, or_none: bool = False) -> list[Any] | None:
    """n numbers; None if it is something else."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        return None
    values = list(given)
    fits = len(values) == n and all((or_none and v is None) or isinstance(v, Real) for v in values)
    return values if fits else None
