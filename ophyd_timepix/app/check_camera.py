"""Whether a camera looks right: what its board says, and a short exposure without files."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from ..capture.sockets import Buffer
from ..control import Board, ChipInfo, Drift, SentCounters, SpidrClient
from ..control.inspection import BoardState, ChipState, as_found, best_reading, drift_between, inspect
from ..control.timer_service import DRIFT_BOUND_PPM
from ..events.quality import EdgeKind, edge_kinds, hot_pixels, pixel_counts, share_in_clusters
from ..pipeline.glance import Glance, Seen
from ..pipeline.messages import Receiver
from ..protocol import ChipId, Polarity
from ..protocol.registers import BIAS_ON_V
from ..protocol.words import MATRIX_SIDE
from .check_findings import Finding, look, ok, wrong
from .check_network import Card, card_of, judge_card

HOT_DEGC: Final = 75.0
"""Above it somebody should look after fans and cooling; no source states a limit."""
NOISE_SHARE: Final = 0.05
"""Where fewer hits than this have one beside them, no particles come."""
FEW_HITS: Final = 20
"""Fewer say nothing."""
MANY_HITS: Final = 500_000
"""So many are looked at for clusters."""
PIXELS: Final = MATRIX_SIDE**2
SHOWN_PIXELS: Final = 8
LONGER_S: Final = 10
ON_THE_WAY_S: Final = 0.05
"""What the chips still hold when the shutter has closed comes within this."""
COUNTERS_PAUSE_S: Final = 0.01
COUNTERS_READINGS: Final = 50
HOLES: Final = "a SPIDR's bias is positive and brings holes to the chip in the usual silicon sensor"
FIREWALL: Final = "let UDP in: sudo ufw allow in on {0} (or sudo firewall-cmd --zone=trusted --change-interface={0})"


@dataclass(frozen=True)
class Exposure:
    """What came while the shutter was open."""

    seconds: float
    seen: Seen
    sent_datagrams: int
    sent_pixel_words: int
    board_triggers: int
    """That the board's own TDC counted."""
    drift: Drift | None
    destinations: list[tuple[str, int]]
    senders: tuple[str, ...]
    buffers: list[Buffer]


@dataclass(frozen=True)
class Camera:
    """What was found."""

    findings: list[Finding]
    facts: dict[str, Any]
    """For `--json`."""


def examine(address: str, seconds: float) -> Camera:
    """Ask the board, expose, judge. Raises ControlError when the board does not answer."""
    with SpidrClient.at(address) as client:
        board = Board(client)
        state = inspect(board)
        card = card_of(board.local_address)
        findings = [*judge_board(state), judge_card(card)]
        if not state.chips:
            return Camera(findings, {"address": address, "board": str(state.info)})
        exposure = expose(board, seconds)
    findings += judge_exposure(state, exposure, card)
    return Camera(findings, _facts(address, state, exposure))


def expose(board: Board, seconds: float) -> Exposure:
    """Open the shutter for a moment; words go into memory. The board's settings are as before, afterwards."""
    chips = board.present_chips()
    address = board.local_address
    receivers = [Receiver(chip=c.index, host=address, port=0, senders=board.data_senders(c.index)) for c in chips]
    with Glance(receivers) as glance, as_found(board):
        board.close_shutter()
        board.pause_readout()
        before = _settled(board)  # from here on, all that is sent has to come
        glance.begin()
        for chip, port in zip(chips, glance.ports, strict=True):
            chip.set_destination(address, port)
        board.prepare_readout()
        first = best_reading(board, chips[0].index)
        board.open_shutter()
        threading.Event().wait(seconds)
        board.close_shutter()
        for chip in chips:  # each chip repeats its timer in its stream: something has to come, light or not
            chip.timer()
        last = best_reading(board, chips[0].index)
        threading.Event().wait(ON_THE_WAY_S)
        board.pause_readout()
        after = _settled(board)
        return Exposure(
            seconds,
            glance.end(after.datagrams - before.datagrams, last.counts),
            after.datagrams - before.datagrams,
            sum(after.pixel_words) - sum(before.pixel_words),
            after.tdc_triggers - before.tdc_triggers,
            drift_between(first, last),
            [(address, port) for port in glance.ports],
            board.data_senders(chips[0].index),
            glance.buffers,
        )


def _settled(board: Board) -> SentCounters:
    """The board's counters once two readings agree; the last one when it goes on sending all the same."""
    now = board.sent_counters()
    for _ in range(COUNTERS_READINGS):
        before = now
        threading.Event().wait(COUNTERS_PAUSE_S)
        now = board.sent_counters()
        if now.datagrams == before.datagrams:
            break
    return now


# --- what the board says ----------------------------------------------------------------------------------------------


