"""What a board is set to and measures, for a look at it; and a way to leave it as it was found."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ophyd_timepix.clock import NS_PER_COUNT
from ophyd_timepix.protocol import GeneralConfig, PllConfig, Quantity
from ophyd_timepix.protocol.chip_config import column_phase

from .board import Board
from .chip import Chip
from .errors import BoardError, LimitError
from .info import BoardInfo, TimerReading
from .timer_service import Drift

READINGS: Final = 16
"""Of the timer; the quickest of them counts."""
_PPM: Final = 1e-6
_TEMPERATURES: Final = (Quantity.CHIP_TEMPERATURE, Quantity.BOARD_TEMPERATURE, Quantity.FPGA_TEMPERATURE)


@dataclass(frozen=True)
class ChipState:
    """One chip that is there."""

    index: int
    general: GeneralConfig
    pll: PllConfig
    phase_unknown: str
    """Why no one can say what to add to the times of its columns; empty: it is known."""
    masked: int
    """Pixels."""
    destination: tuple[str, int]
    source: tuple[str, int]


@dataclass(frozen=True)
class BoardState:
    """A board as found."""

    info: BoardInfo
    external_clock: bool
    tdc_word: int
    bias_v: float | None
    """Measured; None: its sensor failed."""
    temperatures: dict[str, float | None]
    """In degC, by what was measured."""
    chips: tuple[ChipState, ...]


def inspect(board: Board) -> BoardState:
    """Ask for all of it. Changes nothing."""
    info = board.identify()
    return BoardState(
        info,
        board.external_clock(),
        board.tdc_control(),
        _measured(board, Quantity.BIAS),
        {quantity.meaning: _measured(board, quantity) for quantity in _TEMPERATURES},
        tuple(_chip_state(board.chip(index)) for index in info.present),
    )


def _measured(board: Board, quantity: Quantity) -> float | None:
    """None where the board says that a sensor of its own failed: read-out works without."""
    try:
        return board.measure(quantity)
    except BoardError:
        return None


def _chip_state(chip: Chip) -> ChipState:
    pll = chip.pll_config()
    return ChipState(
        chip.index,
        chip.general_config(),
        pll,
        _phase_unknown(pll if pll.run else PllConfig()),  # one that does not run gets this word before each run
        int(chip.read_matrix().mask.sum()),
        chip.destination(),
        chip.source(),
    )


def _phase_unknown(pll: PllConfig) -> str:
    try:
        column_phase(pll)
    except ValueError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def as_found(board: Board) -> Iterator[None]:
    """Read-out may be prepared and the shutter moved within; afterwards the settings are those from before.

    The read-out itself is off then: whether it was on, no board can be asked.
    """
    chips = board.present_chips()
    # Said to be chosen: preparing the read-out keeps what was chosen and sets what was not.
    board.set_external_clock(board.external_clock())
    board.set_tdc_control(board.tdc_control())
    decoders, trigger = board.decoders_enabled(), board.trigger()
    before = [(c, c.general_config(), c.pll_config(), c.header_filter(), c.destination()) for c in chips]
    try:
        yield
    finally:
        board.close_shutter()
        board.pause_readout()
        if board.trigger() != trigger:
            board.set_trigger(trigger)
        if board.decoders_enabled() != decoders:
            board.enable_decoders(decoders)
        for chip, general, pll, (eth, cpu), destination in before:
            with contextlib.suppress(LimitError):  # never set: what a board says then cannot be set
                chip.set_destination(*destination)
            chip.set_header_filter(eth, cpu)
            for now, then, put in (
                (chip.general_config(), general, chip.set_general_config),
                (chip.pll_config(), pll, chip.set_pll_config),
            ):
                if now != then:
                    put(then)


def best_reading(board: Board, chip: int, readings: int = READINGS) -> TimerReading:
    """The timer of a chip, from the quickest of some readings."""
    return min((board.chip(chip).timer() for _ in range(readings)), key=_trip_ns)


def drift_between(first: TimerReading, last: TimerReading) -> Drift | None:
    """How the board's clock runs by the host's. None: its timer stood still, or was restarted in between."""
    counted_ns = (last.counts - first.counts) * NS_PER_COUNT
    if counted_ns <= 0:
        return None
    host_ns = last.host_ns - first.host_ns
    uncertain_ns = (_trip_ns(first) + _trip_ns(last)) / 2
    return Drift((host_ns - counted_ns) / counted_ns / _PPM, uncertain_ns / counted_ns / _PPM)


def _trip_ns(reading: TimerReading) -> int:
    return reading.host_after_ns - reading.host_before_ns
