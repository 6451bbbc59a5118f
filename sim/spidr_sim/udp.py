"""The data side of the board: one thread that paces a source of words by the virtual clock and sends them over UDP.

States: *gate open* while the shutter is open and the read-out runs, else *silent*. What the board tells (`Streams`)
is done by the sending thread in the order told, each at its own count of the clock. When the shutter closes, what is
late still leaves, the truth is on disk, and then each chip says 0x71B0 (0x71A0 when its matrix was read sequentially).
A sender that cannot keep up holds the clock back; it never skips.

It knows no command and no scene.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from ophyd_timepix.clock import NS_PER_COUNT
from ophyd_timepix.protocol import column_phase
from ophyd_timepix.protocol.words import HEADER
from spidr_sim.clock import VirtualClock
from spidr_sim.data_faults import DataFaults
from spidr_sim.datagrams import DEFAULT_DATAGRAM_BYTES, DatagramSender, words_per_datagram
from spidr_sim.encode import end_of_readout_word, timer_words
from spidr_sim.faults import DataFault
from spidr_sim.scenes import SLICE_COUNTS
from spidr_sim.settings import ALL_PASS, BiasRamp, ChipSettings, Readout
from spidr_sim.source import Departures, Source
from spidr_sim.streams import StreamCounters
from spidr_sim.truth import Truth, TruthError

log = logging.getLogger(__name__)

LAG_ALLOWED_COUNTS: Final = 800_000
"""20 ms: the clock runs at most this far ahead of what has been sent."""
SLIP_WORTH_A_WARNING_S: Final = 0.25
_COUNTS_PER_SECOND: Final = 1_000_000_000 // NS_PER_COUNT
_ORDER_POLL_S: Final = 0.1
"""How often a reader of counters looks whether the sending thread still lives."""


class _Totals:
    """Running totals and where they stood at the last reset. Read and reset from another thread."""

    def __init__(self, n_chips: int) -> None:
        self._lock = threading.Lock()
        self._now = np.zeros(3 + n_chips, np.int64)
        self._base = self._now.copy()

    def add(self, pixel_words: Sequence[int], edges: int) -> None:
        with self._lock:
            self._now += (0, 0, edges, *pixel_words)

    def datagrams(self, sent: int, paused: int) -> None:
        """So many in all."""
        with self._lock:
            self._now[:2] = sent, paused

    def since_reset(self) -> StreamCounters:
        with self._lock:
            sent, paused, edges, *pixel_words = (self._now - self._base).tolist()
        return StreamCounters(sent, tuple(pixel_words), edges, paused)

    def reset(self) -> None:
        with self._lock:
            self._base = self._now.copy()


class UdpStreams:
    """Implements `Streams`. `start()` before use, `close()` at the end; `failure` says why the thread ended early."""

    def __init__(
        self,
        source: Source,
        clock: VirtualClock,
        *,
        host: str = "127.0.0.1",
        chip_ids: Sequence[int],
        datagram_bytes: int = DEFAULT_DATAGRAM_BYTES,
        truth: Truth | None = None,
        seed: int = 0,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.failure: BaseException | None = None
        self._source = source
        self._clock = clock
        self._chip_ids = tuple(chip_ids)
        self._senders = [DatagramSender(host, datagram_bytes) for _ in self._chip_ids]
        self._faults = DataFaults(self._senders, host, seed, clock.seconds)
        source.trigger_faults = self._faults.triggers
        source.datagram_words = words_per_datagram(datagram_bytes)
        self._truth = truth
        self._on_failure = on_failure
        self._totals = _Totals(len(self._chip_ids))
        self._tasks: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="udp-sender", daemon=True)
        # Only the sending thread touches what follows.
        self._shutter = False
        self._shutter_counts = 0
        self._readout = Readout.OFF
        self._masks = [ALL_PASS] * len(self._chip_ids)
        self._alive = [True] * len(self._chip_ids)
        self._gate = False
        self._epoch = 0
        self._zero_s = 0.0
        self._sent_counts = 0
        self._idle_counts = 0
        """Up to here edges have been sent while the gate was closed, where they are."""
        self._slip_at_warning = 0.0

    # --- what the board calls -----------------------------------------------------------------------------------------
    def shutter(self, is_open: bool, at_counts: int) -> None:
        """The shutter opened or closed."""
        self._post(partial(self._set_shutter, is_open, at_counts))

    def readout(self, mode: Readout) -> None:
        """A read-out was started, or paused."""
        with self._clock.lock:
            self._post(partial(self._set_readout, mode, self._clock.counts()))

    def timer_request(self, chip: int, at_counts: int) -> None:
        """The chip answers GET_TIMER in its stream too."""
        self._post(partial(self._answer_timer, chip, at_counts))

    def timers_restarted(self, at_counts_before: int, at_counts_now: int = 0) -> None:
        """A new timer epoch begins."""
        zero_s = self._clock.seconds_at_zero()
        self._post(partial(self._restart_epoch, at_counts_before, at_counts_now, zero_s))

    def destination(self, chip: int, address: str, port: int) -> None:
        """Datagrams of `chip` go to `address`:`port` from now on."""
        self._post(partial(self._senders[chip].set_destination, address, port))

    def chip(self, chip: int, settings: ChipSettings) -> None:
        """All settings of `chip`. Raises ValueError for a PLL word whose column phases are not known."""
        column_phase(settings.pll)
        with self._clock.lock:
            self._post(partial(self._set_chip, chip, settings, self._clock.counts()))

    def bias(self, ramp: BiasRamp) -> None:
        """The bias of the sensor is on its way to another voltage."""
        self._post(partial(self._source.set_bias, ramp))

    def header_filter(self, chip: int, eth_mask: int) -> None:
        """Which words of `chip` leave by UDP."""
        with self._clock.lock:
            self._post(partial(self._set_filter, chip, eth_mask, self._clock.counts()))

    def fault(self, fault: DataFault) -> None:
        """Let it happen to what leaves from now on: counting begins with the next pulse, word, datagram."""
        self._post(partial(self._arm, fault))

    def clear_faults(self) -> None:
        """Nothing happens to the data any more; what was held up leaves."""
        self._post(self._clear_faults)

    def delay(self, delay_fs: float) -> None:
        """Another delay between pump and probe pulse. Not of the board: who runs the simulator says it.

        It acts on all that is exposed after this call; while the shutter is open, from the next millisecond on.
        Raises ValueError where there is nothing to delay.
        """
        if not self._source.has_delay:
            raise ValueError("there are no pump and probe pulses here; the scene vmi has them")
        if not math.isfinite(delay_fs):
            raise ValueError(f"a delay is a number of fs, not {delay_fs:g}")
        with self._clock.lock:
            self._post(partial(self._source.set_delay, delay_fs, self._clock.counts()))

    def counters(self) -> StreamCounters:
        """Totals since the start or the last reset, with all that was told before: a board answers in order."""
        done = threading.Event()
        self._post(done.set)
        while self._thread.is_alive() and not self._stopping and not done.wait(_ORDER_POLL_S):
            pass
        return self._totals.since_reset()

    def reset_counters(self) -> None:
        """Begin all totals at 0 again, after all that was told before."""
        self._post(self._totals.reset)

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Close the gate, send what is late, end the thread and free the sockets."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._faults.line.close()
        for sender in self._senders:
            sender.close()

    def _post(self, task: Callable[[], None]) -> None:
        with self._wake:
            self._tasks.append(task)
            self._wake.notify()

    # --- the sending thread -------------------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while not self._stopping:
                self._work()
            while self._tasks:
                self._tasks.popleft()()
            self._move_gate(False, self._clock.counts())
            self._clear_faults()
        except BaseException as error:
            self.failure = error
            log.error("the data side stopped", exc_info=not isinstance(error, TruthError))
            self._on_failure()

    def _work(self) -> None:
        """One task, or one slice, or what was held up, or a wait for any."""
        task = self._next_task()
        if task is not None:
            task()
        elif self._seconds_until_release() == 0.0:
            self._faults.line.release()
            self._tell_counts()
        elif self._gate and self._clock.seconds_until(self._source.next_counts) == 0.0:
            self._send_next_slice()
        elif self._seconds_until_idle() == 0.0:
            self._send_idle(self._clock.counts())

    def _next_task(self) -> Callable[[], None] | None:
        with self._wake:
            if not self._tasks and not self._stopping:
                wait_s = self._seconds_until_due()
                if wait_s != 0.0:
                    self._wake.wait(wait_s)
            return self._tasks.popleft() if self._tasks else None

    def _seconds_until_due(self) -> float | None:
        """Host seconds until something is to leave; None while nothing is."""
        slice_s = self._clock.seconds_until(self._source.next_counts) if self._gate else self._seconds_until_idle()
        due = [wait_s for wait_s in (slice_s, self._seconds_until_release()) if wait_s is not None]
        return min(due, default=None)

    def _seconds_until_idle(self) -> float | None:
        """Host seconds until edges are to leave though the gate is closed; None: none do."""
        if self._gate or not self._faults.edges_always or self._readout is Readout.OFF:
            return None
        return self._clock.seconds_until(self._idle_counts + SLICE_COUNTS)

    def _seconds_until_release(self) -> float | None:
        """Host seconds until what a fault holds up leaves; None while it holds nothing."""
        due_s = self._faults.line.due_s
        if due_s is None:
            return None
        with self._clock.lock:
            missing_s = max(0.0, due_s - self._clock.seconds())
            return self._clock.seconds_until(self._clock.counts() + math.ceil(missing_s * _COUNTS_PER_SECOND))

    def _send_next_slice(self) -> None:
        self._send(self._source.advance())
        self._sent_counts = self._source.final_counts
        self._clock.hold_at(self._source.next_counts + LAG_ALLOWED_COUNTS)
        self._warn_of_slip()

    def _send_idle(self, stop_counts: int) -> None:
        """Edges while the gate is closed, as a fault has it."""
        departures, edges = self._source.idle(self._idle_counts, stop_counts)
        self._idle_counts = stop_counts
        if len(edges):
            self._faults.went_on(edges)
            self._send(departures)

    def _send(self, departures: Departures) -> None:
        datagrams = 0
        for chip in range(len(self._senders)):
            words = self._faults.keep(chip, departures.of_chip(chip))
            if words.size:
                datagrams += self._faults.send(chip, words, self._source.final_counts)
        self._totals.add(departures.pixel_words, departures.n_edges)
        if self._truth:
            self._truth.departed(self._epoch, departures, datagrams)
        self._tell_counts()

    def _tell_counts(self) -> None:
        """What has left by now, and what has gone wrong."""
        line, strikes = self._faults.line, self._faults.strikes
        self._totals.datagrams(line.sent, line.paused)
        if self._truth and strikes:
            self._truth.struck(self._epoch, strikes)
        strikes.clear()

    def _send_own(self, words_of_chips: Sequence[tuple[int, tuple[int, ...]]]) -> None:
        """Words of the chips themselves, (chip, words) of each, in datagrams of their own."""
        for chip, words in words_of_chips:
            self._faults.send(chip, np.array(words, dtype=np.uint64), self._clock.counts())
        self._tell_counts()

    def _tell_truth(self, words_of_chips: Sequence[tuple[int, tuple[int, ...]]]) -> None:
        """Such words are about to leave."""
        if self._truth:
            self._truth.own_words(sum(len(words) for _, words in words_of_chips), len(words_of_chips))

    def _ends_of_readout(self, at_counts: int) -> list[tuple[int, tuple[int, ...]]]:
        sequential = self._readout is Readout.SEQUENTIAL
        ends = [
            (chip, self._own_words(chip, (end_of_readout_word(at_counts, chip_id, sequential=sequential),)))
            for chip, chip_id in enumerate(self._chip_ids)
        ]
        return [(chip, words) for chip, words in ends if words]

    def _own_words(self, chip: int, words: tuple[int, ...]) -> tuple[int, ...]:
        """Those that leave."""
        mask = self._masks[chip] if self._alive[chip] else 0
        return tuple(word for word in words if mask >> HEADER.get(word) & 1)

    def _arm(self, fault: DataFault) -> None:
        if not self._faults.edges_always:
            self._idle_counts = self._clock.counts()
        self._faults.arm(fault)

    # --- tasks --------------------------------------------------------------------------------------------------------
    def _set_chip(self, chip: int, settings: ChipSettings, at_counts: int) -> None:
        self._alive[chip] = settings.alive
        self._faults.line.survey.phase_bins[chip] = column_phase(settings.pll)
        self._source.set_chip(chip, settings, at_counts)

    def _set_filter(self, chip: int, eth_mask: int, at_counts: int) -> None:
        self._masks[chip] = eth_mask
        self._source.set_filter(chip, eth_mask, at_counts)

    def _clear_faults(self) -> None:
        datagrams = self._faults.clear(self._clock.counts())
        if self._truth and datagrams:
            self._truth.own_words(0, datagrams)
        self._tell_counts()

    def _set_shutter(self, is_open: bool, at_counts: int) -> None:
        ends = [] if is_open or not self._gate else self._ends_of_readout(at_counts)
        self._shutter = is_open
        self._shutter_counts = at_counts
        # The truth on disk at the end of read-out counts these words too.
        self._tell_truth(ends)
        self._move_gate(self._gate_wanted, at_counts)
        self._send_own(ends)

    def _set_readout(self, mode: Readout, at_counts: int) -> None:
        if mode is not self._readout:
            # What came in one mode leaves in that mode.
            self._move_gate(False, at_counts)
            self._readout = mode
            self._idle_counts = at_counts
            self._move_gate(self._gate_wanted, at_counts)

    def _answer_timer(self, chip: int, at_counts: int) -> None:
        words = self._own_words(chip, timer_words(at_counts, self._chip_ids[chip]))
        if words and self._faults.timer_is_lost(chip):
            self._tell_counts()
        elif self._gate:
            self._source.inject(chip, at_counts, words)
        elif words:
            self._tell_truth([(chip, words)])
            self._send_own([(chip, words)])

    def _restart_epoch(self, at_counts_before: int, at_counts_now: int, zero_s: float) -> None:
        self._move_gate(False, at_counts_before)
        self._epoch += 1
        self._zero_s = zero_s
        self._shutter_counts += at_counts_now - at_counts_before
        self._idle_counts = at_counts_now
        self._move_gate(self._gate_wanted, at_counts_now)

    @property
    def _gate_wanted(self) -> bool:
        return self._shutter and self._readout is not Readout.OFF

    def _move_gate(self, is_open: bool, at_counts: int) -> None:
        if is_open == self._gate:
            return
        self._gate = is_open
        if is_open:
            self._open_gate(at_counts)
        else:
            self._close_gate(at_counts)

    def _open_gate(self, at_counts: int) -> None:
        if self._faults.edges_always and at_counts > self._idle_counts:
            self._send_idle(at_counts)
        self._sent_counts = at_counts
        self._source.open(
            self._epoch,
            at_counts,
            sequential=self._readout is Readout.SEQUENTIAL,
            shutter_counts=self._shutter_counts,
            zero_s=self._zero_s,
        )
        self._clock.hold_at(max(self._source.next_counts, at_counts) + LAG_ALLOWED_COUNTS)
        self._slip_at_warning = self._clock.slipped_seconds
        if self._truth:
            self._truth.opened(self._epoch, at_counts)
        kept_datagrams = self._faults.open(at_counts)
        if self._truth and kept_datagrams:
            self._truth.own_words(0, kept_datagrams)
        self._tell_counts()

    def _close_gate(self, at_counts: int) -> None:
        # A closing told late cannot call back what has been sent.
        closing = max(at_counts, self._sent_counts)
        for departures in self._source.finish(closing):
            self._send(departures)
        late_datagrams = self._faults.flush(closing)
        if self._truth and late_datagrams:
            self._truth.own_words(0, late_datagrams)
        self._tell_counts()
        self._idle_counts = closing
        self._clock.hold_at(None)
        if self._truth:
            self._truth.closed(self._epoch, closing)

    def _warn_of_slip(self) -> None:
        slipped = self._clock.slipped_seconds
        if slipped - self._slip_at_warning > SLIP_WORTH_A_WARNING_S:
            log.warning("cannot keep up: the virtual clock is %.2f s behind the host's; nothing is skipped", slipped)
            self._slip_at_warning = 2 * slipped
