"""How the simulated board answers: replies, refusals, and the words that several commands share."""

from collections.abc import Callable
from typing import Final

from ophyd_timepix.protocol import Command, ErrorId, ErrorWord, Reply, Request, StartOptions

WORD: Final = 0xFFFF_FFFF

Handler = Callable[[Request], Reply]
Table = dict[Command, Handler]
"""Who answers which command."""


class Refused(Exception):
    """The board answers with this error word."""

    def __init__(self, error: ErrorId, sub_code: int = 0) -> None:
        super().__init__(error)
        self.word = ErrorWord.of(error, sub_code)


def ack(request: Request) -> Reply:
    """Done."""
    return Reply(request.command, request.device)


def value_of(request: Request, *ints: int) -> Reply:
    """What was asked for."""
    return Reply(request.command, request.device, ints)


def at_most(value: int, limit: int) -> int:
    """The value, if it is not above the limit; else the board refuses."""
    if value > limit:
        raise Refused(ErrorId.ILLEGAL_PARAMETER)
    return value


def time_words(counts: int) -> tuple[int, int]:
    """Low and high word of a 25 ns count."""
    return counts & WORD, counts >> 32 & 0xFFFF


def start_options_of(word: int) -> StartOptions:
    """The options of any word: bits without a meaning are kept in the word alone."""
    return StartOptions(**{field.name: field.get(word) for field in StartOptions.TABLE})
