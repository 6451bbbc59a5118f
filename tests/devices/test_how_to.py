"""Every line of the how-to runs, on the simulated board."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
from bluesky.preprocessors import SupplementalData

from ophyd_timepix.devices import SpidrBoard, TimepixDetector
from ophyd_timepix.wiring import install
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.clock import VirtualClock
from spidr_sim.tcp import TcpServer
from tests.fakes import FakePipeline
from tests.pages import Guide
from tests.sim.board_doubles import RecordingStreams


def test_every_line_of_the_page_runs(RE, checker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        TcpServer(SimulatedBoard(1, RecordingStreams(), VirtualClock(speed=20.0))) as server,
        Guide("docs/how-to/control-the-camera.md", "python") as guide,
    ):
        address = ":".join(map(str, server.address))
        names = {"RE": RE, "bp": bp, "bps": bps, "bpp": bpp, "SupplementalData": SupplementalData}
        guide.run(names, 1, {"192.168.100.10:50000": address})
        spidr: SpidrBoard = names["spidr"]
        spidr.bias.ramp_rate.put(1000.0)
        tpx = TimepixDetector(spidr, name="tpx", data_dir=tmp_path, exposure=0.01, pipeline=FakePipeline)
        installation = install(RE, [tpx], min_free_bytes=0)
        try:
            guide.run(names | {"tpx": tpx})
        finally:
            installation.uninstall()
            RE.clear_suspenders()
            tpx.close()
            spidr.disconnect()
    assert [len(run.stream("primary")) for run in checker.runs] == [37, 9, 10]
    assert checker.runs[-1].stream("spidr_monitor_chip_temperature_monitor")