def judge_board(state: BoardState) -> list[Finding]:
    """Versions, chips, bias, temperatures."""
    info = state.info
    findings = [ok("board", f"answers; software {info.software_version}, firmware {info.firmware_version}")]
    beside = max(info.present, default=-1)
    judged = (judge_links(chip, missed=chip.index < beside) for chip in info.chips)
    findings += [finding for finding in judged if finding is not None]
    if not info.present:
        findings.append(wrong("chips", "none with locked links", "check the chips' power and cables, reset the board"))
    findings.append(judge_bias(state.bias_v))
    findings.append(judge_temperatures(state.temperatures))
    findings += [judge_chip(chip) for chip in state.chips]
    return findings


def judge_links(chip: ChipInfo, *, missed: bool = False) -> Finding | None:
    """None for a place without a chip. missed: there is one behind it, and chips are counted without gaps."""
    what = f"chip {chip.index}"
    if chip.present:
        return ok(what, f"{chip.name}, {chip.locked_links.bit_count()} links, all locked")
    if ChipId(chip.chip_id).absent and not missed:
        return None
    found = f"{chip.name or 'no id'}: links enabled 0x{chip.enabled_links:02X}, locked 0x{chip.locked_links:02X}"
    return wrong(what, found, "check the chip's power and cable, then reset the board")


def judge_bias(volts: float | None) -> Finding:
    """Without it no charge is collected."""
    if volts is None:
        return look("bias", "its ADC does not answer", "power-cycle the board if the bias matters to you")
    if volts < BIAS_ON_V:
        return wrong("bias", f"off ({volts:.1f} V measured)", "RE(bps.mv(spidr.bias, 50))")
    return ok("bias", f"{volts:.1f} V")


def judge_temperatures(temperatures: dict[str, float | None]) -> Finding:
    """Where a sensor failed the read-out works all the same."""
    found = ", ".join(f"{name} {'?' if t is None else f'{t:.1f} °C'}" for name, t in temperatures.items())
    if any(t is not None and t > HOT_DEGC for t in temperatures.values()):
        return look("temperatures", found, f"above {HOT_DEGC:.0f} °C: look after fans and cooling water")
    if None in temperatures.values():
        return look("temperatures", found, "a sensor of the board failed: read-out works without it")
    return ok("temperatures", found)


def judge_chip(chip: ChipState) -> Finding:
    """Its mask and its column phase."""
    what = f"chip {chip.index} settings"
    found = f"{chip.pll.n_phases if not chip.phase_unknown else '?'} clock phases, {chip.masked:,} pixels masked"
    if chip.phase_unknown:
        return wrong(what, chip.phase_unknown, f"spidr.chip{chip.index}.config.pll.phases.set('16')")
    if chip.masked == PIXELS:
        return wrong(
            what, found, f"every pixel is masked: load a configuration, spidr.chip{chip.index}.matrix.set(...)"
        )
    return ok(what, found)


# --- what the exposure says -------------------------------------------------------------------------------------------


def judge_exposure(state: BoardState, exposure: Exposure, card: Card | None = None) -> list[Finding]:
    """Data, triggers, hits, clock."""
    clock = judge_clock(state.external_clock, exposure.drift, simulated=card is not None and card.is_loopback)
    findings = [judge_arrival(exposure, card), clock]
    findings += judge_triggers(_edges(exposure.seen), exposure.board_triggers)
    for chip in state.chips:
        findings += judge_hits(chip, exposure, _triggered(exposure.seen), bias_on=_is_on(state.bias_v))
    return findings


def judge_arrival(exposure: Exposure, card: Card | None = None) -> Finding:
    """Whether what the board sent came here."""
    totals, sent = exposure.seen.totals, exposure.sent_datagrams
    to = ", ".join(f"{host}:{port}" for host, port in exposure.destinations)
    found = f"{totals.arrived:,} of {sent:,} datagrams from {' or '.join(dict.fromkeys(exposure.senders))} to UDP {to}"
    if not totals.arrived and not sent:
        return wrong("data", f"the board sent nothing to UDP {to}, not even its timer", "power-cycle the camera")
    if not totals.arrived:
        interface = card.name if card else "IFACE"
        return wrong(
            "data", f"{found}: none arrives", FIREWALL.format(interface) + "; jumbo frames on card and switch?"
        )
    if totals.kernel_dropped:
        remedy = "a larger receive buffer, a free core" if any(b.warning for b in exposure.buffers) else "a free core"
        return wrong("data", f"{found}; the kernel dropped {totals.kernel_dropped:,}", remedy)
    if totals.arrived < sent:
        remedy = "cable, switch, jumbo frames; enlarge the ring of the network card: sudo ethtool -G IFACE rx 4096"
        return wrong("data", f"{found}: {sent - totals.arrived:,} lost on the way", remedy)
    if totals.malformed_datagrams:
        return wrong("data", f"{found}; {totals.malformed_datagrams:,} are no whole words", "is it a SPIDR that sends?")
    if totals.wrong_sender:
        found += f"; {totals.wrong_sender:,} from somebody else, set aside"
        return look("data", found, "another camera sends to this machine: give each a network of its own")
    unknown = exposure.seen.counts["unknown_words"]
    if unknown:
        return look(
            "data", f"{found}; {unknown:,} unknown words", "decoders on? is the firmware newer than this program?"
        )
    return ok("data", found)


