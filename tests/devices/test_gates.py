"""Gates, m/q and goals as signals: what a user sets, sees in documents, and is refused."""

import math

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.suspenders import SuspendBoolLow
from bluesky.utils import FailedStatus
from ophyd import Kind

from ophyd_timepix.config import Gate, MassCalibration
from ophyd_timepix.events.sums import PointArrays, Spectrum
from ophyd_timepix.plans import calibrate_mass, count_until, until, with_settings
from ophyd_timepix.plans.calibrate_mass import conclude
from tests.bluesky_fixtures import run_and_interrupt
from tests.fakes import SHOTS_PER_LOOK

IODINE = Gate(name="iodine", tof=(13_800, 14_050), roi=(10, 200, 20, 220), tot=(5, None), size=(None, 9))
METHYL = Gate(name="methyl", mq=(14.5, 15.5))
CALIBRATION = MassCalibration.from_peaks([(15.023, 5051.0), (126.9, 13918.0), (141.93, 14696.0)])

pytestmark = pytest.mark.usefixtures("installed")


def test_a_slot_gives_back_the_gate_that_it_took(tpx):
    tpx.gates.gate3.adopt(IODINE)
    wide = IODINE.model_copy(update={"tot": (5.0, None), "size": (None, 9.0)})
    assert tpx.gates.gate3.model() == wide
    tpx.gates.gate3.adopt(METHYL)
    assert tpx.gates.gate3.model() == METHYL
    assert repr(tpx.gates.gate3) == "<tpx_gates_gate3 'methyl': mq 14.5 to 15.5, off>"


def test_a_region_that_is_open_reaches_to_the_rim(tpx):
    tpx.gates.gate0.x_min.put(30)
    assert tpx.gates.gate0.model(516, 516).roi == (30, 516, 0, 516)


def test_only_gates_that_are_on_are_in_documents_and_they_are_what_is_plotted(RE, checker, tpx):
    RE(bp.count([tpx]))
    tpx.gates.define(IODINE)
    RE(bp.count([tpx]))
    tpx.gates.define()
    RE(bp.count([tpx]))
    without, gated, again = (run.described("primary")[0] for run in checker.runs)
    assert without["hints"]["tpx"]["fields"] == ["tpx_n_centroids"]
    assert not any("gate" in key for key in without["data_keys"])
    assert not any("gate" in key for key in set(without["configuration"]["tpx"]["data"]) - {"tpx_until_gate"})
    assert gated["hints"]["tpx"]["fields"] == ["tpx_gates_gate0_counts", "tpx_gates_gate0_counts_per_shot"]
    assert {key for key in gated["data_keys"] if "gate" in key} == {
        f"tpx_gates_gate0_{name}" for name in ("counts", "counts_per_shot", "error")
    }
    assert gated["configuration"]["tpx"]["data"]["tpx_gates_gate0_tof_max"] == 14_050
    assert again["hints"] == without["hints"]
    (point,) = checker.runs[1].stream("primary")
    assert point["tpx_gates_gate0_counts"] == point["tpx_n_shots"] // 2
    assert point["tpx_gates_gate0_counts_per_shot"] == pytest.approx(0.5)


def test_a_window_may_change_between_points_and_the_change_is_recorded(RE, checker, tpx, pipe):
    tpx.gates.define(IODINE)

    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        for stop in (14_000, 14_100):
            yield from bps.mv(tpx.gates.gate0.tof_max, stop)
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([tpx])

    RE(plan())
    assert [counting.gates[0].tof[1] for counting in pipe.countings] == [14_000, 14_100]
    described = checker.run.described("primary")
    assert [d["configuration"]["tpx"]["data"]["tpx_gates_gate0_tof_max"] for d in described] == [14_000, 14_100]


def test_a_gate_is_switched_between_runs_only(RE, tpx):
    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([tpx])
        yield from bps.mv(tpx.gates.gate1.enabled, "on")

    with pytest.raises(FailedStatus) as failure:
        RE(plan())
    assert "cannot be switched on or off while tpx records a run" in str(failure.value.__cause__)
    RE(bps.mv(tpx.gates.gate1.enabled, "on"))
    assert tpx.gates.on == (tpx.gates.gate1,)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ((METHYL,), "has no calibration of m/q; run the plan calibrate_mass\\(tpx, ...\\)"),
        ((Gate(name="a", roi=(0, 400, 0, 10)),), "leaves the sensor: x from 0 to 400 px"),
        ((Gate(name="late", tof=(30_000, 40_000)),), "holds nothing: .* only any to 20000 ns are recorded"),
    ],
)
def test_a_gate_that_can_hold_nothing_is_refused_before_the_shutter_opens(
    RE, tpx, pipe, fake_board, gates, message, checker
):
    tpx.processing.tof_max_ns.put(20_000.0)
    tpx.gates.define(*gates)
    with pytest.raises(ValueError, match=message):
        RE(bp.count([tpx]))
    assert not pipe.countings
    assert "open_shutter" not in fake_board.calls
    tpx.gates.define()
    RE(bp.count([tpx]))
    assert checker.runs[-1].stop["exit_status"] == "success"


