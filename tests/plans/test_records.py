"""What unmodified bluesky plans record once the preprocessor is there."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.callbacks.best_effort import BestEffortCallback
from ophyd.sim import SynAxis, det

from ophyd_timepix.plans import tpx_fly
from tests.doc_checker import check_points
from tests.fakes import ROWS

pytestmark = pytest.mark.usefixtures("installed")


def test_count_records_points_centroids_and_ledger(RE, checker, tpx):
    RE(bp.count([tpx], num=3))
    run = checker.run
    assert run.stop["exit_status"] == "success"
    assert run.stream_names == {"primary", "tpx_shots", "tpx_centroids", "tpx_ledger"}
    check_points(run.stream("primary"), "tpx", run.rows)
    assert [p["tpx_n_centroids"] for p in run.stream("primary")] == [ROWS] * 3
    assert run.rows == 3 * ROWS == run.stop["num_events"]["tpx_centroids"]
    (ledger,) = run.stream("tpx_ledger")
    assert ledger["tpx_ledger_unaccounted"] == 0
    assert ledger["tpx_ledger_rows"] == 3 * ROWS
    assert ledger["tpx_ledger_sent_datagrams"] == 10


def test_shots_are_a_stream_of_the_run(RE, checker, tpx):
    RE(bp.count([tpx], num=3))
    run = checker.run
    (described,) = run.described("tpx_shots")
    assert set(described["data_keys"]) == {"tpx_shots_time", "tpx_shots_valid"}
    assert described["data_keys"]["tpx_shots_time"]["units"] == "ns"
    last = run.stream("primary")[-1]["tpx_shot_stop"]
    assert run.rows_of("shots") == run.stop["num_events"]["tpx_shots"] == last > 0
    assert len(run.column("shots/valid")) == last


def test_shots_are_registered_before_the_centroids_that_belong_to_them(RE, checker, tpx):
    RE(tpx_fly(tpx, shots=500))
    keys = {uid: resource["data_key"] for uid, resource in checker.run.resources.items()}
    order = [keys[doc["stream_resource"]] for name, doc in checker.seen if name == "stream_datum"]
    assert order[:3] == ["tpx_shots_time", "tpx_shots_valid", "tpx_centroids_shot"]


def test_a_file_that_cannot_be_read_for_shots_does_not_end_a_plan(RE, checker, tpx, monkeypatch, caplog):
    def unreadable(path, table):
        raise OSError("gone")

    monkeypatch.setattr("ophyd_timepix.devices.streams.count_rows", unreadable)
    RE(bp.count([tpx]))
    assert checker.run.stop["exit_status"] == "success"
    assert (checker.run.rows, checker.run.rows_of("shots")) == (ROWS, 0)
    assert "the shots of" in caplog.text


def test_each_point_owns_the_rows_of_one_acquisition(RE, checker, tpx):
    RE(bp.count([tpx], num=2))
    acquisition = checker.run.column("shot")
    for point in checker.run.stream("primary"):
        own = acquisition[point["tpx_row_start"] : point["tpx_row_stop"]]
        assert set(own) == {point["tpx_acquisition"]}


def test_scan_over_a_motor(RE, checker, tpx):
    RE(bp.scan([tpx], SynAxis(name="delay"), -1, 1, 3))
    points = checker.run.stream("primary")
    assert [p["delay"] for p in points] == [-1, 0, 1]
    check_points(points, "tpx", checker.run.rows)


def test_a_scanned_dac_is_in_every_event_and_on_the_chip(RE, checker, tpx, spidr, fake_board):
    RE(bp.scan([tpx], spidr.chip0.dacs.vthreshold_fine, 400, 402, 3))
    assert [p["spidr_chip0_dacs_vthreshold_fine"] for p in checker.run.stream("primary")] == [400, 401, 402]
    assert [c for c in fake_board.calls if c.startswith("set_dac")] == [
        f"set_dac VTHRESHOLD_FINE {v}" for v in (400, 401, 402)
    ]
    assert checker.run.start["hints"]["dimensions"] == [(["spidr_chip0_dacs_vthreshold_fine"], "primary")]


def test_fly_unstaged_opens_and_closes_its_own_file(RE, checker, tpx, pipe):
    RE(bp.fly([tpx]))
    run = checker.run
    (frame,) = run.stream("tpx_frames")
    check_points([frame], "tpx", run.rows)
    assert run.rows == ROWS
    assert len(run.stream("tpx_ledger")) == 1
    assert pipe.calls[-1] == "close_run"


@pytest.mark.parametrize("length", [{"shots": 200}, {"seconds": 0.05}, {}])
def test_tpx_fly(RE, checker, tpx, length):
    before = tpx.shots.get(), tpx.exposure.get()
    RE(tpx_fly(tpx, **length, md={"sample": "Xe"}))
    run = checker.run
    assert run.start["sample"] == "Xe"
    assert run.stream_names == {"tpx_frames", "tpx_shots", "tpx_centroids", "tpx_ledger"}
    check_points(run.stream("tpx_frames"), "tpx", run.rows)
    assert (tpx.shots.get(), tpx.exposure.get()) == before


def test_a_flight_opens_no_plot_that_stays_empty(RE, tpx, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    pyplot.close("all")  # what other tests of this process have left open is none of it
    RE.subscribe(BestEffortCallback())
    RE(tpx_fly(tpx, shots=200))
    assert "New stream: 'tpx_frames'" in capsys.readouterr().out
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("length", [{"shots": 1, "seconds": 1.0}, {"shots": 0}, {"seconds": 0.0}])
def test_tpx_fly_refuses_a_length_that_is_none(tpx, length):
    with pytest.raises(ValueError, match="a flight"):
        list(tpx_fly(tpx, **length))


def test_each_run_of_one_call_has_its_own_file(RE, checker, tpx):
    def two_runs():
        yield from bp.count([tpx], num=2)
        yield from bp.count([tpx], num=1)

    RE(two_runs())
    first, second = checker.runs
    assert (first.rows, second.rows) == (2 * ROWS, ROWS)
    assert first.path("x") != second.path("x")
    assert second.stream("primary")[0]["tpx_row_start"] == 0


def test_each_run_within_one_stage_has_its_own_file(RE, checker, tpx, fake_board):
    @bpp.stage_decorator([tpx])
    def two_runs():
        for _ in range(2):
            yield from bpp.run_wrapper(bps.trigger_and_read([tpx]))

    RE(two_runs())
    first, second = checker.runs
    assert (first.rows, second.rows) == (ROWS, ROWS)
    assert first.path("x") != second.path("x")
    assert fake_board.calls.count("reset_timers") == 2


def test_timers_restart_once_per_run(RE, tpx, fake_board):
    RE(bp.count([tpx], num=4))
    assert fake_board.calls.count("reset_timers") == 1
    assert fake_board.calls.count("open_shutter") == 4


def test_sockets_are_bound_before_the_board_is_told_where_to_send(RE, tpx, fake_board, pipelines):
    RE(bp.count([tpx]))
    assert "set_destination 0 40000" in fake_board.calls
    assert pipelines[0].calls[:3] == ["start", "bind", "open_run"]
    assert fake_board.calls.index("set_destination 0 40000") < fake_board.calls.index("open_shutter")


def test_a_run_of_other_devices_inside_is_left_alone(RE, checker, tpx):
    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator(md={})
    def inner():
        yield from bps.trigger_and_read([det])

    @bpp.stage_decorator([tpx])
    @bpp.set_run_key_decorator("outer")
    @bpp.run_decorator(md={})
    def outer():
        yield from bps.trigger_and_read([tpx])
        yield from inner()
        yield from bps.trigger_and_read([tpx])

    RE(outer())
    first, second = checker.runs
    assert first.rows == 2 * ROWS
    assert second.stream_names == {"primary"}


def test_the_same_detector_in_two_open_runs_is_refused_with_a_sentence(RE, checker, tpx):
    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator(md={})
    def inner():
        yield from bps.trigger_and_read([tpx])

    @bpp.stage_decorator([tpx])
    @bpp.set_run_key_decorator("outer")
    @bpp.run_decorator(md={})
    def outer():
        yield from bps.trigger_and_read([tpx])
        yield from inner()

    with pytest.raises(RuntimeError, match="a detector belongs to one open run at a time"):
        RE(outer())
    first, second = checker.runs
    assert first.rows == ROWS
    assert [run.stop["exit_status"] for run in (first, second)] == ["fail", "fail"]


def test_baseline_of_a_staged_detector(RE, checker, tpx):
    RE(bpp.baseline_wrapper(bp.count([tpx]), [tpx]))
    run = checker.run
    check_points(run.stream("baseline")[:1] + run.stream("primary") + run.stream("baseline")[1:], "tpx", run.rows)


def test_baseline_of_a_detector_that_nobody_stages(RE, checker, tpx):
    RE(bpp.baseline_wrapper(bp.count([det]), [tpx]))
    assert checker.run.rows == 2 * ROWS
    assert len(checker.run.stream("tpx_ledger")) == 1


def test_no_centroids_means_no_resources_but_a_stream(RE, checker, tpx, pipe):
    pipe.rows_per_acquisition = 0
    RE(bp.count([tpx]))
    assert checker.run.rows == 0
    assert not [r for r in checker.run.resources.values() if r["data_key"].startswith("tpx_centroids")]
    assert "tpx_centroids" in checker.run.stream_names


def test_a_plan_without_the_detector_opens_no_file(RE, checker, tpx, pipe):
    RE(bp.count([det]))
    assert checker.run.stream_names == {"primary"}
    assert "open_run" not in pipe.calls


def test_the_master_gets_start_document_and_configuration(RE, checker, tpx, pipe):
    RE(bp.count([tpx]), sample="Xe", delays=np.array([1, 2]))
    (closing,) = pipe.closings
    assert closing["start"]["uid"] == checker.run.start["uid"]
    assert (closing["start"]["sample"], closing["start"]["delays"]) == ("Xe", [1, 2])
    assert closing["configuration"]["detector"]["tpx_chip0_vthreshold_fine"] == 420
    assert closing["configuration"]["detector"]["tpx_processing_radius_px"] == 2.0


def test_the_configuration_of_a_point_is_small_and_says_how_it_was_taken(RE, checker, tpx):
    RE(bp.count([tpx]))
    (primary,) = (d for d in checker.run.descriptors.values() if d["name"] == "primary")
    data = primary["configuration"]["tpx"]["data"]
    assert data["tpx_shots"] == 100
    assert data["tpx_chip_ids"] == "W0000_A01"
    assert data["tpx_pll_words"] == "0x011E"
    assert primary["hints"]["tpx"]["fields"] == ["tpx_n_centroids"]


def test_fly_during_a_scan_of_another_detector(RE, checker, tpx):
    RE(bpp.fly_during_wrapper(bp.scan([det], SynAxis(name="delay"), -1, 1, 2), [tpx]))
    assert len(checker.run.stream("primary")) == 2
    check_points(checker.run.stream("tpx_frames"), "tpx", checker.run.rows)


def test_a_flight_without_a_length_lasts_as_long_as_the_scan(RE, checker, tpx, pipe):
    tpx.shots.put(0)
    tpx.exposure.put(0)
    RE(bpp.fly_during_wrapper(bp.scan([det], SynAxis(name="delay", delay=0.1), -1, 1, 2), [tpx]))
    (frame,) = checker.run.stream("tpx_frames")
    assert frame["tpx_open_time"] >= 0.2
    assert frame["tpx_n_centroids"] == checker.run.rows == ROWS
    assert [acquired.cancelled for acquired in pipe.acquisitions] == [False]
    assert checker.run.stop["exit_status"] == "success"


class Stuck(SynAxis):
    def set(self, value):
        raise RuntimeError("the motor does not move")


def test_nobody_waits_for_the_end_of_a_flight_beside_a_scan_that_has_failed(RE, checker, tpx, pipe):
    tpx.shots.put(0)
    tpx.exposure.put(30)
    with pytest.raises(RuntimeError, match="the motor does not move"):
        RE(bpp.fly_during_wrapper(bp.scan([det], Stuck(name="delay"), -1, 1, 2), [tpx]))
    (frame,) = checker.run.stream("tpx_frames")
    assert frame["tpx_open_time"] < 30
    assert frame["tpx_n_centroids"] == checker.run.rows == ROWS
    assert checker.run.stop["exit_status"] == "fail"


def test_a_plan_that_gets_over_an_error_has_its_whole_flight(RE, checker, tpx, pipe):
    def tried():
        yield from bps.abs_set(Stuck(name="delay"), 1)

    @bpp.run_decorator()
    def plan():
        yield from bpp.contingency_wrapper(tried(), except_plan=lambda error: bps.null(), auto_raise=False)
        yield from bps.trigger_and_read([det])

    tpx.shots.put(0)
    tpx.exposure.put(0.3)
    RE(bpp.fly_during_wrapper(plan(), [tpx]))
    assert checker.run.stream("tpx_frames")[0]["tpx_open_time"] >= 0.3


def test_points_and_flights_of_their_own_need_a_length(RE, tpx, fake_board):
    tpx.shots.put(0)
    tpx.exposure.put(0)
    with pytest.raises(ValueError, match="a point of tpx has no length: shots and exposure are both 0"):
        RE(bp.count([tpx]))
    assert "open_shutter" not in fake_board.calls
    with pytest.raises(ValueError, match="a flight needs an end: give shots or seconds"):
        RE(tpx_fly(tpx))


def test_rows_are_registered_while_a_run_goes_but_not_at_every_point(RE, checker, tpx, installed):
    """A clock that moves 0.5 s each time it is looked at: every second or so point is due."""
    now = iter(range(1000))
    installed.streams._clock = lambda: next(now) / 2
    RE(bp.count([tpx], num=9))
    columns = len(checker.run.resources)
    collections = checker.names().count("stream_datum") / columns
    assert "event" in checker.names()[checker.names().index("stream_datum") :]
    assert 1 < collections < 9
