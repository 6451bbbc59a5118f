"""Adding up a point while its blocks come: gates, picture, spectra; of its valid shots alone.

Whether a shot is valid is known when the next one opens, or at the end. Rows wait until it is, so that what is counted
here is what the same question gives about the finished run: the same conditions, the same shots, the same errors.

Knows no process.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..jit import kernel
from .gates import Condition, Tally, rows_of_valid_shots
from .sums import COUNTED, N_GATES, SHOTS, VALID, PointArrays
from .tallies import GateCounts

Array = npt.NDArray[Any]
Columns = Mapping[str, Array]

WAITING_ROWS: Final = 1 << 21
"""Rows that wait for the end of their shots: 67 MB. Of more (no trigger comes any longer) the counter lets go."""
LOOKED_AT: Final = ("shot", "x", "y", "tof", "tot", "size")
"""Columns of centroids."""


class PointCounter:
    """Adds blocks of one acquisition to `PointArrays`. Rows come in the order of their shots.

    triggered: the run has had shots before, so that rows outside of a shot do not count. Else they count until the
    first shot ends: where nobody gives triggers, validity says nothing. `incomplete`: too many rows waited for the end
    of their shot and were let go; whoever has all rows restarts and gives them again.
    """

    def __init__(self, arrays: PointArrays, gates: Sequence[Condition] = (), *, triggered: bool = False) -> None:
        if len(gates) > N_GATES:
            raise ValueError(f"{len(gates)} gates were given, a point counts at most {N_GATES}")
        self._arrays = arrays
        self._gates = tuple(gates)
        self._began_triggered = triggered
        self._tallies: list[Tally] = []
        self._all_rows = np.zeros(0, np.int32)
        self.restart()

    def restart(self) -> None:
        """Nothing is counted yet."""
        self.incomplete = False
        self._triggered = self._began_triggered
        self._waiting: deque[dict[str, Array]] = deque()
        """Rows whose shots have not ended."""
        self._valid = np.zeros(0, np.uint8)
        self._first_valid = -1
        self._ended = -1
        """Shots below this number have ended; -1: none has."""
        self._clear()

    def _clear(self) -> None:
        self._arrays.clear(len(self._gates))
        self._tallies = [Tally(self._arrays.gates[place]).cleared() for place in range(len(self._gates))]

    def add(self, columns: Columns, first_ended: int = 0, valid: Array | None = None) -> None:
        """Rows of a block, and the shots [first_ended, first_ended + len(valid)) that it ends."""
        if valid is not None and len(valid):
            self._end_shots(first_ended, valid)
        while self._waiting:
            rest = self._count_ended(self._waiting.popleft())
            if rest is not None:
                self._waiting.appendleft(rest)
                break
        rows = {name: columns[name] for name in LOOKED_AT}
        if not len(rows["shot"]):
            return
        left = rows if self._waiting else self._count_ended(rows)
        if left is not None:
            self._wait(left)

    def _wait(self, columns: dict[str, Array]) -> None:
        if len(columns["shot"]) + sum(len(waiting["shot"]) for waiting in self._waiting) > WAITING_ROWS:
            self._waiting.clear()
            self.incomplete = True
        else:
            self._waiting.append({name: column.copy() for name, column in columns.items()})

    def results(self) -> list[GateCounts]:
        """What each gate has."""
        return [tally.result(self._arrays.valid_shots) for tally in self._tallies]

    def _end_shots(self, first: int, valid: Array) -> None:
        self._triggered = True
        if self._ended < 0:
            if self._arrays.centroids:  # what was counted as if there were no triggers came before the first
                self._clear()
            self._first_valid = first
        self._valid = np.concatenate([self._valid, valid])
        self._ended = first + len(valid)
        self._arrays.totals[SHOTS] += len(valid)
        self._arrays.totals[VALID] += int(np.count_nonzero(valid))

    def _count_ended(self, columns: dict[str, Array]) -> dict[str, Array] | None:
        """Count the rows whose shots have ended. Returns the others."""
        shot = columns["shot"]
        n = int(np.searchsorted(shot, self._ended if self._ended >= 0 else 0))
        if n:
            self._count({name: column[:n] for name, column in columns.items()})
            self._forget_shots(int(shot[n - 1]))
        return {name: column[n:] for name, column in columns.items()} if n < len(shot) else None

    def _forget_shots(self, needed_from: int) -> None:
        """Later rows belong to this shot or to later ones."""
        gone = needed_from - self._first_valid
        if self._ended >= 0 and gone > len(self._valid) // 2:
            self._valid = self._valid[gone:].copy()
            self._first_valid = needed_from

    def _count(self, columns: dict[str, Array]) -> None:
        shot = columns["shot"]
        if self._triggered and not self._all_valid(int(shot[0]), int(shot[-1])):
            valid = rows_of_valid_shots(self._rows(len(shot)), shot, self._valid, self._first_valid)
            columns = {name: column[valid] for name, column in columns.items()}
            shot = columns["shot"]
        rows = self._rows(len(shot))
        arrays, read = self._arrays, columns.__getitem__
        arrays.totals[COUNTED] += len(rows)
        start_ns, width_ns, bins = arrays.spectrum
        add_rows(
            columns["x"], columns["y"], columns["tof"], columns["tot"], columns["size"], start_ns, width_ns,
            arrays.image, arrays.tof[:bins], arrays.tot, arrays.size, arrays.sums,
        )  # fmt: skip
        for gate, tally, image in zip(self._gates, self._tallies, arrays.gate_images, strict=False):
            inside = gate.select(rows, read)
            tally.add(inside, shot)
            add_rows_to_image(inside, columns["x"], columns["y"], image)

    def _all_valid(self, first: int, last: int) -> bool:
        """Whether the rows of these shots, and of those between them, count without exception."""
        place = first - self._first_valid
        return first >= 0 and place >= 0 and bool(self._valid[place : last + 1 - self._first_valid].all())

    def _rows(self, n: int) -> Array:
        """Numbers of all rows of a block."""
        if n > len(self._all_rows):
            self._all_rows = np.arange(n, dtype=np.int32)
        return self._all_rows[:n]


@kernel
def add_rows(
    x: Array, y: Array, tof: Array, tot: Array, size: Array, start_ns: float, width_ns: float,
    image: Array, tofs: Array, tots: Array, sizes: Array, sums: Array,
) -> None:  # fmt: skip
    """Count rows into picture and spectra; sums: of x and of y."""
    one = np.uint32(1)
    n_lines, n_columns = image.shape
    bins = float(tofs.shape[0])
    last_tot, last_size = np.uint32(tots.shape[0] - 1), np.uint32(sizes.shape[0] - 1)
    x_sum, y_sum = sums[0], sums[1]
    for row in range(x.shape[0]):
        x_sum += x[row]
        y_sum += y[row]
        column, line = int(np.floor(x[row] + 0.5)), int(np.floor(y[row] + 0.5))
        if 0 <= line < n_lines and 0 <= column < n_columns:
            image[np.uint64(line), np.uint64(column)] += one  # unsigned: no thought of negative indices
        place = (tof[row] - start_ns) / width_ns
        if 0.0 <= place < bins:
            tofs[np.uint64(place)] += one
        tots[np.uint64(min(tot[row], last_tot))] += one
        sizes[np.uint64(min(size[row], last_size))] += one
    sums[0], sums[1] = x_sum, y_sum


@kernel
def add_rows_to_image(rows: Array, x: Array, y: Array, image: Array) -> None:
    """Count rows into image[row, column] at the nearest pixel; those outside are left out."""
    one = np.uint32(1)
    for row in rows:
        column, line = int(np.floor(x[row] + 0.5)), int(np.floor(y[row] + 0.5))
        if 0 <= line < image.shape[0] and 0 <= column < image.shape[1]:
            image[line, column] += one
