"""Scans of settings on the simulated camera: TCP, UDP, the pipeline and bluesky, in one run each."""

from collections.abc import Iterator
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.callbacks.best_effort import BestEffortCallback

from ophyd_timepix.config.text import from_text
from ophyd_timepix.devices import TimepixDetector
from ophyd_timepix.protocol import PixelMatrix
from tests.bluesky_fixtures import checker
from tests.camera import engine_with, simulated_camera

__all__ = ["checker"]

THRESHOLD = "spidr_chip0_dacs_vthreshold_fine"
NOISE_FLOOR = 220
"""Of the fine threshold at the coarse one of 6: the simulator's analogue output without a particle."""


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimepixDetector]:
    with simulated_camera(tmp_path_factory.mktemp("data"), rate=1e5, seed=3, exposure=0.05) as tpx:
        yield tpx


@pytest.fixture
def RE(camera: TimepixDetector) -> Iterator[RunEngine]:
    with engine_with(camera) as engine:
        yield engine


def hits_per_shot(point):
    """A shot is one of the board's: a second of the host has fewer of them when the machine is busy."""
    return point["tpx_n_hits"] / point["tpx_n_shots"]


def test_a_threshold_scan_shows_the_noise_edge_and_the_dac_in_every_event(RE, checker, camera, capsys):
    """Far above the noise the hits are the particles'; near it they rise steeply; the table shows both."""
    best_effort = BestEffortCallback()
    best_effort.disable_plots()
    RE.subscribe(best_effort)
    dac = camera.board.chip0.dacs.vthreshold_fine
    try:
        RE(bp.scan([camera], dac, NOISE_FLOOR + 200, NOISE_FLOOR + 40, 9))
    finally:
        dac.set(dac.dac.default).wait(60)
    points = checker.run.stream("primary")
    assert [point[THRESHOLD] for point in points] == list(range(420, 259, -20))
    hits = np.array([hits_per_shot(point) for point in points])
    assert hits[:5].max() < 2 * hits[:5].min(), "above the noise the threshold changes little"
    assert hits[-1] > 3 * hits[0], "near it noise is what is seen"
    assert len(checker.run.described("primary")) == 1
    table = capsys.readouterr().out
    assert THRESHOLD[:20] in table
    assert "tpx_n_centroids"[:10] in table


def test_a_bias_scan_waits_for_the_bias_and_the_signal_follows_it(RE, checker, camera):
    bias = camera.board.bias
    before = bias.ramp_rate.get()
    bias.ramp_rate.put(200.0)
    try:
        RE(bp.scan([camera], bias, 14, 50, 2))
    finally:
        bias.ramp_rate.put(before)
    low, high = checker.run.stream("primary")
    assert low["spidr_bias"] == pytest.approx(14, abs=0.6)
    assert high["spidr_bias"] == pytest.approx(50, abs=0.6)
    assert hits_per_shot(low) < hits_per_shot(high)


def test_masked_pixels_are_silent_and_the_mask_is_recorded(RE, checker, camera):
    matrix = PixelMatrix()
    matrix.mask[:128] = True
    before = camera.board.chip0.matrix.last

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([camera])
        yield from bps.mv(camera.board.chip0.matrix, matrix)
        yield from bps.checkpoint()
        yield from bps.trigger_and_read([camera])

    try:
        RE(plan())
    finally:
        camera.board.chip0.matrix.set(before).wait(60)
    first, second = checker.run.stream("primary")
    assert hits_per_shot(second) < 0.8 * hits_per_shot(first)
    x = checker.run.column("x")[second["tpx_row_start"] : second["tpx_row_stop"]]
    assert x.min() > 127
    digests = [d["configuration"]["tpx"]["data"]["tpx_chip0_matrix_digest"] for d in checker.run.described("primary")]
    assert digests == [before.digest(), matrix.digest()]
    _check_master(Path(checker.run.path("x")).with_suffix(".nxs"))


def _check_master(path: Path) -> None:
    with h5py.File(path) as master:
        text = master["entry/settings/data"][()]
        mask = master["entry/instrument/timepix/pixel_mask"][:]
    assert (mask[:, :128] == 256).all()
    assert not mask[:, 128:].any()
    assert from_text(text)["board"]["chips"][0]["dacs"]["vthreshold_fine"] == 420


def test_settings_survive_a_file_a_reset_and_a_recording(camera, tmp_path):
    path = camera.save_configuration(tmp_path / "good", comment="as it was")
    assert camera.diff_configuration(path) == ""
    camera.board.chip0.dacs.vfbk.set(99).wait(60)
    camera.processing.radius_px.set(3.0).wait(60)
    assert camera.diff_configuration(path).splitlines() == [
        "chip 0 dacs.vfbk: 99 -> 128",
        "processing.radius_px: 3.0 -> 2.0",
    ]
    camera.board.reset()
    assert camera.board.chip0.dacs.vfbk.get() == 99
    camera.load_configuration(path)
    assert camera.diff_configuration(path) == ""
    assert camera.processing.radius_px.get() == 2.0