def test_bounds_that_cross_are_refused_with_the_name_of_the_quantity(RE, tpx):
    tpx.gates.gate0.enabled.put("on")
    tpx.gates.gate0.tof_min.put(500.0)
    tpx.gates.gate0.tof_max.put(400.0)
    with pytest.raises(ValueError, match=r"the window of tof is empty: 500.0 ns is not below 400.0 ns"):
        RE(bp.count([tpx]))


def test_two_gates_of_one_name_and_gates_without_a_slot_are_refused(tpx):
    with pytest.raises(ValueError, match="two gates have the name 'iodine'"):
        tpx.gates.define(IODINE, IODINE)
    with pytest.raises(ValueError, match="9 gates were given, there are 8 slots"):
        tpx.gates.define(*[Gate(name=f"g{k}") for k in range(9)])
    with pytest.raises(ValueError, match=r"has a polygon, a slot takes a region .* with `regate`"):
        tpx.gates.define(Gate(name="corners", polygon=((1, 2), (3, 4), (1, 4))))


def test_a_calibration_is_kept_with_its_peaks_until_it_is_changed_by_hand(tpx):
    tpx.mass.adopt(CALIBRATION)
    assert tpx.mass.model == CALIBRATION
    assert MassCalibration.model_validate_json(tpx.mass_calibration.get()) == CALIBRATION
    tpx.mass.t0.put(1.0)
    assert tpx.mass.model.peaks == ()
    assert MassCalibration.model_validate_json(tpx.mass_calibration.get()).t0_ns == 1.0
    tpx.mass.adopt(None)
    assert tpx.mass.model is None
    assert tpx.mass_calibration.get() == ""


def test_gates_of_mass_take_the_calibration_along(RE, tpx, pipe):
    tpx.mass.adopt(CALIBRATION)
    tpx.gates.define(METHYL)
    RE(bp.count([tpx]))
    assert pipe.countings[-1].calibration == CALIBRATION
    assert pipe.countings[-1].gates == (METHYL,)


@pytest.mark.parametrize("goal", [{"counts": 120}, {"relative_error": 0.2}])
def test_count_until_ends_when_the_gate_has_enough_and_leaves_no_trace(RE, checker, tpx, pipe, caplog, goal):
    tpx.gates.define(IODINE)
    pipe.flow.set()
    RE(count_until(tpx, gate="iodine", at_most_s=30, num=2, **goal))
    assert "before gate" not in caplog.text
    for point in checker.run.stream("primary"):
        counts = point["tpx_gates_gate0_counts"]
        enough = counts >= 120 if "counts" in goal else point["tpx_gates_gate0_error"] <= 0.2 * 0.5
        assert enough
        assert counts <= 120 + SHOTS_PER_LOOK
    assert checker.run.start["plan_args"]["gate"] == "iodine"
    assert (tpx.until.gate.get(), tpx.until.counts.get()) == ("", 0)


def test_the_gates_say_at_the_prompt_what_they_counted_under_which_label(RE, tpx):
    assert repr(tpx.gates) == "<tpx_gates: none is on; tpx.gates.define(Gate(...))>"
    tpx.gates.define(IODINE)
    RE(bp.count([tpx]))
    assert repr(tpx.gates).splitlines()[-1].split()[:4] == ["gate0", "iodine", str(tpx.gates.gate0.counts.get()), "0.5"]


def test_a_goal_that_is_not_reached_ends_in_time_and_says_so(RE, checker, tpx, pipe, caplog):
    tpx.gates.define(IODINE)
    pipe.flow.clear()
    RE(count_until(tpx, gate="gate0", counts=10, at_most_s=0.1))
    (point,) = checker.run.stream("primary")
    assert point["tpx_open_time"] >= 0.1
    assert math.isnan(point["tpx_gates_gate0_counts_per_shot"])
    assert (
        "tpx: the point ended after 0.1 s (until.at_most), before gate gate0 had enough: 0 of 10 counts" in caplog.text
    )


def test_a_goal_in_any_plan_is_a_setting_of_the_detector(RE, checker, tpx, pipe):
    tpx.gates.define(IODINE)
    RE(with_settings(until(tpx, gate="iodine", counts=50), bp.count([tpx])))
    assert checker.run.stream("primary")[0]["tpx_gates_gate0_counts"] >= 50
    assert checker.run.described("primary")[0]["configuration"]["tpx"]["data"]["tpx_until_counts"] == 50


