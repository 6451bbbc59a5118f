"""The detector at a prompt and in an engine without the preprocessor."""

import logging
import threading

import bluesky.plans as bp
import h5py
import numpy as np
import pytest

from ophyd_timepix.config import Calibration, Edge, Metric, Processing
from ophyd_timepix.control import ChipMissing, TimerReading, TriggerConfig
from ophyd_timepix.control.timer_service import TimerJumped
from ophyd_timepix.devices import AcquisitionStopped, Storage, TimepixDetector, configuration
from ophyd_timepix.protocol import PixelMatrix
from tests.bluesky_fixtures import when
from tests.fakes import CANCELLED_ROWS, ROWS, FakePipeline


def test_making_a_detector_starts_nothing(tpx, pipelines, fake_board):
    assert not pipelines
    assert not fake_board.calls
    assert "tpx" in repr(tpx)


def test_an_unstaged_detector_can_be_read_and_described_with_the_board_off(tpx, fake_board):
    fake_board.off = True
    assert set(tpx.read()) == set(tpx.describe())
    assert set(tpx.read_configuration()) == set(tpx.describe_configuration())
    assert tpx.hints == {"fields": ["tpx_n_centroids"]}
    assert "file: none yet" in tpx.summary()


def test_the_fly_stream_has_the_keys_of_the_points(tpx):
    assert tpx.describe_collect() == {"tpx_frames": tpx.describe()}


def test_stage_connects_and_unstage_closes(tpx, pipelines, fake_board):
    tpx.stage()
    assert pipelines[0].calls == ["start", "bind"]
    tpx.trigger().wait(60)
    tpx.unstage()
    assert pipelines[0].calls[-1] == "close_run"
    assert fake_board.calls[-1] == "pause_readout"


def test_an_exposure_publishes_what_it_gave(tpx, pipelines):
    tpx.stage()
    tpx.trigger().wait(60)
    tpx.trigger().wait(60)
    reading = {key: entry["value"] for key, entry in tpx.read().items()}
    assert reading["tpx_n_centroids"] == ROWS
    assert reading["tpx_n_hits"] == 5 * ROWS
    assert (reading["tpx_row_start"], reading["tpx_row_stop"]) == (ROWS, 2 * ROWS)
    assert reading["tpx_acquisition"] == 2
    assert reading["tpx_open_time"] > 0
    assert reading["tpx_hit_rate"] == pytest.approx(5 * ROWS / reading["tpx_open_time"])
    assert reading["tpx_file"].endswith(".h5")
    tpx.unstage()


def test_the_timer_is_read_around_the_opening_of_the_shutter_and_before_its_closing(tpx, pipe, fake_board, monkeypatch):
    events: list[str | int] = []

    def timer() -> TimerReading:
        events.append(1000 + len(events))
        return TimerReading(events[-1], 50_000_000, 50_000_100)

    def told(name: str):
        really = getattr(fake_board, name)
        return lambda: (events.append(name), really())

    monkeypatch.setattr(fake_board.chip(0), "timer", timer)
    for name in ("open_shutter", "close_shutter"):
        monkeypatch.setattr(fake_board, name, told(name))
    tpx.stage()
    tpx.trigger().wait(60)
    tpx.unstage()
    ((before, opened),), (closed,) = pipe.openings, pipe.shuttings
    open_at = events.index("open_shutter")
    assert events[open_at - 1 : open_at + 2] == [before, "open_shutter", opened]
    assert closed in events[open_at + 1 : events.index("close_shutter", open_at)]


def test_an_exposure_by_time_keeps_the_shutter_open_that_long(tpx):
    tpx.shots.put(0)
    tpx.exposure.put(0.05)
    tpx.stage()
    tpx.trigger().wait(60)
    assert 0.05 <= tpx.open_time.get() < 0.5
    tpx.unstage()


def test_without_a_stage_an_exposure_has_a_file_of_its_own(tpx, pipe):
    tpx.trigger().wait(60)
    first = tpx.file.get()
    tpx.trigger().wait(60)
    assert tpx.file.get() != first
    assert pipe.calls.count("close_run") == 2
    assert tpx.ledger.read()["tpx_ledger_rows"]["value"] == ROWS


def test_without_the_preprocessor_a_stage_is_a_file_and_a_warning_comes_once(RE, checker, tpx, caplog):
    with caplog.at_level(logging.WARNING):
        RE(bp.count([tpx], num=2))
        RE(bp.count([tpx], num=1))
    warnings = [r.message for r in caplog.records if "install(RE, [tpx])" in r.message]
    assert len(warnings) == 1
    first, second = checker.runs
    assert first.stream_names == {"primary"}
    files = {point["tpx_file"] for run in (first, second) for point in run.stream("primary")}
    assert len(files) == 2
    for path, rows in zip(
        sorted(files, key=lambda f: first.stream("primary")[0]["tpx_file"] != f), (200, 100), strict=True
    ):
        with h5py.File(path, "r", swmr=True) as file:
            assert file["entry/centroids/x"].shape == (rows,)


