"""The 64-bit words of the UDP stream: where each field lies. The one description that decoder and simulator read.

Words are little-endian. Bits 63:60 are the header nibble; for all but pixel words bits 59:56 are a sub-type, so that
the top byte names the word. Sources: [S] SERVAL manual, file formats; [C] Corryvreckan EventLoaderTimepix3; [N] NIKHEF
SPIDR library; [m] measured on recordings.

This module knows no socket, no array and no device.
"""

from enum import IntEnum
from typing import Final, NamedTuple


class Field(NamedTuple):
    """A bit field of a word: `(word >> shift) & mask`."""

    shift: int
    width: int

    @property
    def mask(self) -> int:
        """The field's value mask, at bit 0."""
        return (1 << self.width) - 1

    def get(self, word: int) -> int:
        """The field's value in `word`."""
        return (word >> self.shift) & self.mask

    def put(self, value: int) -> int:
        """The field's contribution to a word. Raises ValueError when `value` does not fit."""
        if not 0 <= value <= self.mask:
            raise ValueError(f"value {value} does not fit in {self.width} bits (0 to {self.mask})")
        return value << self.shift


HEADER: Final = Field(60, 4)
TOP_BYTE: Final = Field(56, 8)

# --- pixel words: header 0xA (sequential read-out) or 0xB (data driven) -----------------------------------------------
PIXEL_SEQUENTIAL: Final = 0xA
PIXEL_DATA_DRIVEN: Final = 0xB

DCOL: Final = Field(53, 7)
"""Double column, 0 to 127."""
SUPER_PIXEL: Final = Field(47, 6)
PIXEL: Final = Field(44, 3)
"""Pixel in the super-pixel, 0 to 7. x = 2 * dcol + pixel // 4, y = 4 * super_pixel + pixel % 4."""
TOA: Final = Field(30, 14)
"""25 ns counts."""
TOT: Final = Field(20, 10)
"""25 ns counts; saturates at 1022 [m]."""
ITOT: Final = Field(30, 14)
"""Of a chip that counts (mode 2 of its GENCONFIG), where others have ToA: sum of its ToT, 25 ns counts."""
EVENTS: Final = Field(20, 10)
"""Of a chip that counts, where others have ToT."""
HIT_COUNT: Final = Field(16, 4)
"""Where others have fToA, as long as the oscillators of the super-pixels are off."""
FTOA: Final = Field(16, 4)
"""1.5625 ns bins, subtracted from ToA."""
SPIDR_TIME: Final = Field(0, 16)
"""16384 counts each: extends ToA to 30 bits."""
TOT_SATURATED: Final = 1022


# --- TDC words --------------------------------------------------------------------------------------------------------
class TdcByte(IntEnum):
    """Top byte of a TDC word [S]."""

    TDC1_RISING = 0x6F
    TDC1_FALLING = 0x6A
    TDC2_RISING = 0x6E
    TDC2_FALLING = 0x6B


TDC_COUNTER: Final = Field(44, 12)
"""Trigger counter, wraps at 4096; one per input, counting both edges [m]."""
TDC_TIME: Final = Field(9, 35)
"""3.125 ns counts."""
TDC_STAMP: Final = Field(5, 4)
"""1 to 12, each 260.4167 ps; 0 and 13 to 15 are invalid."""
TDC_ZERO: Final = Field(0, 5)
"""Must be 0, otherwise the word is rejected [C]."""
TDC_STAMPS: Final = 12

# --- timer words, answers to GET_TIMER in the stream of the chip ------------------------------------------------------
TIMER_LOW_BYTE: Final = 0x44
TIMER_HIGH_BYTE: Final = 0x45
TIMER_LOW: Final = Field(16, 32)
"""Low 32 bits of the 48-bit timer (25 ns)."""
TIMER_HIGH: Final = Field(16, 16)
"""High 16 bits of the 48-bit timer."""
TIMER_NAMES: Final = {
    0x40: "timer reset",
    **dict.fromkeys((0x41, 0x42, 0x43), "timer set"),
    **dict.fromkeys((0x46, 0x47), "time of the shutter's start"),
    **dict.fromkeys((0x48, 0x49), "time of the shutter's end"),
}
"""Other answers of the chip's timer [N]. They say nothing of the present. 0x4A and 0x4F are TDC words in one source
alone, so they count as unknown."""

