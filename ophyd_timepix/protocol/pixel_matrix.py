"""The pixel configuration of a chip (mask, threshold adjustment, test bit), and its forms on the wire.

Arrays are indexed [column, row], 256 x 256. A pixel's configuration is 6 bits:

====  ==================================================================================
bit   meaning
====  ==================================================================================
0     masked
1-4   threshold adjustment, **bit-reversed**: its most significant bit is at bit 1 [N]
5     test pulses
====  ==================================================================================

Upload, packed [P]: 86 messages SET_PIXCONF; columns 0, 3 ... 252 with three columns (576 bytes) each, then column 255
(192 bytes); four 6-bit values in three bytes, the first in the high bits. Upload, unpacked [N]: 1 to 4 columns, a byte
per pixel. Nothing documents how the board tells the two apart; their lengths differ, so by length (?).
Read-back: GET_PIXCONF, a column of 256 bytes.

This module knows no socket and no file.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from .commands import CTPR_BYTES
from .words import MATRIX_SIDE

SHAPE: Final = (MATRIX_SIDE, MATRIX_SIDE)
ADJUST_MAX: Final = 15

MASK_BIT: Final = 0x01
TEST_BIT: Final = 0x20
ADJUST_SHIFT: Final = 1
CODE_MAX: Final = 0x3F

COLUMNS_PER_MESSAGE: Final = 3
PACKED_COLUMN_BYTES: Final = MATRIX_SIDE * 6 // 8

_REVERSED: Final = np.array([int(f"{value:04b}"[::-1], 2) for value in range(16)], dtype=np.uint8)
"""The four bits of an adjustment in the chip's order; its own inverse."""

Codes = npt.NDArray[np.uint8]


def _bits() -> npt.NDArray[np.bool_]:
    return np.zeros(SHAPE, dtype=np.bool_)


def _adjust() -> Codes:
    return np.zeros(SHAPE, dtype=np.uint8)


@dataclass(eq=False)
class PixelMatrix:
    """The configuration of all pixels, indexed [column, row]. Fresh: nothing masked, adjustment 0, no test bits."""

    mask: npt.NDArray[np.bool_] = field(default_factory=_bits)
    """True: the pixel is masked (silent)."""
    threshold_adjust: Codes = field(default_factory=_adjust)
    """0 to 15, in the usual (not reversed) order."""
    test: npt.NDArray[np.bool_] = field(default_factory=_bits)
    """True: test pulses reach the pixel."""

    def __post_init__(self) -> None:
        self.mask = _as_bits("mask", self.mask)
        self.test = _as_bits("test", self.test)
        self.threshold_adjust = _as_adjust(self.threshold_adjust)

    @classmethod
    def from_codes(cls, codes: npt.ArrayLike) -> Self:
        """From the 6-bit values of the chip. Raises ValueError for another shape or a value above 63."""
        values = np.asarray(codes)
        _check_shape("codes", values)
        if values.size and (int(values.max()) > CODE_MAX or int(values.min()) < 0):
            raise ValueError(f"a pixel's configuration is 0 to {CODE_MAX} (6 bits), not {values.max()}")
        values = values.astype(np.uint8)
        adjust = _REVERSED[values >> ADJUST_SHIFT & ADJUST_MAX]
        return cls(values & MASK_BIT != 0, adjust, values & TEST_BIT != 0)

    def codes(self) -> Codes:
        """The 6-bit values of the chip."""
        adjust = _REVERSED[_as_adjust(self.threshold_adjust)] << ADJUST_SHIFT
        codes = self.mask.view(np.uint8) * MASK_BIT | adjust | self.test.view(np.uint8) * TEST_BIT
        return codes.astype(np.uint8)

    def upload(self) -> Iterator[tuple[int, bytes]]:
        """(first column, packed bytes) of the 86 messages."""
        codes = self.codes()
        for first in range(0, MATRIX_SIDE, COLUMNS_PER_MESSAGE):
            yield first, pack(codes[first : first + COLUMNS_PER_MESSAGE])

    def digest(self) -> str:
        """SHA-256 of the codes: names a matrix in documents and files."""
        return hashlib.sha256(self.codes().tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PixelMatrix):
            return NotImplemented
        return bool(np.array_equal(self.codes(), other.codes()))

    __hash__ = None  # type: ignore[assignment]  # the arrays may change

    def __repr__(self) -> str:
        return (
            f"PixelMatrix({int(self.mask.sum())} masked, {int(self.test.sum())} with test pulses, "
            f"threshold_adjust {int(self.threshold_adjust.min())} to {int(self.threshold_adjust.max())})"
        )


