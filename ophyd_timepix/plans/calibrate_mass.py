"""Which time of flight is which mass: a run with a fine spectrum, its peaks found near guesses, a line fitted."""

import logging
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import Msg

from ..config import MassCalibration
from ..config.gates import Peak
from ..devices import TimepixDetector
from ..events.peaks import find_peak
from .until import with_settings

logger = logging.getLogger(__name__)

Plan = Generator[Msg, Any, Any]

BINS_MAX: Final = 1_000_000


def calibrate_mass(
    tpx: TimepixDetector,
    peaks: Mapping[str, float | Sequence[float]],
    *,
    search_ns: float = 200.0,
    bin_ns: float = 2.0,
    shots: int | None = None,
    seconds: float | None = None,
    md: dict[str, Any] | None = None,
) -> Plan:
    """Take a run, find the peaks of known ions, fit t = t0 + k sqrt(m/q), and set it as the detector's calibration.

    peaks: name -> (m/q in u/e, guess of its time of flight in ns); or name -> m/q alone, where the detector has a
    calibration already that is near enough. At least two of different m/q. Each is looked for within `search_ns` of
    its guess, in bins of `bin_ns`. Without shots or seconds the detector's own say how long.
    Returns the `MassCalibration`, with errors, which `tpx.mass` shows; a warning says which peaks do not lie on the
    line. Raises ValueError when a peak is not found, and nothing is set then.
    """
    guesses = _guesses(peaks, tpx.mass.model)
    settings = _settings(tpx, [tof for _, tof in guesses.values()], search_ns, bin_ns)
    if shots is not None:
        settings[tpx.shots] = shots
    if seconds is not None:
        settings |= {tpx.shots: 0, tpx.exposure: seconds}
    metadata = {
        "plan_name": "calibrate_mass",
        "detectors": [tpx.name],
        "plan_args": {"tpx": repr(tpx), "peaks": {name: list(guess) for name, guess in guesses.items()}},
        "hints": {},
        **(md or {}),
    }

    @bpp.stage_decorator([tpx])
    @bpp.run_decorator(md=metadata)
    def exposed() -> Plan:
        yield from bps.checkpoint()
        reading = yield from bps.trigger_and_read([tpx])
        return bool(reading)

    taken = yield from with_settings(settings, exposed())
    if not taken:  # a plan that is only looked at
        return None
    calibration = conclude(tpx, guesses, search_ns)
    tpx.mass.adopt(calibration)
    return calibration


def conclude(tpx: TimepixDetector, guesses: Mapping[str, tuple[float, float]], search_ns: float) -> MassCalibration:
    """The calibration that the detector's last spectrum gives. The log has it, as a warning where peaks lie off."""
    calibration = fit(tpx, guesses, search_ns)
    text, off = calibration.as_text(), ", ".join(peak.name for peak in calibration.off_the_line())
    if off:
        logger.warning(
            "%s: not all peaks lie on one line (%s by more than 3 standard errors and 1 ns): is each of them the ion "
            "that it was given for, and its m/q right?\n%s",
            tpx.name,
            off,
            text,
        )
    else:
        logger.info("%s: %s", tpx.name, text)
    return calibration


def fit(tpx: TimepixDetector, guesses: Mapping[str, tuple[float, float]], search_ns: float) -> MassCalibration:
    """The calibration that the detector's last spectrum gives."""
    sums = tpx.last_sums
    if sums is None:
        raise ValueError(f"{tpx.name} has no spectrum yet; expose first")
    counts, edges = sums.tof[: sums.spectrum.bins], sums.spectrum.edges_ns
    found = []
    for name, (mq, guess) in guesses.items():
        try:
            peak = find_peak(np.asarray(counts), edges, guess, search_ns)
        except ValueError as error:
            raise ValueError(f"{name} (m/q {mq:g} u/e): {error}") from None
        found.append(Peak(mq=mq, tof_ns=peak.position, tof_error_ns=peak.error, name=name))
    return MassCalibration.from_peaks(found)


def _guesses(
    peaks: Mapping[str, float | Sequence[float]], known: MassCalibration | None
) -> dict[str, tuple[float, float]]:
    guesses = {}
    for name, given in peaks.items():
        if isinstance(given, Sequence):
            mq, guess = given
            guesses[name] = (float(mq), float(guess))
        elif known is None:
            raise ValueError(
                f"{name}: where is its peak? Give (m/q, time of flight in ns); m/q alone is enough only for a detector "
                "that has a calibration already"
            )
        else:
            guesses[name] = (float(given), float(known.tof_ns(given)))
    if len({mq for mq, _ in guesses.values()}) < 2:
        raise ValueError(f"a calibration of m/q needs at least 2 peaks of different m/q, got {len(guesses)}")
    return guesses


def _settings(tpx: TimepixDetector, tofs: list[float], search_ns: float, bin_ns: float) -> dict[Any, Any]:
    """A fine spectrum around the peaks; no gate, whose m/q may be what is looked for; no goal in one."""
    start, stop = max(min(tofs) - 2 * search_ns, 0.0), max(tofs) + 2 * search_ns
    bins = int(np.ceil((stop - start) / bin_ns))
    if search_ns <= 0 or bin_ns <= 0 or bins > BINS_MAX:
        raise ValueError(
            f"bins of {bin_ns:g} ns from {start:g} to {stop:g} ns are {bins}, at most {BINS_MAX} are possible; "
            "search_ns and bin_ns are above 0"
        )
    spectrum = {tpx.tof.start: start, tpx.tof.stop_at: start + bins * bin_ns, tpx.tof.bins: bins}
    return spectrum | {tpx.until.gate: ""} | {slot.enabled: "off" for slot in tpx.gates.on}