def test_fly_without_preprocessor_and_stage_works(RE, checker, tpx, pipe):
    RE(bp.fly([tpx]))
    assert checker.run.stream("tpx_frames")[0]["tpx_n_centroids"] == ROWS
    assert pipe.calls[-1] == "close_run"


def test_a_second_trigger_while_exposing_is_refused(tpx, pipe):
    pipe.flow.clear()
    tpx.stage()
    status = tpx.trigger()
    with pytest.raises(RuntimeError, match="tpx is exposing already"):
        tpx.trigger()
    pipe.flow.set()
    status.wait(60)
    tpx.unstage()


def test_kickoff_joins_the_flight_that_is_under_way(tpx, pipe):
    pipe.flow.clear()
    tpx.stage()
    tpx.kickoff().wait(60)
    tpx.kickoff().wait(60)
    done = tpx.complete()
    pipe.flow.set()
    done.wait(60)
    assert len(list(tpx.collect())) == 1
    assert tpx.complete().done
    tpx.unstage()


def test_a_trigger_during_a_flight_is_refused(tpx, pipe):
    pipe.flow.clear()
    tpx.stage()
    tpx.kickoff().wait(60)
    with pytest.raises(RuntimeError, match="exposing already"):
        tpx.trigger()
    tpx.stop(success=True)
    tpx.unstage()


def test_complete_without_kickoff_says_so(tpx):
    with pytest.raises(RuntimeError, match=r"complete\(\) without kickoff\(\)"):
        tpx.complete()


def test_stop_fails_the_status_and_closes_the_shutter(tpx, pipe, fake_board):
    pipe.flow.clear()
    tpx.stage()
    status = tpx.trigger()
    assert pipe.looked.wait(60)
    tpx.stop()
    with pytest.raises(AcquisitionStopped, match="tpx was stopped"):
        status.wait(60)
    assert not fake_board.shutter_open.is_set()
    assert pipe.acquisitions[-1].cancelled
    tpx.unstage()


def test_unstage_cancels_quietly(tpx, pipe, fake_board):
    pipe.flow.clear()
    tpx.stage()
    status = tpx.trigger()
    assert pipe.looked.wait(60)
    tpx.unstage()
    status.wait(60)
    assert not fake_board.shutter_open.is_set()
    assert tpx.n_centroids.get() == 0
    assert tpx.rows_on_disk == CANCELLED_ROWS


def test_how_a_recording_lies_on_the_disk_is_the_users_choice(tpx, pipe):
    tpx.storage = Storage(segment_bytes=1 << 30, durable=False, disk_low_bytes=7, disk_stop_bytes=5)
    tpx.trigger().wait(60)
    (request,) = pipe.requests
    assert (request.segment_bytes, request.durable) == (1 << 30, False)
    assert (request.disk_low_bytes, request.disk_stop_bytes) == (7, 5)
    with pytest.raises(ValueError, match="segment_bytes"):
        Storage(segment_bytes=1000)


def test_a_status_tells_progress_in_shots_and_in_seconds(tpx, pipe):
    for settings, unit in (({"shots": 100}, "shots"), ({"shots": 0, "exposure": 0.2}, "s")):
        for name, value in settings.items():
            getattr(tpx, name).put(value)
        seen: list[dict] = []
        status = tpx.trigger()
        status.watch(lambda seen=seen, **kwargs: seen.append(kwargs))
        status.wait(60)
        looks = [look for look in seen if "unit" in look]
        assert looks
        assert {look["unit"] for look in looks} == {unit}
        assert all(look["current"] <= look["target"] for look in looks)


def test_the_settings_make_the_processing_model(tpx):
    wanted = Processing(
        radius_px=3.0, window_ns=50.0, metric=Metric.ELLIPSOID, min_samples=2, trigger_input=2,
        trigger_edge=Edge.FALLING, tof_min_ns=10.0, tof_max_ns=99.0, hits=True, tot_min=3,
        tot_max=1000, masked_pixels=[(0, 12, 34), (0, 1, 2)], trigger_period_ns=1e6, missing_triggers="infer",
        trigger_delay_ns=-20.0, trigger_prescale=10,
    )  # fmt: skip
    tpx.processing.adopt(wanted)
    assert tpx.processing.model == wanted
    tpx.processing.adopt(Processing())
    assert tpx.processing.model == Processing()


