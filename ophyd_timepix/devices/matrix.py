"""The pixel matrix of a chip as a device: 65536 pixels are named by their digest, not listed."""

from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, Kind
from ophyd.status import Status

from ..control import Chip
from ..protocol import PixelMatrix
from ..protocol.words import MATRIX_SIDE
from .signals import Hardware, result
from .status import PlainStatus, settled

NOT_READ = "not read yet"


class MatrixDigest(Hardware):
    """SHA-256 of the matrix. Asking for it reads the whole matrix back."""

    recorded = True
    settable = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(value=NOT_READ, **kwargs)

    def ask(self) -> str:
        return self.parent.read_back().digest()

    def tell(self, value: Any) -> None:
        raise ValueError(f"{self.name} names a matrix and cannot be set; set the matrix: {self.parent.name}.set(...)")

    def put(self, value: Any, **kwargs: Any) -> None:
        self.tell(value)

    def set(self, value: Any, **kwargs: Any) -> Status:
        self.tell(value)
        return super().set(value, **kwargs)

    @property
    def source(self) -> str:
        return f"SPIDR:chip{self.parent.parent.index}:GET_PIXCONF"


class Matrix(Device):
    """Masks, threshold adjustments and test bits of all pixels.

    `matrix.set(PixelMatrix(...))` uploads and reads back; `matrix.read_back()` asks the chip; `matrix.last` is what was
    seen last. Arrays are indexed [column, row].
    """

    digest = Cpt(MatrixDigest, kind=Kind.config, meaning="SHA-256 of the configuration of all pixels")
    masked = result(0, "pixels", Kind.config, meaning="masked pixels")
    test_pixels = result(0, "pixels", Kind.config, meaning="pixels that test pulses reach")
    adjust_mean = result(0.0, "DAC step", Kind.config, meaning="mean threshold adjustment, 0 to 15")

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        self.last: PixelMatrix | None = None
        """The matrix of the last contact; None: it was not read yet."""
        self._last_at: tuple[int, object] = (-1, None)
        super().__init__(prefix, **kwargs)

    def read_back(self) -> PixelMatrix:
        """The matrix, read from the chip (256 requests)."""
        matrix = self._chip.read_matrix()
        self._note(matrix)
        return matrix

    def upload(self, matrix: PixelMatrix) -> None:
        """Upload and read back. Raises ControlError when the chip holds another."""
        self.check_value(matrix)
        self._chip.upload_matrix(matrix)
        self._note(PixelMatrix.from_codes(matrix.codes()))

    def check_value(self, matrix: Any) -> None:
        """Raise ValueError unless it is a PixelMatrix."""
        if not isinstance(matrix, PixelMatrix):
            raise ValueError(f"{self.name} takes a PixelMatrix (ophyd_timepix.protocol), not {type(matrix).__name__}")

    def set(self, matrix: PixelMatrix) -> Status:
        """`upload` as a Status, for `bps.mv`. Refuses what is no matrix here and now."""
        self.check_value(matrix)
        return settled(PlainStatus(self), lambda: self.upload(matrix))

    def mask(self, column: int, row: int, masked: bool = True) -> None:
        """Mask one pixel, or unmask it."""
        if not all(isinstance(number, int | np.integer) and 0 <= number < MATRIX_SIDE for number in (column, row)):
            raise ValueError(f"{self.name} has columns and rows 0 to {MATRIX_SIDE - 1}, not ({column}, {row})")
        matrix = PixelMatrix.from_codes((self.last or self.read_back()).codes())
        matrix.mask[column, row] = masked
        self.upload(matrix)

    def refresh(self) -> None:
        """Read the matrix back, unless it was seen over this connection: a board serves one client at a time."""
        if self.last is None or self._last_at != self.root.line():
            self.read_back()

    def forget(self) -> None:
        """The chip may have another matrix: `refresh` reads it."""
        self._last_at = (-1, None)

    @property
    def _chip(self) -> Chip:
        chip: Chip = self.parent.control
        return chip

    def _note(self, matrix: PixelMatrix) -> None:
        self.last = matrix
        self._last_at = self.root.line()
        self.digest.note(matrix.digest())
        self.masked.publish(int(matrix.mask.sum()))
        self.test_pixels.publish(int(matrix.test.sum()))
        self.adjust_mean.publish(float(matrix.threshold_adjust.mean()))

    def __repr__(self) -> str:
        return f"<{self.name}: {self.last or NOT_READ}>"
