"""What `install` takes as a catalog beside Tiled's: a writer of lines, with assets in either form."""

import bluesky.plans as bp
import pytest
from bluesky import RunEngine
from event_model import Filler

from ophyd_timepix.catalog import JsonlWriter, read_run
from ophyd_timepix.catalog.handler import SPEC, EventListHandler
from ophyd_timepix.devices import TimepixDetector
from ophyd_timepix.wiring import install
from tests.bluesky_fixtures import RE, checker, fake_board, pipelines, spidr, tpx
from tests.fakes import ROWS

__all__ = ["RE", "checker", "fake_board", "pipelines", "spidr", "tpx"]


def test_a_session_without_a_catalog_keeps_files_and_lines(RE: RunEngine, tpx: TimepixDetector) -> None:
    writer = JsonlWriter(tpx.data_dir / "documents")
    installation = install(RE, [tpx], catalog=writer, min_free_bytes=0)
    RE(bp.count([tpx], num=3))
    assert writer.last_file is not None
    run = read_run(writer.last_file)
    assert run.is_complete
    assert [row["tpx_n_centroids"] for row in run.streams["primary"]] == [ROWS] * 3
    (event_file,) = run.files
    assert event_file.exists()
    installation.uninstall()


@pytest.mark.parametrize("points", [1, 3])
def test_a_filler_gives_the_centroids_of_a_session(RE: RunEngine, tpx: TimepixDetector, points: int) -> None:
    writer = JsonlWriter(tpx.data_dir / "documents", assets="datum")
    installation = install(RE, [tpx], catalog=writer, min_free_bytes=0)
    RE(bp.count([tpx], num=points))
    installation.uninstall()
    assert writer.last_file is not None
    shots = []
    with Filler({SPEC: EventListHandler}, inplace=False, retry_intervals=[]) as filler:
        for name, doc in read_run(writer.last_file).documents:
            _, filled = filler(name, doc)
            if name == "event" and "tpx_centroids_shot" in filled["data"]:
                shots += list(filled["data"]["tpx_centroids_shot"])
    assert len(shots) == points * ROWS