def judge_clock(external: bool, drift: Drift | None, *, simulated: bool = False) -> Finding:
    """Source, and rate against the host's clock."""
    source = "external reference" if external else "the board's own"
    if drift is None:
        remedy = "is there a clock at the input? spidr.clock.external.set('off') takes the board's own"
        return wrong("clock", f"{source}: the timer does not run", remedy if external else "power-cycle the camera")
    way = "slow" if drift.ppm > 0 else "fast"
    found = f"{source}; {abs(drift.ppm):.0f} ± {drift.uncertainty_ppm:.0f} ppm {way} against this computer's"
    if abs(drift.ppm) - drift.uncertainty_ppm <= DRIFT_BOUND_PPM:
        coarse = drift.uncertainty_ppm > DRIFT_BOUND_PPM
        return ok("clock", f"{found} (--seconds {LONGER_S} tells more)" if coarse else found)
    if simulated:
        return look("clock", found, "a simulator on a busy machine runs late; with a camera this would be wrong")
    remedy = "times are scaled by as much: check the frequency at the clock input" if external else _QUARTZ
    return (wrong if external else look)("clock", found, remedy)


_QUARTZ: Final = (
    f"two quartz clocks differ by less than {DRIFT_BOUND_PPM:.0f} ppm: is this computer's disciplined (NTP)?"
)


def _edges(seen: Seen) -> list[EdgeKind]:
    """By the lowest chip that tells of any: every chip repeats them."""
    if not seen.edge_chip.size:
        return []
    of = seen.edge_chip == seen.edge_chip.min()
    return edge_kinds(seen.edge_ticks[of], seen.edge_input[of], seen.edge_falling[of], seen.edge_counter[of])


def _triggered(seen: Seen) -> bool:
    return bool(seen.edge_ticks.size)


def judge_triggers(kinds: Sequence[EdgeKind], board_triggers: int) -> list[Finding]:
    """Each input and edge."""
    if kinds:
        return [judge_edges(kind) for kind in kinds]
    if board_triggers:
        found = f"the board counted {board_triggers:,}, and sent no words of them"
        return [wrong("triggers", found, "spidr.tdc.word.set(0) enables both inputs and both edges")]
    remedy = "for shots: signal and level at the TDC input? without shots all hits are kept by their time of arrival"
    return [look("triggers", "none on TDC 1 and TDC 2", remedy)]


def judge_edges(kind: EdgeKind) -> Finding:
    """Rate, spacing, sequence."""
    found = f"{kind.edges:,} edges, {kind.rate_hz:,.1f} Hz"
    if kind.edges > 1:
        found += f", spacing {_span(kind.spacing_ns)} ({_span(kind.shortest_ns)} to {_span(kind.longest_ns)})"
    if kind.missing:
        return wrong(
            kind.name,
            f"{found}; {kind.missing:,} missing by the counter of the input",
            "edges are lost: see `data` above",
        )
    if kind.doubled:
        remedy = "ringing or reflections on the trigger line? set its level, terminate it with 50 ohm"
        return look(kind.name, f"{found}; {kind.doubled:,} twice as close as usual", remedy)
    if kind.late:
        return look(kind.name, f"{found}; {kind.late:,} gaps", "does the source skip pulses? is its level high enough?")
    return ok(kind.name, f"{found}, no gaps")


def _span(ns: float) -> str:
    for limit, unit in ((1e3, "ns"), (1e6, "µs"), (1e9, "ms")):
        if ns < limit * 0.9995:
            return f"{ns / limit * 1e3:.4g} {unit}"
    return f"{ns / 1e9:.4g} s"


