"""Slow, obvious twins of the kernels: plain Python on lists, one hit at a time, no map, no window, no cleverness.

What they share with the package is the word table and the settings, nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from math import atan2, ceil, floor, hypot, inf, isnan, nan, pi

from ophyd_timepix.config import Calibration, CentroidTime, Edge, Gate, MassCalibration, Metric, Processing
from ophyd_timepix.decode import Count, Mark
from ophyd_timepix.protocol import words as w
from ophyd_timepix.protocol.chip_config import GeneralConfig

PERIOD_30, PERIOD_32, PERIOD_48 = 1 << 30, 1 << 32, 1 << 48
BACKWARD = 1 << 27
FOREVER = 1 << 54
DOUBT = 16
MS = 40_000  # counts of 25 ns


# --- words ------------------------------------------------------------------------------------------------------------


@dataclass
class Chip:
    """What is known of one chip's stream."""

    newest: int | None = None
    held: list[tuple[int, int, int | None]] = field(default_factory=list)
    """(word, time, since when its epoch is not sure)."""
    doubt: int = 0
    silence: int = 0
    left: int | None = None
    timer_low: int | None = None
    packet: int | None = None
    far: int = 0
    far_time: int = 0


@dataclass
class NaiveDecoder:
    """Word by word, as the rules of time say."""

    framed: bool = True
    n_chips: int = 1
    phase: list[list[int]] | None = None
    lateness: int = MS // 2
    skew: int = 250 * MS
    hits: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """(tick, chip, y, x, ToT) in the order of the stream."""
    edges: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """(tick, input, falling, counter, chip)."""
    counts: dict[Count, int] = field(default_factory=lambda: dict.fromkeys(Count, 0))
    general: list[int] = field(default_factory=list)
    counting: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    """(chip, y, x, events, hits, sum of ToT)."""
    marks: list[tuple[Mark, int, int, int | None, int | None, int | None]] = field(default_factory=list)
    """(what, chip, amount, time before, time after, place)."""

    def __post_init__(self) -> None:
        self.jump = max(self.lateness, MS // 2)
        self.chips = [Chip() for _ in range(self.n_chips)]
        self.chip = 0
        self.left = 0
        self.mode = -1
        self.newest: int | None = None
        self.reference: int | None = None
        self.anchored = False
        self.known = 0
        self.offset = 0
        self.ceiling = FOREVER
        self.worst = 0
        self.late: list[int] = []
        self.told: int | None = None
        self.place = 0
        self.latest: float = FOREVER
        self.floor: int | None = None

    def begin(self, time: int) -> None:
        """An acquisition begins: what is older than this, and not just late, is of the time before."""
        self.floor = time - self.lateness
        self.known, self.anchored = 48, True
        self.newest = self.told = time
        self.reference = time - (1 << 29) + BACKWARD
        for chip in self.chips:
            chip.newest, chip.left, chip.silence, chip.far = time, None, 0, 0

    # chunks

    def decode(self, words: list[int], anchor: int | None = None, latest: float | None = None) -> None:
        """Take the next words."""
        self.ceiling = FOREVER
        self.latest = FOREVER if latest is None else latest
        if anchor is not None:
            self._take_anchor(anchor)
        for word in words:
            self.place = self.counts[Count.WORDS]
            self.counts[Count.WORDS] += 1
            if not self.framed or self._is_in_chunk(word):
                self._word(word)

    def flush(self) -> None:
        """Held words come out; they do not move the time."""
        for number, chip in enumerate(self.chips):
            for word, time, since in chip.held:
                self._note_epoch(since, time, number)
                self._emit(word, time, number)
            chip.held = []

    def _mark(self, what: Mark, chip: int, amount: int, after: int | None = None) -> None:
        before = self.chips[chip].newest if 0 <= chip < self.n_chips else None
        self.marks.append((what, chip, amount, before, after, self.place))

    def _note_epoch(self, since: int | None, time: int, chip: int) -> None:
        if since is not None:
            self.counts[Count.EPOCH_UNCERTAIN] += 1
            self.marks.append((Mark.EPOCH, chip, 1, since, time, None))

    def _is_in_chunk(self, word: int) -> bool:
        magic = w.CHUNK_MAGIC_FIELD.get(word) == w.CHUNK_MAGIC
        if self.left == 0:
            if not magic:
                self.counts[Count.UNFRAMED_WORDS] += 1
                self._mark(Mark.UNFRAMED, -1, 1)
                return False
            self._open(word)
            return False
        looks_like_header = (
            magic
            and w.CHUNK_CHIP.get(word) < w.MAX_CHIPS
            and w.CHUNK_MODE.get(word) == self.mode
            and w.CHUNK_BYTES.get(word) % 8 == 0
        )
        if looks_like_header:
            self.counts[Count.CUT_CHUNKS] += 1
            if self.chip < self.n_chips:
                self.chips[self.chip].doubt = DOUBT
            self._mark(Mark.CUT_CHUNK, self.chip, self.left)
            self._open(word)
            return False
        self.left -= 1
        if self.chip >= self.n_chips:
            self.counts[Count.FOREIGN_CHIP_WORDS] += 1
            self._mark(Mark.FOREIGN_CHIP, self.chip, 1)
            return False
        return True

    def _open(self, word: int) -> None:
        self.counts[Count.CHUNK_HEADERS] += 1
        self.chip = w.CHUNK_CHIP.get(word)
        if self.chip < 4:
            self.counts[Count(Count.CHUNKS_0 + self.chip)] += 1
        self.mode = w.CHUNK_MODE.get(word)
        self.left = w.CHUNK_BYTES.get(word) // 8
        self._release_overtaken()

    def _release_overtaken(self) -> None:
        for number, chip in enumerate(self.chips):
            while chip.held and self.newest is not None and chip.held[0][1] <= self.newest:
                self._take_first_held(number)

    # words

    def _word(self, word: int) -> None:
        top = w.TOP_BYTE.get(word)
        if self._is_hit(word):
            self.counts[Count.SEQUENTIAL_WORDS] += w.HEADER.get(word) == w.PIXEL_SEQUENTIAL
            if self._general(self.chip).mode == 2:
                self._count(word)
            else:
                self._timed(word, w.SPIDR_TIME.get(word) << 14 | w.TOA.get(word), 30)
        elif top in list(w.TdcByte):
            if 1 <= w.TDC_STAMP.get(word) <= 12 and w.TDC_ZERO.get(word) == 0:
                self._timed(word, w.TDC_TIME.get(word) >> 3, 32)
            else:
                self.counts[Count.REJECTED_EDGES] += 1
                self.chips[self.chip].doubt = DOUBT
                self._mark(Mark.REJECTED_EDGE, self.chip, 1)
        elif top == w.TIMER_LOW_BYTE:
            self.counts[Count.TIMER_WORDS] += 1
            low = w.TIMER_LOW.get(word)
            waited = (w.SPIDR_TIME.get(word) - (low >> 14)) % (1 << 16)
            fits = waited <= 64 or waited == (1 << 16) - 1
            self.chips[self.chip].timer_low = low if fits and low < PERIOD_32 - (65 << 14) else None
        elif top == w.TIMER_HIGH_BYTE:
            self.counts[Count.TIMER_WORDS] += 1
            self._timer_high(word)
        elif top in w.CONTROL_BYTES:
            self.counts[Count.CONTROL_WORDS] += 1
            if top == w.PACKET_ID_BYTE:
                self._packet_id(w.PACKET_ID.get(word))
            code = w.CONTROL_CODE.get(word)
            if top == w.COMMAND_END_BYTE and code in (w.END_OF_READOUT_SEQUENTIAL, w.END_OF_READOUT_DATA_DRIVEN):
                self.counts[Count(Count.END_OF_READOUT_0 + self.chip)] += 1
        else:
            self.counts[Count.UNKNOWN_WORDS] += 1
            self.chips[self.chip].doubt = DOUBT
            self._mark(Mark.UNKNOWN, self.chip, 1)

    def _general(self, chip: int) -> GeneralConfig:
        return GeneralConfig.from_word(self.general[chip]) if self.general else GeneralConfig()

    def _count(self, word: int) -> None:
        self.counts[Count.COUNTING_WORDS] += 1
        dcol, super_pixel, pixel = w.DCOL.get(word), w.SUPER_PIXEL.get(word), w.PIXEL.get(word)
        hits = 0 if self._general(self.chip).fast_toa else w.HIT_COUNT.get(word)
        x, y = 2 * dcol + pixel // 4, 4 * super_pixel + pixel % 4
        self.counting.append((self.chip, y, x, w.EVENTS.get(word), hits, w.ITOT.get(word)))

    def _packet_id(self, number: int) -> None:
        self.counts[Count.PACKET_IDS] += 1
        chip = self.chips[self.chip]
        step = None if chip.packet is None else number - chip.packet
        if step is not None and -(1 << 16) <= step < 0:
            self.counts[Count.MISSING_PACKETS] -= 1
            self._mark(Mark.MISSING_PACKETS, self.chip, -1)
            return
        if step is not None and 0 < step <= 1 << 16:
            self.counts[Count.MISSING_PACKETS] += step - 1
            if step > 1:
                self._mark(Mark.MISSING_PACKETS, self.chip, step - 1)
        chip.packet = number

    @staticmethod
    def _is_hit(word: int) -> bool:
        return w.HEADER.get(word) in (w.PIXEL_SEQUENTIAL, w.PIXEL_DATA_DRIVEN)

    # time

    @property
    def _undecided(self) -> bool:
        return self.newest is None and not self.anchored

    def _extend(self, value: int, bits: int) -> int:
        if self.known == 0:
            return value
        period = 1 << min(bits, self.known)
        ahead = (value - self.offset - self.reference) % period
        if self._undecided:
            near = ahead <= 1 << 29 or period - ahead <= self.lateness
            if not near and bits == self.known:
                return value - self.offset
            backward = self.lateness
        else:
            backward = BACKWARD
        return self.reference + (ahead - period if period - ahead <= backward else ahead)

    def _take_anchor(self, anchor: int) -> None:
        low = (1 << 29) - BACKWARD
        if self.known == 0:
            self.known, self.offset, self.reference = 48, 0, anchor - low
        else:
            self.reference = max(self.reference, anchor - self.offset - low)
        self.anchored = True
        self.ceiling = anchor - self.offset + (1 << 29)
        self.told = latest_of(self.told, anchor - self.offset)

    def _timer_high(self, word: int) -> None:
        chip = self.chips[self.chip]
        low, chip.timer_low = chip.timer_low, None
        if low is None or (w.SPIDR_TIME.get(word) - (low >> 14)) % (1 << 16) > 64:
            return
        value = w.TIMER_HIGH.get(word) << 32 | low
        if self._undecided:
            if any(chip.held for chip in self.chips):
                return
            if value > self.ceiling:
                self.counts[Count.TIMER_JUMPS] += 1
                return
            self.offset, self.known, self.reference = 0, 48, value
        else:
            time = self._extend(value, 48)
            ceiling = self.ceiling if self.ceiling == FOREVER else max(self.ceiling, self.reference + (1 << 29))
            if time > ceiling or time < self.reference - BACKWARD:
                self.counts[Count.TIMER_JUMPS] += 1
                return
            since = latest_of(self.newest, self.told)
            if self._is_uncertain(time, since, 48):
                self._note_epoch(since, time, self.chip)
            self.reference = max(self.reference, time)
            self._learn(value, 48, time)
            value = time
        self.told = latest_of(self.told, value)
        self.counts[Count.TIMER_PAIRS] += 1
        self.anchored = True

    def _is_uncertain(self, time: int, since: int | None, bits: int) -> bool:
        return since is not None and time - since > (1 << min(bits, self.known)) // 2

    def _learn(self, value: int, bits: int, time: int) -> None:
        if bits > self.known:
            self.offset = (value - time) % (1 << bits)
            self.known = bits

    def _timed(self, word: int, value: int, bits: int) -> None:
        chip = self.chips[self.chip]
        time = self._extend(value, bits)
        if self.floor is not None and time < self.floor:
            self.counts[Count.EARLY_HITS if self._is_hit(word) else Count.EARLY_EDGES] += 1
            self._mark(Mark.EARLY, self.chip, 1)
            return
        if time > self.latest:
            agrees = abs(time - chip.far_time) <= 1 << 25
            chip.far, chip.far_time = chip.far + 1 if agrees else 1, time
            if chip.far < 256:
                self.counts[Count.JUMPED_HITS if self._is_hit(word) else Count.JUMPED_EDGES] += 1
                self._mark(Mark.JUMPED, self.chip, 1, time)
                return
        else:
            chip.far = 0
        if chip.held:
            held_newest = max(held for _, held, _ in chip.held)
            if time < held_newest - self.lateness:
                n = next(i for i, (_, held, _) in enumerate(chip.held) if held > time + self.lateness)
                for held_word, _, _ in chip.held[n:]:
                    self.counts[Count.JUMPED_HITS if self._is_hit(held_word) else Count.JUMPED_EDGES] += 1
                self._mark(Mark.JUMPED, self.chip, len(chip.held) - n, held_newest)
                del chip.held[n:]
            if chip.held:
                is_sparse = chip.silence > 1000 * MS
                needed = DOUBT if chip.doubt and not is_sparse and self.latest >= FOREVER else 1
                while chip.held and (
                    len(chip.held) >= needed or (self.newest is not None and chip.held[0][1] <= self.newest + self.jump)
                ):
                    self._take_first_held(self.chip)
            elif self._undecided and not any(chip.held for chip in self.chips):
                self.known = 0
                time = value
        too_old = chip.newest is not None and time < chip.newest - self.lateness
        if self.n_chips > 1 and self.newest is not None:
            too_old = too_old or time < self.newest - self.skew
        if too_old:
            self.counts[Count.LATE_HITS if self._is_hit(word) else Count.LATE_EDGES] += 1
            self.late.append(time * 96)
        elif time > FOREVER:
            self.counts[Count.JUMPED_HITS if self._is_hit(word) else Count.JUMPED_EDGES] += 1
            self._mark(Mark.JUMPED, self.chip, 1, time)
        elif self.newest is None or time > self.newest + self.jump:
            if self.known == 0:
                self.reference, self.known, self.offset = time, bits, 0
            elif self._undecided:
                self.reference = max(self.reference, time)
            since = latest_of(self.newest, self.told, *(held for _, held, _ in chip.held))
            if chip.left is not None and bits == 30 and (time - chip.left) % PERIOD_30 <= self.jump:
                since = chip.left
            chip.held.append((word, time, since if self._is_uncertain(time, since, bits) else None))
        else:
            self._accept(word, time, self.chip)

    def _take_first_held(self, number: int) -> None:
        word, time, since = self.chips[number].held.pop(0)
        self._note_epoch(since, time, number)
        chip = self.chips[number]
        newest = chip.newest
        if chip.silence == 0:
            chip.left = newest
        self._accept(word, time, number)
        chip.silence = 1 if newest is None else max(1, time - newest)

    def _accept(self, word: int, time: int, number: int) -> None:
        chip = self.chips[number]
        chip.doubt = max(0, chip.doubt - 1)
        chip.silence = 0
        if self._is_hit(word) and chip.newest is not None:
            self.worst = max(self.worst, chip.newest - time)
            if chip.newest - time > 384 * 40:
                self.counts[Count.TOA_WRAP_SUSPECTS] += 1
                self.marks.append((Mark.WRAP_SUSPECT, number, 1, chip.newest, time, None))
        chip.newest = time if chip.newest is None else max(chip.newest, time)
        self.newest = time if self.newest is None else max(self.newest, time)
        self.reference = max(self.reference, time)
        if not self._is_hit(word):
            self._learn(w.TDC_TIME.get(word) >> 3, 32, time)
        self._emit(word, time, number)

    def _emit(self, word: int, time: int, number: int) -> None:
        if self._is_hit(word):
            dcol, super_pixel, pixel = w.DCOL.get(word), w.SUPER_PIXEL.get(word), w.PIXEL.get(word)
            phase = self.phase[number][dcol] if self.phase else 0
            ftoa = w.FTOA.get(word) if self._general(number).fast_toa else 0
            tick = time * 96 - ftoa * 6 + phase * 6
            x, y = 2 * dcol + pixel // 4, 4 * super_pixel + pixel % 4
            self.hits.append((tick, number, y, x, w.TOT.get(word)))
            self.counts[Count.HITS] += 1
            self.counts[Count(Count.HITS_0 + number)] += 1
        else:
            top = w.TOP_BYTE.get(word)
            tick = w.TDC_TIME.get(word) % 8 * 12 + w.TDC_STAMP.get(word) - 1 + time * 96
            tdc = 1 if top in (w.TdcByte.TDC1_RISING, w.TdcByte.TDC1_FALLING) else 2
            falling = top in (w.TdcByte.TDC1_FALLING, w.TdcByte.TDC2_FALLING)
            self.edges.append((tick, tdc, int(falling), w.TDC_COUNTER.get(word), number))
            self.counts[Count.EDGES] += 1


def latest_of(*times: int | None) -> int | None:
    """The latest of those that are known."""
    return max((time for time in times if time is not None), default=None)


def ns(tick: int) -> float:
    """Nanoseconds as columns have them: float64 throughout, which is exact to 26 hours."""
    return float(tick * 25) / 96


Hit = tuple[int, int, int, int, int]
"""(tick, chip, y, x, ToT)."""


# --- filters ---------------------------------------------------------------------------------------------------------


def keep_hits(hits: list[Hit], processing: Processing) -> tuple[list[Hit], int, int]:
    """Hits of good pixels with a ToT in range; those of masked pixels and of another ToT are counted."""
    low = 0 if processing.tot_min is None else processing.tot_min
    high = 1023 if processing.tot_max is None else processing.tot_max
    good = [hit for hit in hits if (hit[1], hit[3], hit[2]) not in processing.masked_pixels]
    kept = [hit for hit in good if low <= hit[4] <= high]
    return kept, len(hits) - len(good), len(good) - len(kept)


def corrected(hits: list[Hit], calibration: Calibration | None) -> list[Hit]:
    """Hits with time-walk and the offset of their chip taken off, rounded to ticks one after the other."""
    return [(hit[0] - walk_ticks(hit, calibration), *hit[1:]) for hit in hits] if calibration else hits


def walk_ticks(hit: Hit, calibration: Calibration) -> int:
    """What is taken off a hit: what depends on chip and ToT, and what depends on the pixel."""
    _, chip, y, x, tot = hit
    common = by_pixel = 0.0
    if calibration.time_walk_table_ns is not None:
        common += float(calibration.time_walk_table_ns[chip, tot])
    if calibration.time_walk_abc is not None:
        each = calibration.time_walk_abc.ndim > 2
        row = calibration.time_walk_abc[chip, y, x] if each else calibration.time_walk_abc[chip]
        a, b, c = (float(p) for p in row)
        if each:
            by_pixel = a * 96 / 25 / max(tot - b, 1) + c * 96 / 25
        else:
            common += a / max(tot - b, 1) + c
    if calibration.chip_offset_ns is not None:
        common += float(calibration.chip_offset_ns[chip])
    return round(common * 96 / 25) + round(by_pixel)


def energy(hits: list[Hit], calibration: Calibration) -> float:
    """The sum of the energies that give the ToT of these hits, each found by halving intervals."""
    total = 0.0
    for _, chip, y, x, tot in hits:
        table = calibration.energy_abct[chip]
        a, b, c, t = (float(p) for p in (table[y, x] if table.ndim > 1 else table))
        low, high = t, t + (abs(tot - b - a * t) + (4 * a * c) ** 0.5 + 1) / a
        for _ in range(200):
            middle = (low + high) / 2
            above = a * middle + b - (c / (middle - t) if middle > t else inf if c else 0) > tot
            low, high = (low, middle) if above else (middle, high)
        total += low
    return total


# --- shots ------------------------------------------------------------------------------------------------------------


@dataclass
class Shots:
    """Hits in time order with their shots; filtered ones are gone."""

    hits: list[Hit]
    shot: list[int]
    opened: list[int]
    valid: list[int]
    edges: list[tuple[int, int, int, int]]
    filtered: int
    inferred: list[int]
    """1 where a shot was opened by a trigger that did not come."""
    rhythm: tuple[int, int, int]
    """Missing, double, and put-in triggers."""


def assign_shots(
    hits: list[Hit],
    edges: list[tuple[int, int, int, int, int]],
    processing: Processing,
    n_chips: int,
    end_tick: int | None = None,
    lost: Sequence[tuple[int, int]] = (),
    horizon: int = 0,
    open_tick: int | None = None,
) -> Shots:
    """Sort, remove repeats, give each hit the last opening before it, filter.

    horizon: up to here the stream was whole when it ended. open_tick, end_tick: between them the shutter was open.
    """
    unique = sorted(edge[:4] for edge in edges)
    if n_chips > 1:
        unique = sorted(set(unique))
    falling = int(processing.trigger_edge is Edge.FALLING)
    triggers = [tick for tick, tdc, fall, _ in unique if (tdc, fall) == (processing.trigger_input, falling)]
    added = missing_triggers(triggers, processing)
    spans = [(low, high - 1) for low, high, _, _ in gaps(unique)]
    spans += out_of_rhythm(triggers, processing) + [(tick, tick) for tick in added]
    delay = round(processing.trigger_delay_ns * 96 / 25)
    spans = [(low + delay, high + delay) for low, high in spans] + list(lost)
    line = sorted([(tick, 0) for tick in triggers] + [(tick, 1) for tick in added])
    line = line[:: processing.trigger_prescale]
    opened, inferred = [tick + delay for tick, _ in line], [put_in for _, put_in in line]
    if delay < 0 and triggers:
        spans.append((-inf, triggers[0] - 1))
    at_ends = missing_at_ends(triggers, [hit[0] for hit in hits], end_tick, processing.trigger_period_ns, open_tick)
    if at_ends[1]:
        spans.append((triggers[-1] + floor(processing.trigger_period_ns * 96 / 25) + delay, inf))
    if open_tick is not None:
        spans.append((-inf, open_tick - 1))
    if end_tick is not None:
        spans.append((end_tick, inf))
    elif delay > 0:
        spans.append((horizon, inf))
    kept: list[Hit] = []
    shot: list[int] = []
    low = -inf if processing.tof_min_ns is None else ceil(processing.tof_min_ns * 96 / 25)
    high = inf if processing.tof_max_ns is None else floor(processing.tof_max_ns * 96 / 25)
    for hit in sorted(hits):
        number = sum(tick <= hit[0] for tick in opened) - 1
        if number < 0 or low <= hit[0] - opened[number] <= high:
            kept.append(hit)
            shot.append(number)
    valid = [1] * len(opened)
    if opened:
        valid[-1] = int(end_tick is not None and opened[-1] + high <= end_tick)
    for i, (start, end) in enumerate(zip(opened, [*opened, inf][1:], strict=True)):
        if any(start <= last and min(end, start + high) > first for first, last in spans):
            valid[i] = 0
    missing, double = rhythm(triggers, processing.trigger_period_ns)
    missing += sum(at_ends)
    return Shots(kept, shot, opened, valid, unique, len(hits) - len(kept), inferred, (missing, double, len(added)))


def missing_triggers(triggers: list[int], processing: Processing) -> list[int]:
    """Where triggers are missing between others, if they are to be put in: up to 8 in a row, within a second."""
    added = []
    for first, last in pairwise(triggers if processing.missing_triggers == "infer" else []):
        missing = floor((last - first) / (processing.trigger_period_ns * 96 / 25) + 0.5) - 1
        if 0 < missing <= 8 and last - first <= 3_840_000_000:
            added += [first + int((last - first) / (missing + 1) * k) for k in range(1, missing + 1)]
    return added


def gaps(edges: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """(edge before, edge after, input, missing) where the counter of an input passes over edges.

    Where it then is nearer to where it was before that, the counters in between were garbled: what was told is taken
    back.
    """
    found = []
    for tdc in (1, 2):
        own = [edge for edge in edges if edge[1] == tdc]
        steps = [(edge[3] - before[3]) % 4096 for before, edge in pairwise(own)]
        clean, told = own[0][3] if own else 0, 0
        for i, (before, edge) in enumerate(pairwise(own)):
            settled = any(steps[k : k + 3] == [1, 1, 1] for k in range(i - 1))
            step, since = steps[i], (edge[3] - clean) % 4096
            garbled = told > 0 and since < step
            if garbled:
                step = since
            missing = max(0, step - 1 if settled or step % 2 else step // 2 - 1)
            if garbled or missing > 0:
                found.append((before[0], edge[0], tdc, missing - told if garbled else missing))
            told = 0 if garbled or (step and not missing) else told + missing
            clean = edge[3] if not told else clean
    return found


def out_of_rhythm(triggers: list[int], processing: Processing) -> list[tuple[int, int]]:
    """Spans around triggers that are double, and around missing ones that are not put in."""
    spans = []
    period_ns = processing.trigger_period_ns
    for first, last in pairwise(triggers if period_ns else []):
        if missing_triggers([first, last], processing):
            continue
        periods = (last - first) / (period_ns * 96 / 25)
        missing = floor(periods + 0.5) - 1
        if periods < 0.5:
            spans.append((first, last))
        elif missing > 0:
            pause = (last - first) / (missing + 1)
            spans.append((first + int(pause), last - int(pause)))
    return spans


def missing_at_ends(
    triggers: list[int],
    hits: list[int],
    end_tick: int | None,
    period_ns: float | None,
    open_tick: int | None = None,
) -> tuple[int, int]:
    """How many are missing before the first and behind the last, while hits or the shutter say that it was open."""
    if not period_ns:
        return 0, 0
    period = period_ns * 96 / 25
    begin, end = (min(hits), max(hits)) if hits else (None, None)
    end = end if end_tick is None else end_tick
    begin = min((tick for tick in (begin, open_tick) if tick is not None), default=None)
    if not triggers:
        return (1, 0) if begin is None or end is None else (max(0, floor((end - begin) / period - 0.5)), 0)
    before = 0 if begin is None else max(0, floor((triggers[0] - begin) / period - 0.5))
    return before, 0 if end is None else max(0, floor((end - triggers[-1]) / period - 0.5))


def rhythm(opened: list[int], period_ns: float | None) -> tuple[int, int]:
    """(missing, double) triggers."""
    periods = [(last - first) / (period_ns * 96 / 25) for first, last in pairwise(opened)] if period_ns else []
    return sum(max(floor(p + 0.5) - 1, 0) for p in periods), sum(p < 0.5 for p in periods)


# --- clusters ---------------------------------------------------------------------------------------------------------


def distance2(a: Hit, b: Hit, processing: Processing) -> float:
    """dx² + dy² + (dt / window * radius)², the time in the units of the radius."""
    scale = processing.radius_px / (processing.window_ns * 96 / 25)
    z = abs(a[0] - b[0]) * scale
    return float((a[3] - b[3]) ** 2 + (a[2] - b[2]) ** 2) + z * z


def are_neighbours(a: Hit, b: Hit, processing: Processing) -> bool:
    """The definition of the two metrics; chips and shots are for the caller."""
    if processing.metric is Metric.ELLIPSOID:
        return distance2(a, b, processing) <= processing.radius_px**2
    in_reach = abs(a[0] - b[0]) <= floor(processing.window_ns * 96 / 25)
    return in_reach and (a[3] - b[3]) ** 2 + (a[2] - b[2]) ** 2 <= processing.radius_px**2


def clusters(hits: list[Hit], shot: list[int], processing: Processing, cuts: tuple[int, ...] = ()) -> list[int]:
    """A label for each hit of the time-ordered list, -1 for noise; labels count clusters by their first hits.

    cuts: indices at which the list was cut by force.
    """
    n = len(hits)
    part = [sum(i >= cut for cut in cuts) for i in range(n)]
    neighbours = [
        [
            j
            for j in range(n)
            if (hits[i][1], shot[i], part[i]) == (hits[j][1], shot[j], part[j])
            and are_neighbours(hits[i], hits[j], processing)
        ]
        for i in range(n)
    ]
    core = [len(around) >= processing.min_samples for around in neighbours]
    component: list[int | None] = [None] * n
    for i in range(n):
        if core[i] and component[i] is None:
            stack = [i]
            while stack:
                j = stack.pop()
                if component[j] is None:
                    component[j] = i
                    stack += [k for k in neighbours[j] if core[k]]
    for i in range(n):
        cores = [j for j in neighbours[i] if core[j]]
        if not core[i] and cores:
            component[i] = component[min(cores, key=lambda j: (distance2(hits[i], hits[j], processing), j))]
    names: dict[int, int] = {}
    return [-1 if name is None else names.setdefault(name, len(names)) for name in component]


def split(hits: list[Hit], labels: list[int], processing: Processing) -> tuple[list[int], set[int]]:
    """Clusters with several peaks cut up: new labels, by first hits again, and those of them that are parts."""
    cut: dict[int, tuple[int, int]] = {}
    for label in set(labels) - {-1}:
        members = [i for i, other in enumerate(labels) if other == label]
        peaks = [i for i in members if not any(belongs(hits, i, j, processing) for j in members)]
        if len(peaks) < 2 or len(members) >= 1024:
            continue
        centres: list[tuple[float, float, int, int]] = [(hits[i][3], hits[i][2], hits[i][0], hits[i][4]) for i in peaks]
        part = nearest_centre(hits, members, centres, processing)
        centres = []
        for k, peak in enumerate(peaks):
            own = [i for i in members if part[i] == k]
            total = sum(hits[i][4] for i in own)
            best = max(own, key=lambda i: (hits[i][4], -i), default=peak)
            x = sum(hits[i][4] * hits[i][3] for i in own) / total if total else hits[peak][3]
            y = sum(hits[i][4] * hits[i][2] for i in own) / total if total else hits[peak][2]
            centres.append((x, y, hits[best][0], hits[best][4]))
        part = nearest_centre(hits, members, centres, processing)
        if len(set(part.values())) > 1:
            cut |= {i: (label, part[i]) for i in members}
    names: dict[tuple[int, int], int] = {}
    found = [
        -1 if label < 0 else names.setdefault(cut.get(i, (label, -1)), len(names)) for i, label in enumerate(labels)
    ]
    return found, {names[key] for key in cut.values()}


def belongs(hits: list[Hit], i: int, j: int, processing: Processing) -> bool:
    """Whether hit i may be one of the weak hits around hit j."""
    a, b = hits[i], hits[j]
    reach = int(processing.split_time_ns * 96 / 25)
    late = a[0] - b[0]
    is_stronger = b[4] > a[4] or (b[4] == a[4] and j < i)
    near = (a[3] - b[3]) ** 2 + (a[2] - b[2]) ** 2 <= processing.split_radius_px**2
    return is_stronger and near and late >= -reach and late * a[4] <= reach * b[4]


def nearest_centre(
    hits: list[Hit], members: list[int], centres: Sequence[tuple[float, float, int, int]], processing: Processing
) -> dict[int, int]:
    """The nearest of the centres (x, y, tick, ToT) for each hit, the first of equals."""
    scale = processing.split_radius_px / (processing.split_time_ns * 96 / 25)
    nearest = {}
    for i in members:
        away2 = []
        for x, y, tick, tot in centres:
            late = float(hits[i][0] - tick)
            if late > 0:
                late = late * hits[i][4] / max(tot, 1)
            dx, dy = hits[i][3] - x, hits[i][2] - y
            away2.append(dx * dx + dy * dy + (late * scale) * (late * scale))
        nearest[i] = away2.index(min(away2))
    return nearest


@dataclass
class Row:
    """A centroid."""

    shot: int
    x: float
    y: float
    toa: float
    tof: float
    tot: int
    tot_max: int
    size: int
    chip: int
    saturated: bool
    edge: bool
    gap: bool
    split: bool
    members: list[int]


def centroids(
    hits: list[Hit],
    shot: list[int],
    opened: list[int],
    labels: list[int],
    table: list[list[int]],
    min_size: int = 1,
    parts: Set[int] = frozenset(),
    time: CentroidTime = CentroidTime.LARGEST,
) -> list[Row]:
    """One row for each label, in the order of (toa, first hit)."""
    rows = []
    for label in range(max(labels, default=-1) + 1):
        members = [i for i, other in enumerate(labels) if other == label]
        if len(members) < min_size:
            continue
        best = max(members, key=lambda i: (hits[i][4], -i))
        a, b, c, d, e, f = table[hits[best][1]]
        total = sum(hits[i][4] for i in members)
        weights = [hits[i][4] if total else 1 for i in members]
        x = sum(weight * hits[i][3] for weight, i in zip(weights, members, strict=True)) / sum(weights)
        y = sum(weight * hits[i][2] for weight, i in zip(weights, members, strict=True)) / sum(weights)
        tick, number = hits[best][0], shot[best]
        delay = sum(weight * (hits[i][0] - tick) for weight, i in zip(weights, members, strict=True)) / sum(weights)
        delay_ns = delay * 25 / 96 if time is CentroidTime.WEIGHTED else 0.0
        rows.append(
            Row(
                number,
                a * x + b * y + c,
                d * x + e * y + f,
                ns(tick) + delay_ns,
                ns(tick - opened[number]) + delay_ns if number >= 0 else nan,
                total,
                hits[best][4],
                len(members),
                hits[best][1],
                hits[best][4] >= w.TOT_SATURATED,
                any(hits[i][2] in (0, 255) or hits[i][3] in (0, 255) for i in members),
                any(faces_another_chip(hits[i][1], hits[i][3], hits[i][2], table) for i in members),
                label in parts,
                members,
            )
        )
    return sorted(rows, key=lambda row: (row.toa, row.members[0]))


def faces_another_chip(chip: int, x: int, y: int, table: list[list[int]]) -> bool:
    """Whether one comes to another chip, however far, when one walks out of the picture over the rim at this pixel."""
    steps = [(-1, 0, x == 0), (1, 0, x == 255), (0, -1, y == 0), (0, 1, y == 255)]
    for dx, dy in [(dx, dy) for dx, dy, is_at_rim in steps if is_at_rim]:
        for step in range(1, 1100):
            place = in_picture(table[chip], x + dx * step, y + dy * step)
            if any(lies_on(place, other) for number, other in enumerate(table) if number != chip):
                return True
    return False


def in_picture(placement: list[int], x: int, y: int) -> tuple[int, int]:
    """Where a pixel of a chip lies."""
    a, b, c, d, e, f = placement
    return a * x + b * y + c, d * x + e * y + f


def lies_on(place: tuple[int, int], placement: list[int]) -> bool:
    """Whether a place of the picture belongs to a chip."""
    (x0, y0), (x1, y1) = in_picture(placement, 0, 0), in_picture(placement, 255, 255)
    return min(x0, x1) <= place[0] <= max(x0, x1) and min(y0, y1) <= place[1] <= max(y0, y1)


def forced_cuts(hits: list[Hit], opened: list[int], window: int, chain_max: int) -> tuple[int, ...]:
    """Indices of the time-ordered list at which it must be cut: every chain_max hits without a natural cut."""
    cuts = []
    since = 0
    for i, (before, hit) in enumerate(pairwise(hits), start=1):
        if hit[0] - before[0] > window or any(before[0] < tick <= hit[0] for tick in opened):
            since = i
        elif i - since == chain_max:
            cuts.append(i)
            since = i
    return tuple(cuts)


# --- blocks -----------------------------------------------------------------------------------------------------------


def natural_cuts(ticks: list[int], triggers: list[int], window: int) -> list[int]:
    """Indices that no cluster reaches across: a silence is before them, or a shot opens there."""
    return [
        i
        for i, (before, tick) in enumerate(pairwise(ticks), start=1)
        if tick - before > window or any(before < trigger <= tick for trigger in triggers)
    ]


def block_end(
    ticks: list[int], triggers: list[int], window: int, target: int, chain_max: int
) -> tuple[int | None, bool]:
    """Where a block ends that begins with the first hit, and whether by force; None: it is not known yet."""
    cuts = natural_cuts(ticks, triggers, window)
    if len(ticks) <= target:
        return None, False
    fitting = [cut for cut in cuts if target <= cut < chain_max]
    if fitting:
        return fitting[0], False
    if len(ticks) <= chain_max:
        return None, False
    earlier = [cut for cut in cuts if cut <= chain_max]
    return (earlier[-1], False) if earlier else (chain_max, True)


def last_cut(ticks: list[int], triggers: list[int], window: int, horizon: int) -> int | None:
    """The last natural cut; behind the last hit is one too, when no later hit can reach it."""
    if not ticks:
        return None
    if horizon - ticks[-1] > window or any(ticks[-1] < trigger <= horizon for trigger in triggers):
        return len(ticks)
    return max(natural_cuts(ticks, triggers, window), default=None)


def first_from(ticks: list[int], tick: int, start: int = 0) -> int:
    """Index of the first of ticks[start:] that is not earlier than `tick`; behind the last when none is."""
    return next((i for i in range(start, len(ticks)) if ticks[i] >= tick), len(ticks))


def may_be_cut(
    ticks: list[int], shots: list[int], labels: list[int], window: int, at_start: bool, at_end: bool
) -> set[int]:
    """Labels that a forced cut at an end of these hits may have cut: no cluster is of two shots."""
    ends = ([0] if at_start else []) + ([len(ticks) - 1] if at_end else [])
    return {
        label
        for tick, shot, label in zip(ticks, shots, labels, strict=True)
        if label >= 0 and any(shot == shots[end] and abs(tick - ticks[end]) <= window for end in ends)
    }


def key(tick: int, pixel: int) -> int:
    """A number by which hits are in order; `tick` counts from a base."""
    return tick * (1 << 28) + pixel


def final(keys: list[int], limit: int) -> tuple[list[int], list[int]]:
    """Keys that no later hit can come before, and the others."""
    return [key for key in keys if key < limit], [key for key in keys if key >= limit]


def close_seams(keys: list[int], seam: int, piece: int, steps: int) -> int:
    """The first seam where keys must pass more than `steps` others on their way to their places; else all of them."""
    for start in range(seam, len(keys), piece):
        newest, passed, i = max(keys[:start]), 0, start
        while i < min(start + piece, len(keys)) and keys[i] < newest:
            passed += sum(key > keys[i] for key in keys[:i])
            keys = [*sorted(keys[: i + 1]), *keys[i + 1 :]]
            i += 1
        if passed > steps:
            return start
    return len(keys)


# --- datagrams --------------------------------------------------------------------------------------------------------


def chunks_of_chips(words: list[int]) -> tuple[dict[int, int], int]:
    """How many chunks each chip has, and how many words of the last one are not here."""
    found: dict[int, int] = {}
    i = 0
    while i < len(words):
        if w.CHUNK_MAGIC_FIELD.get(words[i]) == w.CHUNK_MAGIC:
            chip = w.CHUNK_CHIP.get(words[i])
            found[chip] = found.get(chip, 0) + 1
            i += w.CHUNK_BYTES.get(words[i]) // 8
        i += 1
    return found, i - len(words)


def follow_chunks(words: list[int], first: int) -> tuple[int, int]:
    """The last header (-1: none) of chunks that follow each other from `first` on, and where the next should be."""
    if first >= len(words) or w.CHUNK_MAGIC_FIELD.get(words[first]) != w.CHUNK_MAGIC:
        return -1, first
    last, behind = follow_chunks(words, first + 1 + w.CHUNK_BYTES.get(words[first]) // 8)
    return max(first, last), behind


def without_repeats(words: list[int], remembered: int, looked_at: int) -> list[int]:
    """The same words without datagrams that are one of the last of their chip again."""
    kept, names = [], {}
    i = 0
    while i < len(words):
        size = w.CHUNK_BYTES.get(words[i]) // 8
        if w.CHUNK_MAGIC_FIELD.get(words[i]) != w.CHUNK_MAGIC or size == 0:
            kept.append(words[i])
            i += 1
            continue
        datagram, chip = words[i : i + 1 + size], w.CHUNK_CHIP.get(words[i])
        i += 1 + size
        name = name_of(datagram[1:], looked_at, whole=len(datagram) == 1 + size or len(datagram) > looked_at)
        if name is not None and chip < w.MAX_CHIPS:
            before = names.setdefault(chip, [])
            repeats = (size, name) in before[-remembered:]
            before.append((size, name))
            if repeats:
                continue
        kept += datagram
    return kept


READ_OUTS = (0x71A0, 0x71B0)
"""A chip's remark that its read-out has ended."""


def name_of(words: list[int], looked_at: int, whole: bool) -> list[int] | None:
    """Words that tell a datagram from all others of its chip; None: nothing does, or its end is not here."""
    for n, word in enumerate(words[:looked_at], start=1):
        header, top = w.HEADER.get(word), w.TOP_BYTE.get(word)
        if header == w.PIXEL_DATA_DRIVEN or header == w.TdcByte.TDC1_RISING >> 4 or top == w.PACKET_ID_BYTE:
            return words[:n]
        if header not in (w.PIXEL_SEQUENTIAL, w.TIMER_LOW_BYTE >> 4, w.COMMAND_END_BYTE >> 4):
            return None
    tells = any(
        w.HEADER.get(word) == w.PIXEL_SEQUENTIAL or w.TOP_BYTE.get(word) == w.TIMER_LOW_BYTE or word >> 48 in READ_OUTS
        for word in words[:looked_at]
    )
    return words[:looked_at] if whole and tells else None


# --- gates, pictures, spectra -----------------------------------------------------------------------------------------


def is_inside(corners: Sequence[tuple[float, float]], x: float, y: float) -> bool:
    """Sum of the angles under which the edges are seen: a full turn inside, none outside."""
    turn = 0.0
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        a, b = atan2(y0 - y, x0 - x), atan2(y1 - y, x1 - x)
        turn += (b - a + pi) % (2 * pi) - pi
    return abs(turn) > pi


def keeps(gate: Gate, centroid: Mapping[str, float], calibration: MassCalibration | None = None) -> bool:
    """Whether a centroid lies in a gate."""
    for name, (low, high) in gate.windows(calibration).items():
        value = centroid[name]
        if isnan(value) or (low is not None and value < low) or (high is not None and value >= high):
            return False
    x, y = centroid["x"], centroid["y"]
    if gate.circle is not None:
        return hypot(x - gate.circle[0], y - gate.circle[1]) < gate.circle[2]
    if gate.ring is not None:
        return gate.ring[2] <= hypot(x - gate.ring[0], y - gate.ring[1]) < gate.ring[3]
    return gate.polygon is None or is_inside(gate.polygon, x, y)


def of_valid_shots(rows: list[int], shot: list[int], valid: list[int], first: int) -> list[int]:
    """Rows whose shot is in the table, which begins with shot `first`, and is valid."""
    marked = {first + i for i, mark in enumerate(valid) if mark}
    return [row for row in rows if shot[row] >= 0 and shot[row] in marked]


def shot_span(rows: list[int], shot: list[int]) -> tuple[int, int]:
    """The first shot of rows, and the one after the last."""
    shots = [shot[row] for row in rows if shot[row] >= 0]
    return (min(shots), max(shots) + 1) if shots else (-1, -1)


def per_shot(shot: list[int], n_shots: int) -> list[int]:
    """How many rows each shot has."""
    return [sum(number == one for number in shot) for one in range(n_shots)]


def picture(points: Iterable[tuple[float, float]], lines: int, columns: int) -> list[list[int]]:
    """How many points (x, y) are nearest to each pixel; those outside are left out."""
    image = [[0] * columns for _ in range(lines)]
    for x, y in points:
        column, line = floor(x + 0.5), floor(y + 0.5)
        if 0 <= line < lines and 0 <= column < columns:
            image[line][column] += 1
    return image


def histogram(values: Iterable[float], start: float, width: float, bins: int) -> list[int]:
    """How many values lie in each bin; NaN lies in none."""
    counts = [0] * bins
    for value in values:
        for k in range(bins):
            counts[k] += start + k * width <= value < start + (k + 1) * width
    return counts


def spectrum(values: Iterable[int], bins: int) -> list[int]:
    """How often each whole number occurs; what is larger than the last bin belongs to it."""
    counts = [0] * bins
    for value in values:
        counts[min(value, bins - 1)] += 1
    return counts


def pixel(x: float, y: float, lines: int, columns: int) -> int:
    """Number of the pixel nearest to a point; what lies outside belongs to the rim."""
    column = min(max(floor(x + 0.5), 0), columns - 1)
    return min(max(floor(y + 0.5), 0), lines - 1) * columns + column


def pulses(shot: list[int]) -> list[tuple[int, int]]:
    """(shot, first row) of each pulse: of every shot up to the last, empty or not, and of rows outside of one."""
    found = []
    highest, before = -1, None
    for row, number in enumerate(shot):
        if number != before:
            empty = range(highest + 1, number)
            found += [(one, row) for one in (*empty, number)]
        highest, before = max(highest, number), number
    return found
