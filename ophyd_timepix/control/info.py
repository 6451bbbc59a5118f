"""What a board tells about itself: plain records, in SI units or with the unit in the name."""

from dataclasses import dataclass
from typing import ClassVar

from ophyd_timepix.clock import TIMER_BITS
from ophyd_timepix.protocol import TriggerMode


@dataclass(frozen=True)
class ChipInfo:
    """A chip, as found at identification. Masks of links: bit k is link k."""

    index: int
    chip_id: int
    name: str
    enabled_links: int
    locked_links: int
    present: bool
    """It has an id, some links are enabled, and all of these are locked."""

    def __str__(self) -> str:
        if self.present:
            return f"chip {self.index}: {self.name}, {self.locked_links.bit_count()} links"
        return (
            f"chip {self.index}: missing (links enabled 0x{self.enabled_links:02X}, locked 0x{self.locked_links:02X})"
        )


@dataclass(frozen=True, repr=False)
class BoardInfo:
    """A board and its chips."""

    software_version: str
    firmware_version: str
    device_count: int
    """Chips that the board can carry; a SPIDR says 4 also when it carries one."""
    chips: tuple[ChipInfo, ...]

    def __str__(self) -> str:
        chips = ", ".join(str(chip) for chip in self.chips if chip.present) or "no chip with locked links"
        return f"SPIDR board, software {self.software_version}, firmware {self.firmware_version}; {chips}"

    __repr__ = __str__  # it is what a prompt shows after `connect`

    @property
    def present(self) -> tuple[int, ...]:
        """Indices of the chips that are there."""
        return tuple(chip.index for chip in self.chips if chip.present)


@dataclass(frozen=True)
class SentCounters:
    """What the board says it sent since `reset_counters`; never wraps."""

    datagrams: int
    """Of all chips."""
    pixel_words: tuple[int, ...]
    """Of each chip, 0 for a missing one."""
    tdc_triggers: int = 0
    paused_datagrams: int = 0
    """That had to wait because the board's read-out was paused."""


@dataclass(frozen=True)
class TimerReading:
    """A chip's timer in 25 ns counts, and the host's `time.monotonic_ns` before and after."""

    counts: int
    host_before_ns: int
    host_after_ns: int

    @property
    def host_ns(self) -> int:
        """The host time that belongs to it, wrong by at most half of the way there and back."""
        return (self.host_before_ns + self.host_after_ns) // 2

    def went_back_since(self, before: "TimerReading") -> bool:
        """Whether the 48-bit timer was restarted since an earlier reading, as far as the counts alone can tell."""
        return (self.counts - before.counts) % (1 << TIMER_BITS) > 1 << TIMER_BITS - 1


@dataclass(frozen=True)
class TriggerConfig:
    """How the shutter opens."""

    mode: TriggerMode = TriggerMode.AUTO
    length_us: int = 0
    """0: open until stopped."""
    frequency_hz: int = 10
    count: int = 1
    delay_ns: int = 0


@dataclass(frozen=True)
class ShutterTimes:
    """A chip's timer at the last opening and closing of the shutter, in 25 ns counts."""

    opened_counts: int
    closed_counts: int


@dataclass(frozen=True)
class TestPulse:
    """The test pulses of a chip; period and phase in the chip's own units, see `PulseTiming`."""

    period: int = 0
    phase: int = 0
    count: int = 0

    __test__: ClassVar[bool] = False
    """pytest would take the class for a test."""


@dataclass(frozen=True)
class Supply:
    """A supply, measured."""

    volts: float
    amperes: float
    watts: float


@dataclass(frozen=True)
class Supplies:
    """The supplies of the chips."""

    analogue: Supply
    digital: Supply


@dataclass(frozen=True)
class Temperatures:
    """In degC."""

    chip: float
    """The remote sensor."""
    board: float
    fpga: float


@dataclass(frozen=True)
class Environment:
    """Around the board."""

    humidity_percent: int
    pressure_mbar: int
    fans_rpm: tuple[int, int]
    """On the chip board, on the board."""
