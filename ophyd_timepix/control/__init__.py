"""Talking to a board: a TCP client, and the verbs of the datasheet for board and chip. No ophyd, no data.

`SpidrClient` is the line, `Board` and `Chip` are what is behind it. Every error is a `ControlError` and names the
board, the command, what happened and the way out.
"""

from .board import OPEN_UNTIL_STOPPED, Board
from .chip import DEFAULT_DACS, Chip
from .client import DEFAULT_PORT, DEFAULT_TIMEOUT_S, Answer, SpidrClient
from .errors import (
    BoardError,
    ChipMissing,
    ConnectionLost,
    ControlError,
    LimitError,
    ReadBackError,
    RestoreFailed,
    SpidrClosed,
    SpidrGarbled,
    SpidrRefused,
    SpidrTimeout,
    SpidrUnreachable,
)
from .info import (
    BoardInfo,
    ChipInfo,
    Environment,
    SentCounters,
    ShutterTimes,
    Supplies,
    Supply,
    Temperatures,
    TestPulse,
    TimerReading,
    TriggerConfig,
)
from .poller import Poller, Watch
from .restore import RestoreReport
from .timer_service import Anchor, Drift, TimerJumped, TimerService

__all__ = [
    "DEFAULT_DACS",
    "DEFAULT_PORT",
    "DEFAULT_TIMEOUT_S",
    "OPEN_UNTIL_STOPPED",
    "Anchor",
    "Answer",
    "Board",
    "BoardError",
    "BoardInfo",
    "Chip",
    "ChipInfo",
    "ChipMissing",
    "ConnectionLost",
    "ControlError",
    "Drift",
    "Environment",
    "LimitError",
    "Poller",
    "ReadBackError",
    "RestoreFailed",
    "RestoreReport",
    "SentCounters",
    "ShutterTimes",
    "SpidrClient",
    "SpidrClosed",
    "SpidrGarbled",
    "SpidrRefused",
    "SpidrTimeout",
    "SpidrUnreachable",
    "Supplies",
    "Supply",
    "Temperatures",
    "TestPulse",
    "TimerJumped",
    "TimerReading",
    "TimerService",
    "TriggerConfig",
    "Watch",
]