def test_goals_that_cannot_be_reached_are_refused(RE, tpx):
    tpx.gates.define(IODINE)
    with pytest.raises(ValueError, match="no gate 'methyl' is on; on are: 'iodine'"):
        RE(count_until(tpx, gate="methyl", counts=5))
    with pytest.raises(ValueError, match=r"Give counts .* or relative_error"):
        RE(count_until(tpx, gate="iodine"))
    tpx.until.gate.put("other")
    with pytest.raises(ValueError, match="no gate 'other' is on"):
        RE(bp.count([tpx]))


def test_a_scanned_setting_is_in_the_events_beside_its_detector(RE, checker, tpx):
    tpx.shots.put(0)
    RE(bp.scan([tpx], tpx.exposure, 0.02, 0.04, 2))
    assert [p["tpx_exposure"] for p in checker.run.stream("primary")] == [0.02, 0.04]
    assert len(checker.run.described("primary")) == 1


def test_the_summary_says_what_is_counted_and_how_long(tpx):
    assert "a point: 100 shots;" in tpx.summary()
    assert "gates: none; no calibration of m/q" in tpx.summary()
    tpx.gates.define(IODINE)
    tpx.mass.adopt(MassCalibration(t0_ns=400, k_ns=1200))
    tpx.until.gate.put("iodine")
    tpx.until.counts.put(50)
    assert "a point: until iodine has 50 counts, at most 60 s;" in tpx.summary()
    assert "gates: iodine; t = 400 + 1200 sqrt(m/q) ns" in tpx.summary()


def test_arrays_are_described_and_in_events_when_asked_for(RE, checker, tpx):
    tpx.gates.define(IODINE)
    arrays = [tpx.image, tpx.tof.histogram, tpx.gates.gate0.image]
    tpx.tof.bins.put(500)
    RE(bp.count([tpx]))
    for signal in arrays:
        signal.kind = Kind.normal
    RE(bp.count([tpx]))
    assert not any(signal.name in checker.runs[0].described("primary")[0]["data_keys"] for signal in arrays)
    keys = checker.runs[1].described("primary")[0]["data_keys"]
    (point,) = checker.runs[1].stream("primary")
    for signal, shape in zip(arrays, ([256, 256], [500], [256, 256]), strict=True):
        assert keys[signal.name]["shape"] == shape == list(point[signal.name].shape)
        assert keys[signal.name]["dtype"] == "array"
        assert keys[signal.name]["dtype_numpy"] == point[signal.name].dtype.str == "<u4"
    assert point["tpx_image"][3, 7] == point["tpx_n_shots"]
    assert point["tpx_stats_x_mean"] == 7.0
    assert point["tpx_stats_size_median"] == 4.0
    assert point["tpx_tof_peak"] == pytest.approx(5.5 * 200.0)


def test_health_is_lost_with_data_and_comes_back_for_a_plan_that_waits(RE, checker, tpx, pipe, monkeypatch):
    from ophyd_timepix.devices import statistics

    monkeypatch.setattr(statistics, "HEALS_S", 0.05)
    seen = []
    token = tpx.stats.healthy.subscribe(lambda value, **_: seen.append(value), run=False)
    pipe.lost_datagrams = 3
    RE(bp.count([tpx]))
    (point,) = checker.run.stream("primary")
    assert (point["tpx_stats_healthy"], point["tpx_stats_lost_datagrams"]) == (0, 3)
    tpx.stats._healing.join(5)
    tpx.stats.healthy.unsubscribe(token)
    assert tpx.stats.healthy.get() == 1


def test_a_calibration_plan_puts_everything_back_and_says_which_peak_is_missing(RE, tpx, pipe):
    tpx.gates.define(METHYL)
    with pytest.raises(ValueError, match=r"I\+ \(m/q 126.9 u/e\): no peak within 13900 \+- 100"):
        RE(calibrate_mass(tpx, {"I+": (126.9, 13_900), "CH3+": (15.02, 5050)}, search_ns=100))
    assert tpx.mass.model is None
    assert tpx.tof.bins.get() == 2000
    assert tpx.gates.on == (tpx.gates.gate0,)


@pytest.mark.parametrize(("mq", "told"), [(126.9, False), (126.0, True)])
def test_a_calibration_says_how_well_its_peaks_lie_on_a_line(tpx, caplog, mq, told):
    spectrum = Spectrum(0.0, 2.0, 10_000)
    tpx.last_sums = PointArrays.empty((256, 256), spectrum)
    for peak in (15.023, 63.45, 126.9):
        around = CALIBRATION.tof_ns(peak) + np.random.default_rng(1).normal(0, 8, 3000)
        tpx.last_sums.tof[: spectrum.bins] += np.histogram(around, spectrum.edges_ns)[0].astype(np.uint32)
    ions = {"CH3+": (15.023, 5050.0), "I++": (63.45, 9970.0), "I+": (mq, 13_920.0)}
    with caplog.at_level("INFO"):
        tpx.mass.adopt(conclude(tpx, ions, 200.0))
    (record,) = [record for record in caplog.records if "off the line" in record.message]
    assert record.levelname == ("WARNING" if told else "INFO")
    assert ("is each of them the ion that it was given for" in record.message) is told
    assert "I++" in repr(tpx.mass)


