"""Which shots a loss may have touched: gaps in the counters of edges, spans of time.

Knows no file and no process. All rules are functions of the edges in time order, never of how the stream is cut.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..jit import kernel
from ..protocol.words import TDC_COUNTER

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

FALLING_SHIFT: Final = TDC_COUNTER.width
INPUT_SHIFT: Final = FALLING_SHIFT + 1
"""An edge's code: input - 1, falling, counter, in one number."""
FOREVER: Final = 1 << 62
_COUNTER_MASK: Final = TDC_COUNTER.mask
_HALF: Final = (TDC_COUNTER.mask + 1) // 2

_LAST: Final = 0
"""Counter of the newest edge of the input, -1: none."""
_TICK: Final = 1
_ONES: Final = 2
"""Steps of 1 in a row, up to those that settle it: the counter counts no edge that is not sent."""
_IRREGULAR: Final = 3
_CLEAN: Final = 4
"""Counter of the last edge from which on a gap is told that no edge has confirmed yet, ..."""
_TOLD: Final = 5
"""and how many are told to be missing since."""
_N_STATE: Final = 6
_SETTLED: Final = 3


class Gap(NamedTuple):
    """Edges of an input that its counter tells of and that did not come."""

    input: int
    missing: int
    """Negative: so many of those that the gap before it told of are not missing, its counter was garbled."""
    low_ticks: int
    """The edge before."""
    high_ticks: int
    """The edge after."""


@kernel
def follow_counters(ticks: Ints, codes: npt.NDArray[np.int32], n: int, state: Ints, gaps: Ints) -> int:
    """Follow the counters of both inputs through edges in time order; `gaps` gets rows of `Gap`. Returns how many.

    An input has one counter for both its edges. Where only one kind of edge is sent, it may count by two (the other
    kind is counted all the same) or by one; three steps of one in a row settle it, a single one may be garbled. Before
    that an even step is taken for steps of two. The counter has 12 bits: of losses of 4096 edges nothing shows.

    A gap is confirmed by an edge that goes on from where it ended. One that is nearer to where the gap began says that
    the counter in between was garbled: what was told is taken back.
    """
    n_gaps = 0
    for i in range(n):
        code = codes[i]
        place = code >> INPUT_SHIFT
        counter = code & _COUNTER_MASK
        row = state[place]
        if row[_LAST] >= 0:
            step = (counter - row[_LAST]) & _COUNTER_MASK
            row[_IRREGULAR] += step == 0 or step > _HALF
            if row[_ONES] < _SETTLED:
                row[_ONES] = row[_ONES] + 1 if step == 1 else 0
            since = (counter - row[_CLEAN]) & _COUNTER_MASK
            garbled = row[_TOLD] > 0 and since < step
            if garbled:
                step = since
            missing = max(0, step - 1 if row[_ONES] == _SETTLED or step & 1 else step // 2 - 1)
            if garbled or missing > 0:
                gaps[n_gaps, 0] = place + 1
                gaps[n_gaps, 1] = missing - row[_TOLD] if garbled else missing
                gaps[n_gaps, 2] = row[_TICK]
                gaps[n_gaps, 3] = ticks[i]
                n_gaps += 1
            row[_TOLD] = 0 if garbled or (step > 0 and missing == 0) else row[_TOLD] + missing
            if row[_TOLD] == 0:
                row[_CLEAN] = counter
        else:
            row[_CLEAN] = counter
            row[_TOLD] = 0
        row[_LAST] = counter
        row[_TICK] = ticks[i]
    return n_gaps


class EdgeSequence:
    """The counters of the edges of both inputs. A gap is told once, with the edges around it."""

    def __init__(self) -> None:
        self._state = np.zeros((2, _N_STATE), np.int64)
        self.restart()

    def restart(self) -> None:
        """An acquisition ended: what came between it and the next is nobody's loss."""
        self._state[:, _LAST] = -1

    @property
    def irregular(self) -> int:
        """Edges so far whose counter stood still or ran backwards."""
        return int(self._state[:, _IRREGULAR].sum())

    def follow(self, ticks: Ints, codes: npt.NDArray[np.int32]) -> list[Gap]:
        """The gaps among the next edges, which come in time order and once."""
        n = len(ticks)
        if n == 0:
            return []
        rows = np.empty((n, 4), np.int64)
        n_gaps = int(follow_counters(ticks, codes, n, self._state, rows))
        return [Gap(*(int(value) for value in row)) for row in rows[:n_gaps]]


class InvalidSpans:
    """Spans of time that no valid shot touches, both ends included."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, low: int, high: int) -> None:
        """One more. Raises ValueError for one that ends before it begins."""
        if low > high:
            raise ValueError(f"a span of time that begins at tick {low} cannot end at tick {high}")
        if self._spans and self._spans[-1][0] <= low <= self._spans[-1][1] + 1:
            self._spans[-1] = (self._spans[-1][0], max(high, self._spans[-1][1]))
        else:
            self._spans.append((low, high))

    def settle(self, begin: int | None, until: int) -> None:
        """Shots that begin before `until` are judged, but for one that began at `begin` (None: but for none).

        For that one it is the same whether it touches one of several spans or the one that they are joined to: a stream
        that loses without end and has no triggers takes no memory.
        """
        if not self._spans:
            return
        rest = [span for span in self._spans if span[1] >= until]
        past = [] if begin is None else [span for span in self._spans if begin <= span[1] < until]
        if past:
            rest.insert(0, (min(low for low, _ in past), max(high for _, high in past)))
        self._spans = rest

    def touch(self, starts: Ints, ends: Ints) -> Flags:
        """Which of the shots that last from `starts` to just before `ends` touch one of our spans."""
        if not self._spans:
            return np.zeros(len(starts), np.bool_)
        spans = np.array(sorted(self._spans), np.int64)
        latest = np.concatenate([[-FOREVER], np.maximum.accumulate(spans[:, 1])])
        begun: Flags = latest[np.searchsorted(spans[:, 0], ends, side="left")] >= starts
        return begun