def judge_hits(chip: ChipState, exposure: Exposure, triggered: bool, *, bias_on: bool) -> list[Finding]:
    """Hits, whether they are more than noise, and hot pixels; with what the polarity has to do with it."""
    what = f"chip {chip.index} hits"
    x, y, ticks = _hits_of(chip.index, exposure.seen)
    polarity = "electrons (negative)" if chip.general.polarity == Polarity.ELECTRONS else "holes (positive)"
    said = f"polarity {polarity}, bias {'on' if bias_on else 'off'}"
    if not ticks.size:
        return [_no_hits(chip, f"none in {exposure.seconds:g} s; {said}", triggered, bias_on=bias_on)]
    if ticks.size < FEW_HITS:
        remedy = "nearly dark: is there light or beam? threshold, mask, shutter of the experiment, polarity"
        return [look(what, f"{ticks.size} in {exposure.seconds:g} s; {said}", remedy)]
    rate = ticks.size / _seconds_of(exposure)
    share = share_in_clusters(ticks[:MANY_HITS], x[:MANY_HITS], y[:MANY_HITS])
    found = f"{rate:,.0f} hit/s, {share:.0%} with a hit beside them; {said}"
    finding = _only_noise(chip, found) if share < NOISE_SHARE else ok(what, found)
    return [finding, *judge_hot(chip.index, pixel_counts(x, y))]


def _hits_of(chip: int, seen: Seen) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    of = seen.chip == chip
    return seen.x[of], seen.y[of], seen.ticks[of]


def _seconds_of(exposure: Exposure) -> float:
    """Of what was kept: of a very fast stream only the beginning is."""
    share = 1.0 if exposure.seen.complete else exposure.seen.totals.datagrams / max(1, exposure.seen.totals.arrived)
    return exposure.seconds * share


def _turn(chip: ChipState) -> str:
    other = "holes (positive)" if chip.general.polarity == Polarity.ELECTRONS else "electrons (negative)"
    return f"spidr.chip{chip.index}.config.general.polarity.set({other!r})"


def _no_hits(chip: ChipState, found: str, triggered: bool, *, bias_on: bool) -> Finding:
    what = f"chip {chip.index} hits"
    if chip.general.polarity == Polarity.ELECTRONS:
        return wrong(what, f"{found}; {HOLES}", _turn(chip))
    if not bias_on:
        return wrong(what, found, "switch the bias on")
    beam = "triggers come, " if triggered else ""
    return wrong(what, found, f"{beam}is there light or beam? threshold, mask, shutter of the experiment, polarity")


def _only_noise(chip: ChipState, found: str) -> Finding:
    what, noise = f"chip {chip.index} hits", f"{found}: single pixels, noise"
    if chip.general.polarity == Polarity.ELECTRONS:
        return wrong(what, f"{noise}; {HOLES}", _turn(chip))
    return look(what, noise, "unless every particle fires one pixel: beam? threshold too near the noise? polarity?")


def judge_hot(chip: int, counts: npt.NDArray[Any]) -> list[Finding]:
    """A proposal of a mask; nothing is masked."""
    hot = hot_pixels(counts)
    what = f"chip {chip} hot pixels"
    if not hot:
        return [ok(what, "none")]
    share = sum(int(counts[row, column]) for column, row in hot) / int(counts.sum())
    shown = ", ".join(f"({column}, {row})" for column, row in hot[:SHOWN_PIXELS])
    more = f" and {len(hot) - SHOWN_PIXELS} more (--json lists all)" if len(hot) > SHOWN_PIXELS else ""
    found = f"{len(hot)} pixels make {share:.0%} of the hits: {shown}{more}"
    column, row = hot[0]
    return [look(what, found, f"mask them: spidr.chip{chip}.matrix.mask({column}, {row}) ...")]


def _is_on(volts: float | None) -> bool:
    return volts is None or volts >= BIAS_ON_V


# --- for programs -----------------------------------------------------------------------------------------------------


def _facts(address: str, state: BoardState, exposure: Exposure) -> dict[str, Any]:
    seen, drift = exposure.seen, exposure.drift
    return {
        "address": address,
        "software": state.info.software_version,
        "firmware": state.info.firmware_version,
        "bias_v": state.bias_v,
        "temperatures_degc": state.temperatures,
        "external_clock": state.external_clock,
        "drift_ppm": None if drift is None else drift.ppm,
        "seconds": exposure.seconds,
        "sent_datagrams": exposure.sent_datagrams,
        "arrived_datagrams": seen.totals.arrived,
        "hits": int(seen.ticks.size),
        "edges": [{**kind._asdict(), "name": kind.name} for kind in _edges(seen)],
        "chips": [_chip_facts(chip, seen) for chip in state.chips],
    }


def _chip_facts(chip: ChipState, seen: Seen) -> dict[str, Any]:
    x, y, ticks = _hits_of(chip.index, seen)
    return {
        "index": chip.index,
        "polarity": Polarity(chip.general.polarity).name.lower(),
        "pll": chip.pll.word,
        "masked": chip.masked,
        "hits": int(ticks.size),
        "hot_pixels": [list(pixel) for pixel in hot_pixels(pixel_counts(x, y))],
    }
