"""From true times and addresses to the 64-bit words of the stream: the exact inverse of what a decoder computes.

A pixel word states `((spidr_time << 14 | toa) * 16 - ftoa + phase[dcol]) * 6` ticks, so that every time on the fToA
grid (6 ticks) has exactly one word. Where the fields lie is read from the table in `ophyd_timepix.protocol.words`.

This module knows no scene, no clock and no socket.
"""

from typing import Final

import numpy as np

from ophyd_timepix.clock import TICKS_PER_COUNT, TICKS_PER_FTOA, TICKS_PER_TDC_COUNT
from ophyd_timepix.protocol import words as w
from spidr_sim.jit import kernel

BINS_PER_COUNT: Final = TICKS_PER_COUNT // TICKS_PER_FTOA
"""fToA bins in 25 ns."""
_BIN_BITS: Final = BINS_PER_COUNT.bit_length() - 1

# Plain numbers for the kernels.
_PIXEL_HEADER: Final = np.uint64(w.PIXEL_DATA_DRIVEN << w.HEADER.shift)
_DCOL: Final = w.DCOL.shift
_SUPER_PIXEL: Final = w.SUPER_PIXEL.shift
_PIXEL: Final = w.PIXEL.shift
_TOA: Final = w.TOA.shift
_TOA_BITS: Final = w.TOA.width
_TOA_MASK: Final = w.TOA.mask
_TOT: Final = w.TOT.shift
_FTOA: Final = w.FTOA.shift
_SPIDR_MASK: Final = w.SPIDR_TIME.mask
_TDC_COUNTER: Final = w.TDC_COUNTER.shift
_TDC_COUNTER_MASK: Final = w.TDC_COUNTER.mask
_TDC_TIME: Final = w.TDC_TIME.shift
_TDC_TIME_MASK: Final = w.TDC_TIME.mask
_TDC_STAMP: Final = w.TDC_STAMP.shift
_TOP_BYTE: Final = w.TOP_BYTE.shift

TDC_BYTES: Final = np.array(
    [
        [w.TdcByte.TDC1_RISING, w.TdcByte.TDC1_FALLING],
        [w.TdcByte.TDC2_RISING, w.TdcByte.TDC2_FALLING],
    ],
    dtype=np.int64,
)
"""Top byte of a TDC word, [input - 1][falling]."""


@kernel
def coarse_of(time_bins: int, phase_bins: int) -> int:
    """The 25 ns count whose clock edge closes the measurement: the first at or after the hit, seen from its column."""
    return (time_bins - phase_bins + BINS_PER_COUNT - 1) >> _BIN_BITS


@kernel
def pixel_word(x: int, y: int, time_bins: int, tot: int, phase_bins: int) -> np.uint64:
    """The word of a hit of pixel (x, y) at `time_bins` fToA bins, in a column with `phase_bins`."""
    coarse = coarse_of(time_bins, phase_bins)
    ftoa = coarse * BINS_PER_COUNT - (time_bins - phase_bins)
    fields = (
        ((x >> 1) << _DCOL)
        | ((y >> 2) << _SUPER_PIXEL)
        | ((((x & 1) << 2) | (y & 3)) << _PIXEL)
        | ((coarse & _TOA_MASK) << _TOA)
        | (tot << _TOT)
        | (ftoa << _FTOA)
        | ((coarse >> _TOA_BITS) & _SPIDR_MASK)
    )
    return np.uint64(fields) | _PIXEL_HEADER


@kernel
def tdc_word(top_byte: int, counter: int, tick: int) -> np.uint64:
    """The word of a TDC edge at `tick` (25/96 ns): 3.125 ns counts and a stamp of 1 to 12."""
    fine_counts = tick // TICKS_PER_TDC_COUNT
    stamp = tick - fine_counts * TICKS_PER_TDC_COUNT + 1
    fields = (
        (top_byte << _TOP_BYTE)
        | ((counter & _TDC_COUNTER_MASK) << _TDC_COUNTER)
        | ((fine_counts & _TDC_TIME_MASK) << _TDC_TIME)
        | (stamp << _TDC_STAMP)
    )
    return np.uint64(fields)


@kernel
def count_word(x: int, y: int, events: int, itot: int, counts: int) -> np.uint64:
    """The word of a pixel that counted: it leaves at `counts`, with the board's stamp of that time."""
    fields = (
        ((x >> 1) << _DCOL)
        | ((y >> 2) << _SUPER_PIXEL)
        | ((((x & 1) << 2) | (y & 3)) << _PIXEL)
        | (itot << _TOA)
        | (events << _TOT)
        | (board_stamp(itot, counts) & _SPIDR_MASK)
    )
    return np.uint64(fields) | _PIXEL_HEADER


@kernel
def board_stamp(toa_field: int, counts: int) -> int:
    """The SPIDR time that the FPGA writes into a word that comes at `counts`.

    It takes bits 43:30 for a ToA, and stamps one less when they are larger than the low 14 bits of its own counter.
    """
    stamp = counts >> _TOA_BITS
    return stamp - 1 if toa_field > counts & _TOA_MASK else stamp


def timer_words(counts: int, chip_id: int) -> tuple[int, int, int, int]:
    """What GET_TIMER leaves in the stream of its chip: timer low, its echo, timer high, its echo."""
    low = w.TOP_BYTE.put(w.TIMER_LOW_BYTE) | w.TIMER_LOW.put(counts & w.TIMER_LOW.mask)
    high = w.TOP_BYTE.put(w.TIMER_HIGH_BYTE) | w.TIMER_HIGH.put((counts >> w.TIMER_LOW.width) & w.TIMER_HIGH.mask)
    return (
        low | _stamped(low, counts),
        control_word(w.TIMER_LOW_BYTE, counts, chip_id),
        high | _stamped(high, counts),
        control_word(w.TIMER_HIGH_BYTE, counts, chip_id),
    )


def control_word(code: int, counts: int, chip_id: int) -> int:
    """The chip's "end of command" echo (0x71) of command byte `code`."""
    word = w.TOP_BYTE.put(w.COMMAND_END_BYTE) | w.CONTROL_CODE.put(code) | w.CONTROL_CHIP_ID.put(chip_id & 0xFFFFFFFF)
    return word | w.SPIDR_TIME.put((counts >> _TOA_BITS) & _SPIDR_MASK)


def end_of_readout_word(counts: int, chip_id: int, *, sequential: bool = False) -> int:
    """0x71B0 or 0x71A0: the chip's matrix is empty after a data-driven or a sequential read-out."""
    code = w.END_OF_READOUT_SEQUENTIAL if sequential else w.END_OF_READOUT_DATA_DRIVEN
    return control_word(code, counts, chip_id)


def _stamped(word: int, counts: int) -> int:
    """The board's stamp in a timer word. Where it looks for a ToA are timer bits: the stamp may be 1 too small."""
    return int(board_stamp(w.TOA.get(word), counts)) & _SPIDR_MASK
