"""A configuration that changes between points is recorded anew; what the events tell anyway is not."""

import logging
from dataclasses import replace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted
from cycler import cycler
from ophyd.sim import SynAxis, det, motor

from ophyd_timepix.protocol import PixelMatrix
from ophyd_timepix.protocol.chip_config import Mode
from tests.fakes import ROWS

pytestmark = pytest.mark.usefixtures("installed")


def configurations(run, key, stream="primary"):
    """The value of a configuration key for each event of a stream."""
    return [doc["configuration"]["tpx"]["data"][key] for doc in run.described_by(stream)]


def points(tpx, steps, md=None):
    """A run of one point after each step."""

    @bpp.stage_decorator([tpx])
    @bpp.run_decorator(md=md or {})
    def plan():
        for step in steps:
            yield from step()
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([tpx])

    return plan()


def test_a_dac_that_changes_between_points_is_recorded_anew(RE, checker, spidr, tpx):
    dac = spidr.chip0.dacs.vthreshold_fine
    RE(points(tpx, [lambda: bps.mv(dac, 400), lambda: bps.null(), lambda: bps.mv(dac, 410)]))
    assert configurations(checker.run, "tpx_chip0_vthreshold_fine") == [400, 400, 410]
    assert len(checker.run.described("primary")) == 2
    assert checker.run.rows == 3 * ROWS


def test_a_dac_that_is_scanned_makes_one_descriptor(RE, checker, spidr, tpx):
    RE(bp.scan([tpx], spidr.chip0.dacs.vthreshold_fine, 400, 404, 5))
    assert len(checker.run.described("primary")) == 1
    values = [event["spidr_chip0_dacs_vthreshold_fine"] for event in checker.run.stream("primary")]
    assert values == [400, 401, 402, 403, 404]


def test_a_bias_that_is_scanned_makes_one_descriptor(RE, checker, spidr, tpx):
    RE(bp.scan([tpx], spidr.bias, 40, 60, 3))
    assert len(checker.run.described("primary")) == 1
    assert [event["spidr_bias"] for event in checker.run.stream("primary")] == [40, 50, 60]


def test_a_matrix_that_changes_is_recorded_by_digest_and_file(RE, checker, spidr, tpx):
    matrix = PixelMatrix()
    matrix.mask[7, 8] = True
    RE(points(tpx, [bps.null, lambda: bps.mv(spidr.chip0.matrix, matrix)]))
    first, second = configurations(checker.run, "tpx_chip0_matrix_digest")
    assert (first, second) == (PixelMatrix().digest(), matrix.digest())
    files = configurations(checker.run, "tpx_chip0_matrix_file")
    assert [file.rpartition("/")[2] for file in files] == [f"{first}.npz", f"{second}.npz"]
    with np.load(files[1]) as kept:
        assert kept["mask"].sum() == 1


def test_a_setting_of_points_that_is_scanned_is_in_every_event(RE, checker, tpx):
    RE(bp.scan([tpx], tpx.shot_timeout, 1, 3, 3))
    assert [point["tpx_shot_timeout"] for point in checker.run.stream("primary")] == [1, 2, 3]
    assert len(checker.run.described("primary")) == 1


def test_a_setting_that_acts_when_a_run_opens_is_refused_within_one(RE, checker, tpx):
    """A run is processed in one way: documents must not say that its second point was processed in another."""
    for signal, values in ((tpx.processing.min_samples, [1, 2]), (tpx.tof.bins, [2000, 100])):
        with pytest.raises(FailedStatus, match="acts when a run opens, and tpx records one"):
            RE(bp.list_scan([tpx], signal, values))
        assert (signal.get(), checker.runs[-1].stop["exit_status"]) == (values[0], "fail")
    tpx.processing.min_samples.put(3)
    RE(bp.count([tpx]))
    assert configurations(checker.runs[-1], "tpx_processing_min_samples") == [3]


def test_a_setting_that_is_moved_between_points_is_in_the_configuration(RE, checker, tpx):
    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        for value in (1, 2, 3):
            yield from bps.mv(tpx.stats.lag_limit, value)
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([tpx])

    RE(plan())
    assert configurations(checker.run, "tpx_stats_lag_limit") == [1, 2, 3]


def test_a_change_while_a_motor_is_read_and_centroids_are_collected_in_between(RE, checker, spidr, tpx, installed):
    """bluesky describes streams from what it knows of the last used one, which may be that of the centroids."""
    installed.streams._interval_s = 0.0
    axis = SynAxis(name="axis")

    def step(detectors, step, pos_cache):
        yield from bps.mv(spidr.chip0.dacs.vfbk, 100 + round(step[axis]))
        yield from bps.one_nd_step(detectors, step, pos_cache)

    RE(bp.scan_nd([tpx, det], _cycle(axis), per_step=step))
    assert configurations(checker.run, "tpx_chip0_vfbk") == [100, 101, 102]
    assert len(checker.run.stream("primary")) == 3
    assert checker.run.rows == 3 * ROWS