def test_a_calibration_is_the_file_that_was_chosen(tpx, tmp_path):
    path = Calibration(chip_offset_ns=[1.0]).save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no such calibration file"):
        tpx.processing.calibration.set(str(tmp_path / "b.npz"))
    tpx.processing.calibration.set(str(path)).wait(60)
    assert tpx.processing.model == Processing(calibration=path)
    tpx.processing.adopt(tpx.processing.model)
    assert tpx.processing.model == Processing(calibration=path)
    Calibration(chip_offset_ns=[2.0]).save(path, overwrite=True)
    with pytest.raises(ValueError, match="has changed since it was chosen"):
        tpx.trigger().wait(60)
    tpx.processing.calibration.set("").wait(60)
    assert tpx.processing.model == Processing()


def test_every_parameter_of_the_model_is_a_signal(tpx):
    assert set(tpx.processing.component_names) == set(Processing.model_fields)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("radius_px", 9.0, "goes from 0.1 to 8 pixel, not 9.0"),
        ("metric", "cube", "is one of cylinder, ellipsoid"),
        ("min_samples", 1.5, "is a whole number"),
        ("trigger_input", 3, "goes from 1 to 2"),
        ("masked_pixels", "0,1,2 0,256,0", r"no pixel \(0, 256, 0\)"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_limits(tpx, name, value, words):
    with pytest.raises(ValueError, match=words):
        getattr(tpx.processing, name).set(value)


def test_settings_that_contradict_each_other_fail_the_exposure(tpx):
    tpx.processing.tof_min_ns.put(100.0)
    tpx.processing.tof_max_ns.put(50.0)
    with pytest.raises(ValueError, match="tof_min_ns"):
        tpx.trigger().wait(60)


def test_the_request_says_how_the_words_are_to_be_read(tpx, pipe):
    tpx.trigger().wait(60)
    (request,) = pipe.requests
    assert request.n_chips == 1
    assert request.phase[0][:3] == (16, 1, 2)
    assert request.timer_zero_ns == 50_000_050 - 25 * 1000
    assert request.timer_zero_iso.endswith("+00:00")


def test_a_directory_that_cannot_be_made_fails_the_exposure_with_the_way_out(spidr, pipelines, tmp_path, pipe):
    (tmp_path / "file").write_text("")
    detector = TimepixDetector(spidr, name="other", data_dir=tmp_path / "file", pipeline=lambda: pipe, shots=100)
    with pytest.raises(OSError, match="give the detector a data_dir"):
        detector.trigger().wait(60)


def test_close_ends_the_pipeline(tpx, pipe):
    pipe.flow.clear()
    status = tpx.trigger()
    hand = when(pipe.looked, tpx.close)
    with pytest.raises(AcquisitionStopped):
        status.wait(60)
    hand.join()
    assert pipe.closed


def test_a_failed_start_of_the_pipeline_fails_the_stage_and_a_later_one_works(tpx, pipelines, monkeypatch):
    from tests.fakes import FakePipeline

    with monkeypatch.context() as broken:
        broken.setattr(FakePipeline, "bind", lambda self, receivers: (_ for _ in ()).throw(OSError("port in use")))
        with pytest.raises(OSError, match="port in use"):
            tpx.stage()
    assert pipelines[0].closed
    tpx.stage()
    tpx.trigger().wait(60)
    tpx.unstage()


def test_pause_and_resume_at_a_prompt_keep_the_promise(tpx, pipe, fake_board):
    pipe.flow.clear()
    tpx.stage()
    status = tpx.trigger()
    assert pipe.looked.wait(60)
    tpx.pause()
    assert not fake_board.shutter_open.is_set()
    pipe.flow.set()
    tpx.resume()
    status.wait(60)
    assert tpx.n_centroids.get() == ROWS
    assert tpx.acquisition.get() == 2
    tpx.unstage()


def test_exposures_run_in_threads_that_end(tpx):
    tpx.trigger().wait(60)
    tpx.close()
    assert not [t for t in threading.enumerate() if t.name == "timepix-exposure"]


def test_a_table_of_column_phases_goes_before_what_the_pll_says(spidr, tpx, pipe):
    spidr.chip0.column_phase = (7,) * 128
    tpx.trigger().wait(60)
    assert pipe.requests[-1].phase == ((7,) * 128,)
    assert tpx.configuration().board.chip(0).column_phase == (7,) * 128


def test_pixels_of_a_chip_that_is_not_there_are_told_when_a_run_opens(RE, checker, tpx, caplog):
    tpx.processing.masked_pixels.set([(0, 1, 2), (3, 1, 2)]).wait(5)
    RE(bp.count([tpx]), checker)
    assert caplog.text.count("masked_pixels has 1 pixel of chip 3, and there is") == 1


def test_how_the_shutter_opens_by_itself_is_as_before_after_a_run(spidr, tpx, fake_board):
    spidr.shutter.count.set(17).wait(60)
    before = fake_board.config
    opened = fake_board.open_shutter

    def open_shutter():
        fake_board.config = TriggerConfig(count=1)
        opened()

    fake_board.open_shutter = open_shutter
    tpx.trigger().wait(60)
    assert fake_board.config == before
    assert spidr.shutter.count.last == 17


def test_a_timer_that_was_restarted_amid_a_run_fails_the_point(tpx, pipe, fake_board, monkeypatch):
    readings = iter([TimerReading(1000, 100, 200), TimerReading(10, 300, 400)])
    monkeypatch.setattr(fake_board.chip(0), "timer", lambda: next(readings))
    with pytest.raises(TimerJumped, match="went back from 1000 to 10"):
        tpx.trigger().wait(60)
    assert not fake_board.shutter_open.is_set()


def test_a_chip_that_falls_silent_amid_an_exposure_fails_the_point(tpx, pipe, fake_board, monkeypatch):
    """What it does not send is not lost on the way: the counters of board and receiver agree."""
    opened = fake_board.open_shutter

    def open_shutter():
        fake_board.chip(0).unlocked.set()
        opened()

    monkeypatch.setattr(fake_board, "open_shutter", open_shutter)
    with pytest.raises(ChipMissing, match="chip 0"):
        tpx.trigger().wait(60)
    assert not fake_board.shutter_open.is_set()
    assert [acquired.cancelled for acquired in pipe.acquisitions] == [True]


def test_a_configuration_is_not_loaded_into_a_run(tpx, pipe, tmp_path):
    path = tmp_path / "good"
    tpx.configuration().save(path)
    tpx.stage()
    tpx.trigger().wait(60)
    with pytest.raises(RuntimeError, match="tpx records a run"):
        tpx.load_configuration(path)
    tpx.unstage()


def test_settings_that_make_no_sense_do_not_keep_a_run_from_closing(tpx, fake_board, caplog):
    fake_board.config = TriggerConfig(frequency_hz=0)
    tpx.stage()
    tpx.trigger().wait(60)
    tpx.unstage()
    assert tpx.ledger.read()["tpx_ledger_rows"]["value"] == ROWS
    assert "frequency_hz" in caplog.text


def test_a_flight_that_is_held_when_its_plan_ends_keeps_nobody_waiting(tpx, pipe):
    """A plan that is stopped amid a pause goes on to its end, without `resume`: bluesky's fly_during waits there."""
    pipe.flow.clear()
    tpx.kickoff().wait(60)
    assert pipe.looked.wait(60)
    tpx.pause()
    tpx.complete().wait(60)
    assert list(tpx.collect()) == []


def test_an_exposure_after_one_that_is_held_takes_its_place(tpx, pipe):
    pipe.flow.clear()
    held = tpx.trigger()
    assert pipe.looked.wait(60)
    tpx.pause()
    pipe.flow.set()
    tpx.trigger().wait(60)
    held.wait(60)
    assert tpx.acquisition.get() >= 1


def test_a_board_sends_to_one_detector_at_a_time(tpx, pipe, spidr, tmp_path):
    other = TimepixDetector(spidr, name="tpy", data_dir=tmp_path, shots=100, pipeline=FakePipeline)
    pipe.flow.clear()
    status = tpx.trigger()
    for begin in (other.trigger, other.kickoff, other.start_align):
        with pytest.raises(RuntimeError, match="spidr sends to tpx, which records a run; tpy can have it after that"):
            begin()
    pipe.flow.set()
    status.wait(60)
    other.trigger().wait(60)
    assert other.n_centroids.get() == ROWS
    other.start_align()
    with pytest.raises(RuntimeError, match="spidr sends to tpy, which is aligning"):
        tpx.trigger()
    other.close()


def test_a_matrix_is_kept_by_two_threads_at_once(tmp_path, monkeypatch):
    both, write = threading.Barrier(2, timeout=10), np.savez_compressed

    def meet(*args, **kwargs):
        both.wait()
        write(*args, **kwargs)
        both.wait()

    monkeypatch.setattr(configuration.np, "savez_compressed", meet)
    failures = []

    def keep():
        try:
            configuration.keep_matrix(PixelMatrix(), tmp_path)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=keep) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    (kept,) = (tmp_path / "matrices").iterdir()
    assert not np.load(kept)["mask"].any()