def test_a_calibration_needs_two_peaks_and_to_know_where_they_are(RE, tpx):
    with pytest.raises(ValueError, match="at least 2 peaks of different m/q, got 1"):
        RE(calibrate_mass(tpx, {"I+": (126.9, 13_900)}))
    with pytest.raises(ValueError, match=r"CH3\+: where is its peak\? Give \(m/q, time of flight in ns\)"):
        RE(calibrate_mass(tpx, {"I+": (126.9, 13_900), "CH3+": 15.02}))


def test_a_plan_can_be_looked_at_without_a_camera(tpx):
    tpx.gates.define(IODINE)
    assert list(count_until(tpx, gate="iodine", counts=5))
    assert list(calibrate_mass(tpx, {"I+": (126.9, 13_900), "CH3+": [15.02, 5050]})), "a queue knows no tuples"


def test_a_plan_is_suspended_by_a_loss_and_takes_the_point_again(RE, checker, tpx, pipe, monkeypatch):
    from ophyd_timepix.devices import statistics

    monkeypatch.setattr(statistics, "HEALS_S", 0.05)
    pipe.lost_datagrams = 3
    token = tpx.stats.healthy.subscribe(lambda value, **_: setattr(pipe, "lost_datagrams", 0), run=False)
    RE.install_suspender(SuspendBoolLow(tpx.stats.healthy))
    try:
        RE(bp.count([tpx], num=3))
    finally:
        RE.clear_suspenders()
        tpx.stats.healthy.unsubscribe(token)
    assert checker.run.stop["exit_status"] == "success"
    assert len(checker.run.stream("primary")) == 3
    assert checker.run.stream("primary")[-1]["tpx_stats_healthy"] == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Gate(name="ring", ring=(120, 130, 20, 60)), Gate(name="ring", ring=(120, 130, 20, 60))),
        (Gate(name="disc", circle=(120, 130, 60)), Gate(name="disc", ring=(120, 130, 0, 60))),
    ],
)
def test_a_slot_keeps_a_round_region(tpx, given, kept):
    tpx.gates.define(given)
    assert tpx.gates.gate0.model() == kept
    assert tpx.gates.counting(None).gates == (kept,)
    tpx.gates.define(Gate(name="all"))
    assert tpx.gates.gate0.model() == Gate(name="all")


def test_a_ring_without_an_outer_radius_reaches_beyond_the_picture(tpx):
    slot = tpx.gates.gate0
    slot.ring_x.put(128)
    slot.ring_y.put(128)
    slot.ring_min.put(50)
    assert slot.model(256, 256).ring[2:] == (50, 768)


def test_a_slot_says_in_a_sentence_what_is_wrong(tpx):
    slot = tpx.gates.gate0
    slot.tof_min.put(5000)
    slot.tof_max.put(2000)
    with pytest.raises(ValueError, match=r"^tpx_gates_gate0: .*the window of tof is empty"):
        slot.model()
    with pytest.raises(ValueError, match=r"tpx_gates_gate0_label is no name for a gate: 'I\+ peak'"):
        slot.label.put("I+ peak")


def test_gates_that_cannot_be_defined_in_a_run_change_nothing(RE, tpx, installed):
    tpx.gates.define(Gate(name="a", tof=(1, 2)))

    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([tpx])
        with pytest.raises(RuntimeError, match="cannot be switched"):
            tpx.gates.define(Gate(name="b", tof=(5, 6)), Gate(name="c"))

    RE(plan())
    assert [slot.model() for slot in tpx.gates.on] == [Gate(name="a", tof=(1, 2))]


@pytest.mark.parametrize("verb", ["stop", "abort", "halt"])
def test_a_calibration_that_is_interrupted_leaves_gates_and_spectrum_as_they_were(RE, tpx, pipe, verb):
    tpx.gates.define(Gate(name="ion"))
    pipe.flow.clear()
    run_and_interrupt(RE, calibrate_mass(tpx, {"a": (15, 5000), "b": (127, 14000)}), pipe.looked)
    assert not tpx.gates.on
    getattr(RE, verb)()
    assert [slot.title for slot in tpx.gates.on] == ["ion"]
    assert (tpx.tof.start.get(), tpx.tof.bins.get(), tpx.until.gate.get()) == (0.0, 2000, "")