def _cycle(axis):
    return cycler(axis, [0.0, 1.0, 2.0])


def test_a_change_while_the_detector_is_in_the_baseline_too(RE, checker, spidr, tpx):
    dac = spidr.chip0.dacs.vfbk
    steps = [lambda: bps.mv(dac, 100), lambda: bps.mv(dac, 101)]
    RE(bpp.baseline_wrapper(points(tpx, steps), [motor, tpx]))
    assert configurations(checker.run, "tpx_chip0_vfbk") == [100, 101]
    assert len(checker.run.stream("baseline")) == 2


def test_what_the_read_out_sets_itself_is_in_the_first_descriptor(RE, checker, spidr, tpx, fake_board):
    fake_board.chip(0).general = replace(fake_board.chip(0).general, mode=Mode.TOA)
    spidr.connect()

    def prepare(*_):
        fake_board.chip(0).general = replace(fake_board.chip(0).general, mode=Mode.TOA_TOT)

    fake_board.prepare_readout = prepare
    RE(bp.count([tpx], num=2))
    assert configurations(checker.run, "tpx_chip0_general_mode") == ["ToA and ToT"] * 2


def test_the_next_run_has_the_settings_of_the_next_run(RE, checker, spidr, tpx):
    RE(bp.count([tpx]))
    spidr.chip0.dacs.vfbk.set(99).wait(60)
    RE(bp.count([tpx]))
    assert [configurations(run, "tpx_chip0_vfbk") for run in checker.runs] == [[128], [99]]


def test_a_change_that_cannot_be_recorded_is_said_once(RE, checker, spidr, tpx, caplog):
    """Another device that writes files, in the baseline with the detector: reading it takes its files."""

    class Files(SynAxis):
        def collect_asset_docs(self, index=None):
            yield from ()

    dac = spidr.chip0.dacs.vfbk
    steps = [lambda: bps.mv(dac, 100), lambda: bps.mv(dac, 101), lambda: bps.mv(dac, 102)]
    with caplog.at_level(logging.WARNING):
        RE(bpp.baseline_wrapper(points(tpx, steps), [Files(name="files"), tpx]))
    assert len([r for r in caplog.records if "is not recorded" in r.message]) == 1
    assert len(checker.run.stream("primary")) == 3


def test_stage_sigs_are_set_recorded_and_put_back(RE, checker, spidr, tpx):
    tpx.stage_sigs[spidr.chip0.dacs.vthreshold_fine] = 433
    RE(bp.count([tpx]))
    assert configurations(checker.run, "tpx_chip0_vthreshold_fine") == [433]
    assert spidr.chip0.dacs.vthreshold_fine.get() == 420


def test_the_stored_configuration_is_a_file_of_settings(RE, checker, tpx, pipe):
    RE(bp.count([tpx]))
    stored = pipe.closings[0]["configuration"]
    assert "vthreshold_fine: 420" in stored["settings"]
    assert "radius_px: 2.0" in stored["settings"]
    assert stored["matrices"][0].endswith(f"{PixelMatrix().digest()}.npz")


def test_a_board_is_read_in_a_baseline_with_its_configuration(RE, checker, spidr, tpx):
    spidr.monitor.kind = "normal"
    RE.preprocessors.append(bpp.SupplementalData(baseline=[spidr]))
    RE(bp.count([tpx]))
    start, end = checker.run.stream("baseline")
    assert start["spidr_chip0_dacs_ibias_ikrum"] == end["spidr_chip0_dacs_ibias_ikrum"] == 5
    assert start["spidr_monitor_fpga_temperature"] == 60.25
    (descriptor,) = checker.run.described("baseline")
    assert descriptor["configuration"]["spidr"]["data"]["spidr_chip0_config_general_mode"] == "ToA and ToT"


def test_a_pause_at_a_recording_leaves_it_whole(RE, checker, spidr, tpx):
    dac = spidr.chip0.dacs.vfbk

    def pause():
        yield from bps.mv(dac, 101)
        yield from bps.pause()

    with pytest.raises(RunEngineInterrupted):
        RE(points(tpx, [bps.null, pause, bps.null]))
    RE.resume()
    assert configurations(checker.run, "tpx_chip0_vfbk") == [128, 101, 101]
