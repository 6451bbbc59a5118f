"""What goes wrong with triggers, words and datagrams, from the input of the TDC to the receiver's socket.

Places, in the order in which data come by:

=====================  ===========================================================================================
`TriggerFaults`        before the TDC: what the board never saw stands in none of its counters
`LateWords`            between chip and board, which stamps words when they come
`Line`                 the board's own queue (a pause); then the datagram is cut and counted as sent; then the way to
                       the receiver, where it is lost, held up, doubled, damaged
=====================  ===========================================================================================

Everything is counted, and random numbers hang on the seed and on how many came by or were struck before: the same words
and the same faults give the same harm. Each strike is told as a `Strike`. Called by the sending thread alone. Knows no
clock.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from ophyd_timepix.clock import TICKS_PER_COUNT, TICKS_PER_FTOA, TICKS_PER_TDC_COUNT
from ophyd_timepix.protocol import words as w
from spidr_sim.datagrams import WORD_BYTES, DatagramSender
from spidr_sim.encode import board_stamp
from spidr_sim.faults import DataFault, DataFaultName
from spidr_sim.jit import kernel
from spidr_sim.particles import IntArray
from spidr_sim.readout import PIXEL_LATENCY_COUNTS, WordArray
from spidr_sim.rng import key_of, uniform

TRUNCATED_BYTES: Final = 3
FOREIGN_WORDS: Final = 100
STRANGER: Final = "127.0.0.2"
"""Where datagrams of a stranger come from, when the board is on this machine."""
ALL_CHIPS: Final = -1
COUNTS_PER_US: Final = 40
_CHANCE, _RUBBISH, _STRANGE = 64, 65, 66
"""Purposes of random numbers."""

_HEADER: Final = np.uint64(w.HEADER.shift)
_TOP_BYTE: Final = np.uint64(w.TOP_BYTE.shift)
_TDC_NIBBLE: Final = w.TdcByte.TDC1_RISING >> 4
_TDC_TIME, _TDC_BITS, _TDC_MASK = w.TDC_TIME.shift, w.TDC_TIME.width, w.TDC_TIME.mask
_STAMP, _STAMP_MASK = w.TDC_STAMP.shift, w.TDC_STAMP.mask
_DCOL, _DCOL_MASK = w.DCOL.shift, w.DCOL.mask
_FTOA, _FTOA_MASK = w.FTOA.shift, w.FTOA.mask
_TOA, _TOA_BITS, _TOA_MASK = w.TOA.shift, w.TOA.width, w.TOA.mask
_HIT_BITS: Final = w.TOA.width + w.SPIDR_TIME.width
_HIT_MASK: Final = (1 << _HIT_BITS) - 1
_BELOW_HEADER: Final = np.uint64((1 << w.HEADER.shift) - 1)
_TDC_COUNTS: Final = TICKS_PER_COUNT // TICKS_PER_TDC_COUNT
_SPIDR_MASK: Final = np.uint64(w.SPIDR_TIME.mask)


class Held(NamedTuple):
    """What words held. Ticks are those of the timer, with column phases; -1 where no word states a time."""

    words: int = 0
    first_tick: int = -1
    last_tick: int = -1
    hits: int = 0
    edges: int = 0
    datagrams: int = 0
    """0: words that are in none yet, or none at all."""


class Strike(NamedTuple):
    """Harm that was done: a row of the truth."""

    name: str
    chip: int
    """-1: all, or none."""
    datagram: int
    """Number of the datagram since the simulator began, over all chips, from 1; 0: no single one."""
    held: Held
    sent: bytes = b""
    """Words that were altered, as they were, ..."""
    became: bytes = b""
    """... and as they went on."""


OnStrike = Callable[[Strike], None]


@dataclass
class Armed:
    """A fault that counts what comes by."""

    fault: DataFault
    key: np.uint64 = field(default_factory=lambda: np.uint64(0))
    seen: int = 0
    struck: int = 0

    def due(self) -> bool:
        """Count one more; whether its turn has come."""
        self.seen += 1
        match self.fault.name:
            case DataFaultName.DROP_AT:
                return self.seen >= self.fault.value
            case DataFaultName.DROP_RANDOM:
                return bool(uniform(self.key, self.seen) < self.fault.value)
        return self.seen % int(self.fault.value) == 0

    def run(self, most: int) -> int:
        """How many of the next `most` it lets pass before its turn comes."""
        match self.fault.name:
            case DataFaultName.DROP_AT:
                return min(most, max(0, int(self.fault.value) - 1 - self.seen))
            case DataFaultName.DROP_RANDOM:
                return int(spared(self.key, self.seen, most, self.fault.value))
        every = int(self.fault.value)
        return min(most, every - 1 - self.seen % every)

    @property
    def spent(self) -> bool:
        """Whether it has struck as often as it should."""
        return 0 < self.fault.times <= self.struck


@kernel
def spared(key: np.uint64, seen: int, most: int, probability: float) -> int:
    """How many of `most` draws after the first `seen` are not below `probability`, before the first that is."""
    n = 0
    while n < most and uniform(key, seen + n + 1) >= probability:
        n += 1
    return n


def striking(armed: list[Armed], without: DataFaultName | None = None) -> Armed | None:
    """Let all count; the first whose turn has come strikes, and goes when it is spent. One loses its turn."""
    due = [one for one in armed if one.due() and one.fault.name is not without]
    if not due:
        return None
    due[0].struck += 1
    if due[0].spent:
        armed.remove(due[0])
    return due[0]


# --- what words say ---------------------------------------------------------------------------------------------------
class Survey:
    """Says what words held. `phase_bins` of each chip are fToA bins, [chip, double column]."""

    def __init__(self, n_chips: int) -> None:
        self.phase_bins: IntArray = np.zeros((n_chips, 1 << w.DCOL.width), np.int64)

    def of(self, chip: int, words: WordArray, present_counts: int, datagrams: int = 0) -> Held:
        """Times are those nearest to `present_counts`."""
        first, last, hits, edges = survey(words, self.phase_bins[chip], present_counts)
        return Held(words.size, first, last, hits, edges, datagrams)


@kernel
def survey(words: WordArray, phase_bins: IntArray, present_counts: int) -> tuple[int, int, int, int]:
    """(first tick, last tick, hits, edges) of words."""
    first, last, hits, edges = -1, -1, 0, 0
    for i in range(words.size):
        word = int(words[i] & _BELOW_HEADER)
        nibble = words[i] >> _HEADER
        if nibble == w.PIXEL_DATA_DRIVEN or nibble == w.PIXEL_SEQUENTIAL:
            coarse = ((word & int(_SPIDR_MASK)) << _TOA_BITS) | ((word >> _TOA) & _TOA_MASK)
            counts = _near(coarse, present_counts, _HIT_BITS)
            fine = phase_bins[(word >> _DCOL) & _DCOL_MASK] - ((word >> _FTOA) & _FTOA_MASK)
            tick = counts * TICKS_PER_COUNT + fine * TICKS_PER_FTOA
            hits += 1
        elif nibble == _TDC_NIBBLE:
            tdc_counts = _near((word >> _TDC_TIME) & _TDC_MASK, present_counts * _TDC_COUNTS, _TDC_BITS)
            tick = tdc_counts * TICKS_PER_TDC_COUNT + ((word >> _STAMP) & _STAMP_MASK) - 1
            edges += 1
        else:
            continue
        first = tick if first < 0 else min(first, tick)
        last = max(last, tick)
    return first, last, hits, edges


@kernel
def _near(value: int, reference: int, bits: int) -> int:
    """The number nearest to `reference` that ends in the `bits` of `value`."""
    half = 1 << (bits - 1)
    return reference + ((value - reference + half) & ((1 << bits) - 1)) - half


# --- before the TDC ---------------------------------------------------------------------------------------------------
_INPUT, _FALLING, _COUNTER, _TICK = range(4)
_COUNTERS: Final = 1 << w.TDC_COUNTER.width


class TriggerFaults:
    """Pulses on TDC input 1 that do not come, or come twice. A source lets its edges go through here.

    The counter in the words counts what came. An echo begins half a pulse after the pulse and is half as long.
    """

    def __init__(self, on_strike: OnStrike = lambda strike: None) -> None:
        self.armed: list[Armed] = []
        self._on_strike = on_strike
        self._shift = 0
        """What the counter is ahead of that of the pulses."""
        self._missing = -1
        self._echoed = (-1, 0)
        """Pulse and rising tick."""
        self._waiting: list[Sequence[int]] = []

    def restart(self) -> None:
        """Counters begin anew, with the timers."""
        self._shift = 0

    def open(self) -> None:
        """The gate opens: pulses and echoes of before are over."""
        self._waiting.clear()
        self._missing = -1
        self._echoed = (-1, 0)

    def spoil(self, edges: IntArray, stop_tick: int) -> IntArray:
        """Rows (input, falling, counter, tick) as the TDC takes them before `stop_tick`, where `edges` came."""
        if not (self.armed or self._shift or self._waiting):
            return edges
        rows = self._waiting
        for row in edges.tolist():
            rows += [row] if row[_INPUT] != 1 else self._taken(row)
        self._waiting = [row for row in rows if row[_TICK] >= stop_tick]
        taken = sorted((row for row in rows if row[_TICK] < stop_tick), key=lambda row: row[_TICK])
        return np.array(taken, np.int64).reshape(-1, 4)

    def _taken(self, row: Sequence[int]) -> list[Sequence[int]]:
        """The edges that come of an edge on input 1."""
        _, falling, counter, tick = row
        pulse = counter >> 1
        if not falling:
            self._strike(pulse, tick)
        counted = (1, falling, (counter + self._shift) % _COUNTERS, tick)
        if pulse == self._missing:
            if falling:
                self._shift -= 2
                self._missing = -1
            return []
        if falling and pulse == self._echoed[0]:
            return [counted, *self._echo(counter, tick)]
        return [counted]

    def _echo(self, counter: int, fall_tick: int) -> list[Sequence[int]]:
        width = fall_tick - self._echoed[1]
        self._echoed = (-1, 0)
        first = counter + self._shift + 1
        self._shift += 2
        ticks = (fall_tick + width // 2, fall_tick + width)
        return [(1, number, (first + number) % _COUNTERS, tick) for number, tick in enumerate(ticks)]

    def _strike(self, pulse: int, tick: int) -> None:
        struck = striking(self.armed)
        if struck is None:
            return
        if struck.fault.name is DataFaultName.MISS_TRIGGER:
            self._missing = pulse
        else:
            self._echoed = (pulse, tick)
        self._on_strike(Strike(struck.fault.name.text, ALL_CHIPS, 0, Held(0, tick, tick, 0, 2)))


# --- between chip and board -------------------------------------------------------------------------------------------
class LateWords:
    """Pixel words of one chip that reach the board much later than they should.

    The board stamps a word when it comes, with the 16 bits above the ToA. More than the wrap of the ToA late (409.6 us)
    its stamp is one too large, and nobody can tell from the word.
    """

    def __init__(self) -> None:
        self.latency_counts = 0
        self.left = 0
        """Words that are still to be late; below 0: all that come."""
        self._words = np.empty(0, np.uint64)
        self._due = np.empty(0, np.int64)
        self._newest = np.full(1, -1, np.int64)

    def begin(self, latency_counts: int, words: int) -> None:
        """So many words that come from now on shall be late (below 0: all). What came before plays no part: the timers
        may have been restarted.
        """
        self.latency_counts, self.left = latency_counts, words
        if not self._words.size:
            self._newest[0] = -1

    @property
    def active(self) -> bool:
        """Whether words are held, or shall be."""
        return bool(self.left or self._words.size)

    def pass_on(self, words: WordArray) -> tuple[WordArray, WordArray, WordArray]:
        """(what leaves now, what was held back of `words`, and as what it will leave)."""
        n = self._words.size
        room = n + words.size
        held_words, held_due, out = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.uint64)
        held_words[:n], held_due[:n] = self._words, self._due
        taken = np.empty(words.size, np.uint64)
        first, last, n_out, n_taken = hold_back(
            words, self.latency_counts, self.left, self._newest, held_words, held_due, n, out, taken
        )
        self._words, self._due = held_words[first:last], held_due[first:last]
        self.left -= n_taken if self.left > 0 else 0
        return out[:n_out], taken[:n_taken], held_words[n:last]

    def flush(self) -> WordArray:
        """What is held leaves."""
        words, self._words, self._due = self._words, self._words[:0], self._due[:0]
        self._newest[0] = -1
        return words


@kernel
def hold_back(
    words: WordArray,
    latency_counts: int,
    left: int,
    newest: IntArray,
    held_words: WordArray,
    held_due: IntArray,
    n_held: int,
    out: WordArray,
    taken: WordArray,
) -> tuple[int, int, int, int]:
    """Hold the next `left` (below 0: all) pixel words back until hits `latency_counts` newer come, stamped anew.

    `held` [0, n_held) waits; returns (first, last of what waits now, words in `out`, words in `taken` as they were).
    """
    first, last, n_out, n_taken = 0, n_held, 0, 0
    for i in range(words.size):
        word = words[i]
        is_pixel = word >> _HEADER == w.PIXEL_DATA_DRIVEN
        if is_pixel:
            toa = int(word >> np.uint64(_TOA)) & _TOA_MASK
            coarse = int((word & _SPIDR_MASK) << np.uint64(_TOA_BITS)) | toa
            if newest[0] < 0 or _after(coarse, newest[0]) > 0:
                newest[0] = coarse
        while first < last and _after(newest[0], held_due[first]) >= 0:
            out[n_out] = held_words[first]
            n_out += 1
            first += 1
        if is_pixel and n_taken != left:
            arrival = newest[0] + latency_counts
            taken[n_taken] = word
            n_taken += 1
            held_due[last] = arrival & _HIT_MASK
            stamp = np.uint64(board_stamp(toa, arrival + PIXEL_LATENCY_COUNTS)) & _SPIDR_MASK
            held_words[last] = (word & ~_SPIDR_MASK) | stamp
            last += 1
        else:
            out[n_out] = word
            n_out += 1
    return first, last, n_out, n_taken


@kernel
def _after(a: int, b: int) -> int:
    """How much later `a` is than `b`, both modulo 2**30."""
    half = (_HIT_MASK + 1) >> 1
    return ((a - b + half) & _HIT_MASK) - half


# --- from the board to the receiver -----------------------------------------------------------------------------------
@dataclass
class _Hold:
    """What waits, until `end_s`."""

    fault: DataFault
    armed: int = 0
    """How often it is still to begin; -1: always."""
    end_s: float | None = None
    waiting: deque[tuple[int, bytes, Held]] = field(default_factory=deque)

    def takes(self, now_s: float) -> bool:
        """Whether something that comes now has to wait."""
        if self.end_s is None and self.armed:
            self.armed -= self.armed > 0
            self.end_s = now_s + self.fault.value
        return self.end_s is not None


class Line:
    """Cuts words into datagrams and sends them, with all that may happen to them.

    `sent` counts what left the board, `paused` what waited there for the end of a pause. `seconds` is a clock.
    """

    def __init__(
        self,
        senders: Sequence[DatagramSender],
        host: str,
        seed: int,
        seconds: Callable[[], float],
        on_strike: OnStrike = lambda strike: None,
    ) -> None:
        self.sent = 0
        self.paused = 0
        self.survey = Survey(len(senders))
        self._senders = senders
        self._host = host
        self._seed = seed
        self._seconds = seconds
        self._on_strike = on_strike
        self._present = 0
        self._nth = 0
        """How often the fault that strikes has struck."""
        self._armed: list[Armed] = []
        self._n_armed = 0
        self._pause: _Hold | None = None
        self._burst: _Hold | None = None
        self._behind: dict[int, bytes] = {}
        """The datagram of a chip that comes after its next one."""
        self._stranger: DatagramSender | None = None
        self._harms: dict[DataFaultName, Callable[[int, bytes], None]] = {
            DataFaultName.DROP: lambda chip, payload: None,
            DataFaultName.DROP_AT: lambda chip, payload: None,
            DataFaultName.DROP_RANDOM: lambda chip, payload: None,
            DataFaultName.REORDER: self._fall_behind,
            DataFaultName.DUPLICATE: self._double,
            DataFaultName.TRUNCATE: lambda chip, payload: self._carry(chip, payload[:-TRUNCATED_BYTES]),
            DataFaultName.CORRUPT: lambda chip, payload: self._carry(chip, self._rubbish(_RUBBISH, len(payload))),
            DataFaultName.FOREIGN: self._let_stranger_send,
        }

    def arm(self, fault: DataFault) -> None:
        """Let it happen to what is cut from now on."""
        if fault.name is DataFaultName.PAUSE:
            self._pause = _Hold(fault, fault.times or -1)
        elif fault.name is DataFaultName.BURST:
            self._burst = _Hold(fault, fault.times or -1)
        else:
            self._n_armed += 1
            self._armed.append(Armed(fault, np.uint64(key_of(self._seed, self._n_armed, 0, _CHANCE))))

    def clear(self) -> None:
        """Nothing happens any more; what waits leaves."""
        self._armed.clear()
        self.flush()

    def close(self) -> None:
        """The stranger goes."""
        if self._stranger is not None:
            self._stranger.close()

    def send(self, chip: int, words: WordArray, present_counts: int) -> int:
        """Words of a chip are to leave; the number of datagrams they take. `present_counts`: the timer, nearly."""
        self._present = present_counts
        sender = self._senders[chip]
        if not (self._armed or self._pause or self._burst or self._behind):
            n = sender.send(words)
            self.sent += n
            return n
        payloads = sender.cut(words)
        size, done = payloads[0].size, 0
        while done < len(payloads):
            run = self._run(len(payloads) - done)
            if run:
                sender.send(words[done * size : (done + run) * size])
            else:
                self._queue(chip, payloads[done].tobytes())
            done += max(run, 1)
        return len(payloads)

    def _run(self, most: int) -> int:
        """How many of the next `most` datagrams nothing happens to; they count as sent from now on."""
        if self._pause or self._burst or self._behind:
            return 0
        run = min((one.run(most) for one in self._armed), default=most)
        for one in self._armed:
            one.seen += run
        self.sent += run
        return run

    @property
    def due_s(self) -> float | None:
        """When something that waits leaves."""
        ends = [hold.end_s for hold in (self._pause, self._burst) if hold is not None and hold.end_s is not None]
        return min(ends, default=None)

    def release(self) -> None:
        """What has waited long enough leaves."""
        now_s = self._seconds()
        if self._pause is not None and self._pause.end_s is not None and self._pause.end_s <= now_s:
            self._end_pause(self._pause)
        if self._burst is not None and self._burst.end_s is not None and self._burst.end_s <= now_s:
            self._end_burst(self._burst)

    def flush(self) -> None:
        """Pauses and bursts are over, what waits leaves."""
        if self._pause is not None:
            self._pause.armed = 0
            self._end_pause(self._pause)
        if self._burst is not None:
            self._burst.armed = 0
            self._end_burst(self._burst)
        for chip in list(self._behind):
            self._catch_up(chip)

    # --- the board ----------------------------------------------------------------------------------------------------
    def _queue(self, chip: int, payload: bytes) -> None:
        if self._pause is not None and self._pause.takes(self._seconds()):
            self.paused += 1
            self._pause.waiting.append((chip, payload, self._held(chip, payload)))
        else:
            self._leave(chip, payload)

    def _end_pause(self, pause: _Hold) -> None:
        pause.end_s = None
        if not pause.armed:
            self._pause = None
        self._tell_hold(pause)
        for chip, payload, _ in pause.waiting:
            self._leave(chip, payload)
        pause.waiting.clear()

    def _leave(self, chip: int, payload: bytes) -> None:
        self.sent += 1
        # What is to be overtaken waits for the next that is not.
        struck = striking(self._armed, DataFaultName.REORDER if chip in self._behind else None)
        if struck is None:
            self._carry(chip, payload)
        else:
            self._nth = struck.struck
            self._tell(struck.fault.name, chip, payload)
            self._harms[struck.fault.name](chip, payload)

    # --- the way ------------------------------------------------------------------------------------------------------
    def _carry(self, chip: int, payload: bytes) -> None:
        self._arrive(chip, payload)
        if chip in self._behind:
            self._catch_up(chip)

    def _arrive(self, chip: int, payload: bytes) -> None:
        if self._burst is not None and self._burst.takes(self._seconds()):
            self._burst.waiting.append((chip, payload, self._held(chip, payload)))
        else:
            self._senders[chip].send_datagram(payload)

    def _end_burst(self, burst: _Hold) -> None:
        burst.end_s = None
        if not burst.armed:
            self._burst = None
        self._tell_hold(burst)
        for chip, payload, _ in burst.waiting:
            self._senders[chip].send_datagram(payload)
        burst.waiting.clear()

    def _fall_behind(self, chip: int, payload: bytes) -> None:
        self._behind[chip] = payload

    def _catch_up(self, chip: int) -> None:
        self._arrive(chip, self._behind.pop(chip))

    def _double(self, chip: int, payload: bytes) -> None:
        self._arrive(chip, payload)
        self._carry(chip, payload)

    def _let_stranger_send(self, chip: int, payload: bytes) -> None:
        self._carry(chip, payload)
        if self._stranger is None:
            self._stranger = DatagramSender(STRANGER if self._host.startswith("127.") else self._host)
        self._stranger.set_destination(*self._senders[chip].destination)
        pixels = np.frombuffer(self._rubbish(_STRANGE, FOREIGN_WORDS * WORD_BYTES), np.uint64)
        pixels = pixels >> np.uint64(4) | np.uint64(w.PIXEL_DATA_DRIVEN << w.HEADER.shift)
        self._stranger.send_datagram(pixels.tobytes())

    def _rubbish(self, purpose: int, n_bytes: int) -> bytes:
        return np.random.default_rng([self._seed, purpose, self._nth]).bytes(n_bytes)

    # --- what is told -------------------------------------------------------------------------------------------------
    def _held(self, chip: int, payload: bytes) -> Held:
        whole = len(payload) // WORD_BYTES * WORD_BYTES
        return self.survey.of(chip, np.frombuffer(payload[:whole], np.uint64), self._present, datagrams=1)

    def _tell(self, name: DataFaultName, chip: int, payload: bytes) -> None:
        altered = (payload, self._rubbish(_RUBBISH, len(payload))) if name is DataFaultName.CORRUPT else (b"", b"")
        self._on_strike(Strike(name.text, chip, self.sent, self._held(chip, payload), *altered))

    def _tell_hold(self, hold: _Hold) -> None:
        by_chip: dict[int, list[Held]] = {}
        for chip, _, held in hold.waiting:
            by_chip.setdefault(chip, []).append(held)
        for chip, parts in by_chip.items():
            self._on_strike(Strike(hold.fault.name.text, chip, 0, together(parts)))


def together(parts: Sequence[Held]) -> Held:
    """What several datagrams held."""
    return Held(
        words=sum(part.words for part in parts),
        first_tick=min((part.first_tick for part in parts if part.first_tick >= 0), default=-1),
        last_tick=max((part.last_tick for part in parts), default=-1),
        hits=sum(part.hits for part in parts),
        edges=sum(part.edges for part in parts),
        datagrams=sum(part.datagrams for part in parts),
    )


_NO_WORDS: Final[WordArray] = np.empty(0, np.uint64)


# --- all of them ------------------------------------------------------------------------------------------------------
class DataFaults:
    """All that may go wrong with the data of a board, for its data side. `strikes` are those not yet told."""

    def __init__(self, senders: Sequence[DatagramSender], host: str, seed: int, seconds: Callable[[], float]) -> None:
        self.strikes: list[Strike] = []
        self.triggers = TriggerFaults(self.strikes.append)
        self.line = Line(senders, host, seed, seconds, self.strikes.append)
        self._late = [LateWords() for _ in senders]
        self._no_timer: DataFault | None = None
        self._timers_lost = 0
        self.edges_always = False
        """Edges come while the shutter is closed, too."""
        self._stale = 0
        """So many words of each chip stay on the board."""
        self._kept = [_NO_WORDS for _ in senders]
        self._arms: dict[DataFaultName, Callable[[DataFault], None]] = {
            DataFaultName.MISS_TRIGGER: self._arm_trigger,
            DataFaultName.DOUBLE_TRIGGER: self._arm_trigger,
            DataFaultName.LATE: self._arm_late,
            DataFaultName.LOST_TIMER: self._arm_timer,
            DataFaultName.EDGES_ALWAYS: self._arm_edges,
            DataFaultName.STALE: self._arm_stale,
        }

    def arm(self, fault: DataFault) -> None:
        """Let it happen to what comes from now on."""
        self._arms.get(fault.name, self.line.arm)(fault)

    def clear(self, present_counts: int) -> int:
        """Nothing happens any more; what waits leaves. Returns the number of datagrams that this took."""
        self.triggers.armed.clear()
        self._no_timer = None
        self.edges_always = False
        self._stale = 0
        self._kept = [_NO_WORDS for _ in self._late]
        for late in self._late:
            late.left = 0
        self.line.clear()
        return self.flush(present_counts)

    def send(self, chip: int, words: WordArray, present_counts: int) -> int:
        """Words of a chip are to leave; the number of datagrams they take."""
        late = self._late[chip]
        if late.active:
            words, taken, late_words = late.pass_on(words)
            if taken.size:
                held = self.line.survey.of(chip, taken, present_counts)
                altered = (taken.tobytes(), late_words.tobytes())
                self.strikes.append(Strike(DataFaultName.LATE.text, chip, 0, held, *altered))
        return self.line.send(chip, words, present_counts) if words.size else 0

    def flush(self, present_counts: int) -> int:
        """Late words leave; the number of datagrams they take."""
        left = [(chip, late.flush()) for chip, late in enumerate(self._late) if late.active]
        return sum(self.line.send(chip, words, present_counts) for chip, words in left if words.size)

    def keep(self, chip: int, words: WordArray) -> WordArray:
        """What leaves now of what the chip measured: the last words may stay on the board."""
        if not self._stale:
            return words
        waiting = np.concatenate([self._kept[chip], words])
        self._kept[chip] = waiting[-self._stale :].copy()
        return waiting[: -self._stale]

    def open(self, present_counts: int) -> int:
        """The gate opens: what stayed on the board leaves first. Returns the number of datagrams that this took."""
        datagrams = 0
        for chip, words in enumerate(self._kept):
            if words.size:
                self._kept[chip] = _NO_WORDS
                held = self.line.survey.of(chip, words, present_counts)
                self.strikes.append(Strike(DataFaultName.STALE.text, chip, 0, held))
                datagrams += self.line.send(chip, words, present_counts)
        return datagrams

    def went_on(self, edges: IntArray) -> None:
        """Rows (input, falling, counter, tick) of edges are sent though the shutter is closed."""
        ticks = edges[:, _TICK]
        held = Held(len(edges), int(ticks.min()), int(ticks.max()), 0, len(edges))
        self.strikes.append(Strike(DataFaultName.EDGES_ALWAYS.text, ALL_CHIPS, 0, held))

    def timer_is_lost(self, chip: int) -> bool:
        """Whether the words of an answer to GET_TIMER get lost in the chip."""
        fault = self._no_timer
        if fault is None:
            return False
        self._timers_lost += 1
        if 0 < fault.times <= self._timers_lost:
            self._no_timer = None
        self.strikes.append(Strike(fault.name.text, chip, 0, Held()))
        return True

    def _arm_trigger(self, fault: DataFault) -> None:
        self.triggers.armed.append(Armed(fault))

    def _arm_late(self, fault: DataFault) -> None:
        for late in self._late:
            late.begin(round(fault.value * COUNTS_PER_US), fault.times or -1)

    def _arm_edges(self, fault: DataFault) -> None:
        self.edges_always = True

    def _arm_stale(self, fault: DataFault) -> None:
        self._stale = int(fault.value)

    def _arm_timer(self, fault: DataFault) -> None:
        self._no_timer, self._timers_lost = fault, 0


def compile_kernels() -> None:
    """So that the first strike of a fault does not wait for it."""
    late = LateWords()
    late.left = 1
    late.pass_on(np.zeros(1, np.uint64))
    Survey(1).of(0, np.zeros(1, np.uint64), 0)
