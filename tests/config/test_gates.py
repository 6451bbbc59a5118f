"""Gates and the m/q calibration: what they say, and what they refuse with value, limit and remedy."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from ophyd_timepix.config import Gate, Geometry, MassCalibration, Peak, Processing
from ophyd_timepix.config.gates import check_gates, check_roi, check_window, overlaps

IODINE = MassCalibration(t0_ns=40.0, k_ns=1230.0)


def test_a_gate_survives_json():
    gate = Gate(name="iodine", tof=(13_800, 14_050), roi=(0, 128, 10, 256), tot=(None, 500), size=(2, None))
    assert Gate.model_validate_json(gate.model_dump_json()) == gate


def test_a_gate_gives_the_windows_of_columns():
    gate = Gate(name="left", mq=(126, 128), roi=(0, 128, 10, 256), size=(2, None))
    windows = gate.windows(IODINE)
    assert windows["x"] == (0, 128)
    assert windows["y"] == (10, 256)
    assert windows["size"] == (2, None)
    assert windows["tof"] == pytest.approx((40 + 1230 * math.sqrt(126), 40 + 1230 * math.sqrt(128)))
    assert "tot" not in windows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tof": (200, 100)}, r"window of tof is empty: 200.0 ns is not below 100.0 ns; give \(low, high\)"),
        ({"tof": (100, 100)}, "window of tof is empty"),
        ({"tof": (-20, 0)}, "window of tof holds nothing: it ends at 0.0 ns, and no centroid lies below 0 ns"),
        ({"size": (None, 1)}, "window of size holds nothing: it ends at 1.0 hits"),
        ({"tot": (5, 4)}, "window of tot is empty: 5.0 counts of 25 ns"),
        ({"mq": (128, 126)}, "window of mq is empty: 128.0 u/e"),
        ({"roi": (10, 5, 0, 9)}, "window of x is empty: 10.0 px is not below 5.0 px"),
        ({"ring": (128, 128, 10, 10)}, "ring is empty: it reaches from 10 px to 10 px"),
        ({"ring": (128, 128, -1, 10)}, "ring is empty: it reaches from -1 px to 10 px"),
        ({"ring": (1, 1, 0, 1), "circle": (1, 1, 1)}, "has circle and ring; give one region"),
        ({"circle": (128, 128, 0)}, "circle is empty: its radius is 0 px"),
        ({"polygon": ((0, 0), (1, 1))}, "polygon has 2 corners; give at least 3"),
        ({"tof": (0, 1), "mq": (1, 2)}, "a window of tof and one of mq; give one"),
        ({"roi": (0, 1, 0, 1), "circle": (1, 1, 1)}, "has roi and circle; give one region"),
        ({"tof": (float("nan"), 1)}, "finite"),
        ({"name": "I+"}, "should match pattern"),
    ],
)
def test_gates_that_can_hold_nothing_are_refused_with_a_reason(fields, message):
    with pytest.raises(ValidationError, match=message):
        Gate(**{"name": "gate", **fields})


def test_a_window_without_numbers_is_refused():
    with pytest.raises(ValueError, match="give numbers, or None"):
        check_window("tof", (float("nan"), None))


def test_a_region_outside_the_sensor_is_refused_with_its_limits():
    geometry = Geometry()
    with pytest.raises(ValueError, match=r"leaves the sensor: x from 200 to 300 px, .* from -0.5 to 256 px; keep it"):
        Gate(name="far", roi=(200, 300, 0, 10)).check(geometry)
    with pytest.raises(ValueError, match="leaves the sensor: y from -1 to 10 px"):
        check_roi((0, 10, -1, 10), geometry)
    with pytest.raises(ValueError, match="misses the sensor: x from 290 to 310 px"):
        Gate(name="round", circle=(300, 100, 10)).check(geometry)
    Gate(name="round", circle=(250, 100, 10)).check(geometry)  # a part of the picture is in it
    Gate(name="quad", roi=(200, 300, 0, 10)).check(Geometry.for_chips(4))
    Gate(name="all", roi=(-0.5, 256, 0, 256)).check(geometry)


def test_a_gate_on_what_is_not_recorded_is_refused():
    processing = Processing(tof_min_ns=1000, tof_max_ns=20_000)
    with pytest.raises(ValueError, match=r"'late' holds nothing: .* 20000 to any ns, and only 1000 to 20000 ns"):
        Gate(name="late", tof=(20_000, None)).check(processing=processing)
    with pytest.raises(ValueError, match="'early' holds nothing"):
        Gate(name="early", tof=(None, 1000)).check(processing=processing)
    Gate(name="ion", mq=(126, 128)).check(processing=processing, calibration=IODINE)


def test_a_gate_of_mass_needs_a_calibration():
    with pytest.raises(ValueError, match=r"there is no calibration; give calibration=MassCalibration.from_peaks"):
        Gate(name="iodine", mq=(126, 128)).tof_window()


def test_gates_of_one_name_and_overlapping_gates_are_refused_where_it_matters():
    left, right = Gate(name="left", tof=(0, 100)), Gate(name="right", tof=(100, 200))
    both = Gate(name="both", mq=(0, 1), size=(2, None))
    check_gates([left, right], disjoint=True)
    check_gates([left, right, both], calibration=MassCalibration(t0_ns=0, k_ns=150))
    assert overlaps([left, right, both], MassCalibration(t0_ns=0, k_ns=150)) == (("left", "both"), ("right", "both"))
    with pytest.raises(ValueError, match=r"'left' and 'both' overlap: .*count twice"):
        check_gates([left, both], calibration=MassCalibration(t0_ns=0, k_ns=150), disjoint=True)
    with pytest.raises(ValueError, match="two gates have the name 'left'"):
        check_gates([left, right, left])


def test_two_peaks_fix_a_calibration_and_leave_its_errors_unknown():
    calibration = MassCalibration.from_peaks([(1, 140.0), (4, 240.0)])
    assert (calibration.t0_ns, calibration.k_ns) == pytest.approx((40.0, 100.0))
    assert calibration.t0_error_ns is None
    assert calibration.k_error_ns is None
    assert MassCalibration.model_validate_json(calibration.model_dump_json()) == calibration


def test_mass_and_time_of_flight_are_inverse():
    masses = np.array([1.0, 15.0, 127.0, 142.0])
    assert IODINE.mq(IODINE.tof_ns(masses)) == pytest.approx(masses)
    assert IODINE.mq(IODINE.tof_ns(127)) == pytest.approx(127)
    assert np.isnan(IODINE.mq(39.0))
    assert IODINE.tof_window((None, 1)) == (40.0, 1270.0)


def test_the_errors_of_a_fit_are_those_that_repeating_it_shows():
    """Statistics with a fixed seed: errors of the fit against the spread of 400 fits."""
    rng = np.random.default_rng(1)
    masses, sigma = np.array([1.0, 15, 28, 127, 142]), 5.0
    fits = [
        MassCalibration.from_peaks(
            Peak(mq=m, tof_ns=t, tof_error_ns=sigma)
            for m, t in zip(masses, IODINE.tof_ns(masses) + rng.normal(0, sigma, 5), strict=True)
        )
        for _ in range(400)
    ]
    for name in ("t0_ns", "k_ns"):
        spread = np.std([getattr(fit, name) for fit in fits])
        error = getattr(fits[0], name.replace("_ns", "_error_ns"))
        assert error == pytest.approx(spread, rel=0.15)
        assert np.mean([getattr(fit, name) for fit in fits]) == pytest.approx(getattr(IODINE, name), abs=4 * error / 20)
    scattered = MassCalibration.from_peaks((p.mq, p.tof_ns) for p in fits[0].peaks)
    assert scattered.t0_error_ns == pytest.approx(fits[0].t0_error_ns, rel=1.0)
    assert max(map(abs, fits[0].residuals_ns())) < 4 * sigma


LYING = {"CH3+": (15.023, 0.1), "I++": (63.45, 0.1), "I+": (126.9, 0.1), "CH3I+": (141.93, 0.1)}


def lying(**off_ns):
    """Peaks with a standard error of 0.1 ns, some of them off the line."""
    return MassCalibration.from_peaks(
        Peak(mq=mq, tof_ns=IODINE.tof_ns(mq) + off_ns.get(name.rstrip("+"), 0.0), tof_error_ns=error, name=name)
        for name, (mq, error) in LYING.items()
    )


def test_peaks_that_lie_off_the_line_widen_the_errors_of_the_fit():
    straight, crooked = lying(), lying(I=0.6, CH3=-0.6)
    chi2 = sum((residual / 0.1) ** 2 for residual in crooked.residuals_ns())
    assert crooked.t0_error_ns == pytest.approx(straight.t0_error_ns * math.sqrt(chi2 / 2))
    assert crooked.k_error_ns == pytest.approx(straight.k_error_ns * math.sqrt(chi2 / 2))
    assert crooked.off_the_line() == (), "tenths of a nanosecond are what the pixels do"


def test_a_peak_that_is_not_the_ion_it_was_given_for_takes_others_off_the_line_with_it():
    wrong = lying(I=-12.0)
    assert {"I+", "CH3I+"} <= {peak.name for peak in wrong.off_the_line()}
    assert "I+         m/q  126.9000 u/e at    13883.94 +- 0.10 ns, -4.73 ns off the line" in wrong.as_text()


@pytest.mark.parametrize("peaks", [[], [(127, 13_900)], [(127, 13_900), (127, 13_901)]])
def test_too_few_peaks_are_refused_with_their_number(peaks):
    with pytest.raises(ValueError, match=r"at least 2 peaks of different m/q, got [01]; add a peak"):
        MassCalibration.from_peaks(peaks)


def test_peaks_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"heavier ions fly longer .*check which peak is which ion"):
        MassCalibration.from_peaks([(127, 4800), (15, 13_900)])
