"""Whole numbers within limits: what is none, or outside, is refused before the wire.

numpy's integers become Python's: shifted to their place in a word of 32 bits, those of 8 or 16 bits lose their value.
"""

from operator import index
from typing import SupportsIndex

import numpy as np

from ophyd_timepix.protocol import Setting

from .errors import LimitError


def whole(where: str, what: str, value: SupportsIndex, low: int, high: int, unit: str = "") -> int:
    """`value` as an int. `where` and `what` begin the message of the LimitError, `unit` follows the limits in it."""
    try:
        number = index(value)
    except TypeError:
        why = f"{value!r}, which is no whole number"
    else:
        if low <= number <= high:
            return number
        why = f"{number}"
    raise LimitError(f"{where}: {what} is {low} to {high}{unit and ' ' + unit}, not {why}; nothing was sent")


def flag(where: str, what: str, value: object) -> bool:
    """`value` as a bool: True, False, 0 or 1, of Python or numpy. Anything else would be some other setting."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, int | np.integer) and value in (0, 1)):
        return bool(value)
    raise LimitError(f"{where}: {what} is on (True) or off (False), not {value!r}; nothing was sent")


def whole_setting(where: str, setting: Setting, value: SupportsIndex) -> int:
    """`value` within the limits of a setting of the table."""
    return whole(where, setting.name, value, int(setting.low), int(setting.high), setting.unit)