def pack(codes: Codes) -> bytes:
    """6-bit values, a multiple of four, four in three bytes, the first in the high bits."""
    p0, p1, p2, p3 = codes.reshape(-1, 4).T
    packed = np.stack([p0 << 2 | p1 >> 4, (p1 & 0x0F) << 4 | p2 >> 2, (p2 & 0x03) << 6 | p3], axis=1)
    return packed.astype(np.uint8).tobytes()


def unpack(data: bytes) -> Codes:
    """The inverse of `pack`."""
    b0, b1, b2 = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3).T
    codes = np.stack([b0 >> 2, (b0 & 0x03) << 4 | b1 >> 4, (b1 & 0x0F) << 2 | b2 >> 6, b2 & 0x3F], axis=1)
    return codes.reshape(-1).astype(np.uint8)


def decode_upload(first_column: int, data: bytes) -> Codes:
    """Codes [columns, 256] of a SET_PIXCONF message, packed or not. Raises ValueError for what is neither."""
    codes = _upload_codes(data)
    if not 0 <= first_column <= MATRIX_SIDE - len(codes):
        raise ValueError(f"columns {first_column} to {first_column + len(codes) - 1} are outside 0 to 255")
    return codes


def _upload_codes(data: bytes) -> Codes:
    if len(data) in (PACKED_COLUMN_BYTES, PACKED_COLUMN_BYTES * COLUMNS_PER_MESSAGE):
        return unpack(data).reshape(-1, MATRIX_SIDE)
    if len(data) in range(MATRIX_SIDE, 4 * MATRIX_SIDE + 1, MATRIX_SIDE):
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, MATRIX_SIDE) & np.uint8(CODE_MAX)
    raise ValueError(
        f"{len(data)} bytes are no whole columns: packed 192 or 576, unpacked 256, 512, 768 or 1024 bytes are"
    )


def matrix_from_columns(columns: Sequence[bytes]) -> PixelMatrix:
    """From the read-back of all 256 columns. Raises ValueError for another number or length."""
    lengths = {len(column) for column in columns}
    if len(columns) != MATRIX_SIDE or lengths != {MATRIX_SIDE}:
        raise ValueError(f"256 columns of 256 bytes make a matrix, not {len(columns)} of {sorted(lengths)}")
    codes = np.frombuffer(b"".join(columns), dtype=np.uint8).reshape(SHAPE)
    # Bits 6 and 7 of the byte mean nothing.
    return PixelMatrix.from_codes(codes & CODE_MAX)


def encode_ctpr(columns: npt.ArrayLike) -> bytes:
    """The column test-pulse register: column c is bit c % 8 of byte 31 - c // 8 [N]."""
    enabled = np.asarray(columns, dtype=np.bool_)
    if enabled.shape != (MATRIX_SIDE,):
        raise ValueError(f"the column test-pulse register has 256 columns, not {enabled.shape}")
    return np.packbits(enabled, bitorder="little").tobytes()[::-1]


def decode_ctpr(data: bytes) -> npt.NDArray[np.bool_]:
    """The 256 columns of such a register."""
    if len(data) != CTPR_BYTES:
        raise ValueError(f"the column test-pulse register has {CTPR_BYTES} bytes, not {len(data)}")
    return np.unpackbits(np.frombuffer(data[::-1], dtype=np.uint8), bitorder="little").astype(np.bool_)


def _check_shape(name: str, values: npt.NDArray[np.generic]) -> None:
    if values.shape != SHAPE:
        raise ValueError(f"{name} is indexed [column, row] and has the shape {SHAPE}, not {values.shape}")


def _as_bits(name: str, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    array = np.asarray(values)
    _check_shape(name, array)
    return array.astype(np.bool_)


def _as_adjust(values: npt.ArrayLike) -> Codes:
    array = np.asarray(values)
    _check_shape("threshold_adjust", array)
    if int(array.min()) < 0 or int(array.max()) > ADJUST_MAX:
        raise ValueError(f"threshold_adjust is 0 to {ADJUST_MAX} (4 bits), not {array.min()} to {array.max()}")
    return array.astype(np.uint8)
