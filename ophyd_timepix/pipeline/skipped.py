"""Which bytes of a recording the decoder passed over, and why: so many places one by one that a file can be looked at.

Pure: marks of the decoder in, places out.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..decode import kernels as k
from ..decode.counts import SKIPPED, Mark

PLACES_MAX: Final = 100
"""Places of an acquisition that are told; of all others the ledger has the numbers."""


class Place(NamedTuple):
    """Bytes that gave nothing."""

    what: str
    """The `Mark`, in small letters; 'cut_chunk' stands at the header that came too early, and has no bytes."""
    offset: int
    """Of the first byte, in the recording."""
    n_bytes: int


class Skipped:
    """The places of one acquisition."""

    def __init__(self) -> None:
        self.places: list[Place] = []

    def add(self, marks: npt.NDArray[np.int64], address: int, origin: Callable[[int], int] = int) -> None:
        """Take the marks of a batch from the words at `address`. origin: which of those a word of the batch was."""
        for kind, _, word, amount, *_ in marks[np.isin(marks[:, k.M_KIND], SKIPPED)].tolist():
            n_words = 0 if kind == Mark.CUT_CHUNK else 1 if kind == Mark.JUMPED else amount
            place = Place(Mark(kind).name.lower(), address + 8 * origin(word), 8 * n_words)
            if self._goes_on(place):
                self.places[-1] = place._replace(
                    offset=self.places[-1].offset, n_bytes=self.places[-1].n_bytes + place.n_bytes
                )
            elif len(self.places) >= PLACES_MAX:
                return
            else:
                self.places.append(place)

    def _goes_on(self, place: Place) -> bool:
        """Does this place continue the last one, which a call or a slice has cut?"""
        if not self.places:
            return False
        last = self.places[-1]
        return last.what == place.what and last.n_bytes > 0 and last.offset + last.n_bytes == place.offset
