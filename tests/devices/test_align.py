"""Aligning at the prompt: live signals without a run and without files; plans go before."""

import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest

from ophyd_timepix.config import Gate
from ophyd_timepix.control import ControlError
from ophyd_timepix.devices import AcquisitionError
from tests.fakes import ROWS

pytestmark = pytest.mark.usefixtures("installed")


def looks(signal, n):
    """An event that is set when the signal was told `n` times something else than 0."""
    told, seen = threading.Event(), []

    def hear(value, **_):
        if value:
            seen.append(value)
        if len(seen) >= n:
            told.set()

    signal.subscribe(hear, run=False)
    return told


def test_signals_say_what_is_seen_and_nothing_is_left(tpx, pipe, fake_board, tmp_path):
    tpx.gates.define(Gate(name="ion"))
    told = looks(tpx.gates.gate0.counts, 3)
    with tpx.align(period=0.05):
        assert told.wait(60)
        assert tpx.aligning
    assert not tpx.aligning
    assert not fake_board.shutter_open.is_set()
    assert tpx.image.get()[3, 7] > 0
    assert tpx.stats.x_mean.get() == 7.0
    assert tpx.stats.skipped_bytes.get() == 0
    assert all(request.preview for request in pipe.requests)
    assert not list(tmp_path.rglob("*.h5"))
    assert (tpx.file.get(), tpx.event_file, tpx.rows_on_disk) == ("", None, 0)


def test_there_is_a_picture_before_the_first_look_is_over(tpx, pipe):
    told = looks(tpx.n_shots, 2)
    tpx.start_align(period=60)
    assert told.wait(60)
    assert tpx.image.get()[3, 7] > 0
    assert tpx.tof.histogram.get().any()
    tpx.stop_align()


def test_a_plan_goes_before_and_its_run_is_as_ever(RE, checker, tpx, pipe):
    told = looks(tpx.n_centroids, 1)
    tpx.start_align(period=0.05)
    assert told.wait(60)
    RE(bp.count([tpx], num=2))
    assert not tpx.aligning
    assert checker.run.rows == 2 * ROWS
    assert [request.preview for request in pipe.requests] == [True, False]


def test_gates_are_switched_while_aligning(tpx, pipe):
    tpx.start_align(period=0.03)
    told = looks(tpx.gates.gate0.counts, 2)
    tpx.gates.define(Gate(name="ion"))
    assert told.wait(60)
    tpx.stop_align()


def test_it_is_refused_while_a_run_has_the_detector(RE, tpx):
    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([tpx])
        tpx.start_align()

    with pytest.raises(RuntimeError, match="tpx is recording a run; align before or after it"):
        RE(plan())


def test_starting_twice_and_stopping_twice_are_harmless(tpx, pipe):
    tpx.start_align(period=0.05)
    tpx.start_align()
    tpx.stop_align()
    tpx.stop_align()
    assert pipe.calls.count("open_run") == 1
    with pytest.raises(ValueError, match="longer than 0 s"):
        tpx.start_align(period=0)


def test_what_ends_it_is_told_when_it_is_stopped_and_a_plan_works_after(RE, checker, tpx, pipe, fake_board, caplog):
    fake_board.failing["open_shutter"] = ControlError("the board answers with error 6")
    tpx.start_align(period=0.05)
    tpx._aligner._alignment._thread.join(10)
    with pytest.raises(AcquisitionError, match="the alignment of tpx had ended: the board answers with error 6"):
        tpx.stop_align()
    fake_board.failing.clear()
    RE(bp.count([tpx]))
    assert checker.run.rows == ROWS


def test_closing_the_detector_ends_it(tpx, pipe, fake_board):
    tpx.start_align(period=0.05)
    tpx.close()
    assert not tpx.aligning
    assert not fake_board.shutter_open.is_set()


def test_a_gate_is_moved_while_aligning_bound_by_bound(tpx, pipe, caplog):
    """Between the two the window is empty; what was counted before is counted on."""
    tpx.gates.define(Gate(name="ion", tof=(1000, 2000)))
    with tpx.align(period=0.02):
        tpx.gates.gate0.tof_min.put(5000)
        assert looks(tpx.gates.gate0.counts, 3).wait(60)
        assert tpx.aligning
        tpx.gates.gate0.tof_max.put(6000)
        assert looks(tpx.gates.gate0.counts, 3).wait(60)
    assert "aligning goes on with the settings before: tpx_gates_gate0: " in caplog.text
    assert pipe.countings[-1].gates[0].tof == (5000, 6000)


def test_spectrum_and_processing_are_changed_while_aligning(tpx, pipe):
    with tpx.align(period=0.02):
        assert looks(tpx.n_centroids, 1).wait(60)
        tpx.tof.bins.put(100)
        tpx.processing.min_size.put(3)
        assert looks(tpx.n_centroids, 3).wait(60)
    assert (pipe.requests[-1].tof_bins, pipe.requests[-1].processing.min_size) == (100, 3)
    assert tpx.tof.histogram.get().shape == (100,)