# --- control words ----------------------------------------------------------------------------------------------------
COMMAND_ACK_BYTE: Final = 0x70
COMMAND_END_BYTE: Final = 0x71
COMMAND_OTHER_CHIP_BYTE: Final = 0x72
COMMAND_WRONG_BYTE: Final = 0x73
CONTROL_CODE: Final = Field(48, 8)
"""The command byte that a 0x71 word echoes."""
CONTROL_CHIP_ID: Final = Field(16, 32)
END_OF_READOUT_SEQUENTIAL: Final = 0xA0
END_OF_READOUT_DATA_DRIVEN: Final = 0xB0

# --- words of the board or of servers behind it [S] -------------------------------------------------------------------
PACKET_ID_BYTE: Final = 0x50
"""Bits 47:0: per-chip packet counter, a sequence number [m]."""
PACKET_ID: Final = Field(0, 48)
SHUTTER_OPEN_BYTE: Final = 0x5F
SHUTTER_CLOSE_BYTE: Final = 0x5A
HEARTBEAT_BYTE: Final = 0x5C
EXTRA_TIMESTAMP_BYTES: Final = (0x51, 0x21)

POWER_PULSE_BYTES: Final = (0x06, 0x07)
"""Marks of power pulsing [C]."""

CONTROL_NAMES: Final = {
    COMMAND_ACK_BYTE: "command acknowledged",
    COMMAND_END_BYTE: "command ended",
    COMMAND_OTHER_CHIP_BYTE: "command to another chip",
    COMMAND_WRONG_BYTE: "wrong command",
    PACKET_ID_BYTE: "packet number",
    SHUTTER_OPEN_BYTE: "shutter open",
    SHUTTER_CLOSE_BYTE: "shutter closed",
    HEARTBEAT_BYTE: "heartbeat",
    **dict.fromkeys(EXTRA_TIMESTAMP_BYTES, "server's time"),
    **dict.fromkeys(POWER_PULSE_BYTES, "power pulse"),
    **TIMER_NAMES,
}
"""Known words that are neither pixel, TDC nor timer, by their top byte: counted as control words."""
CONTROL_BYTES: Final = tuple(CONTROL_NAMES)

COMMAND_NAMES: Final = {
    END_OF_READOUT_SEQUENTIAL: "end of read-out, sequential",
    END_OF_READOUT_DATA_DRIVEN: "end of read-out, data driven",
    0x02: "set DAC",
    0x0C: "test pulse",
    0x0D: "test pulse",
    0x0F: "test pulse",
    0x30: "general configuration",
    0x31: "general configuration",
    0x44: "timer, low",
    0x45: "timer, high",
    0x8F: "load matrix",
    0x9F: "read matrix",
    0xAF: "end of reading the matrix",
    0xBF: "end of reading the matrix",
    0xCF: "test-pulse columns",
    0xEF: "reset sequential read-out",
    0xFF: "stop read-out",
}
"""What a 0x71 word says has ended, by its code [N]."""

# --- the `.tpx3` chunk header [S] -------------------------------------------------------------------------------------
CHUNK_MAGIC: Final = 0x33585054
"""'TPX3' in bits 31:0. Tested before the header nibble: a large chunk's header looks like a pixel word."""
CHUNK_MAGIC_FIELD: Final = Field(0, 32)
CHUNK_CHIP: Final = Field(32, 8)
CHUNK_MODE: Final = Field(40, 8)
CHUNK_BYTES: Final = Field(48, 16)
"""Bytes of words that follow, a multiple of 8."""
CHUNK_MAX_BYTES: Final = 65_528

MATRIX_SIDE: Final = 256
MAX_CHIPS: Final = 4


def chunk_header(chip: int, n_bytes: int) -> int:
    """The word that opens a `.tpx3` chunk of `n_bytes` (a multiple of 8, at most 65,528) of chip `chip`."""
    if n_bytes % 8 or not 0 <= n_bytes <= CHUNK_MAX_BYTES:
        raise ValueError(f"a chunk holds 0 to {CHUNK_MAX_BYTES} bytes in steps of 8, not {n_bytes}")
    return CHUNK_MAGIC | CHUNK_CHIP.put(chip) | CHUNK_BYTES.put(n_bytes)


def pixel_address(x: int, y: int) -> tuple[int, int, int]:
    """(dcol, super_pixel, pixel) of column `x` and row `y`, each 0 to 255."""
    return x >> 1, y >> 2, ((x & 1) << 2) | (y & 3)
