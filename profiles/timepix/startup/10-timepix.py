"""The camera of this site, in its catalog. With the address `sim`: a simulated one, with a pump-probe `delay` (ps)."""

from ophyd_timepix import SpidrBoard, TimepixDetector, install
from ophyd_timepix.catalog import init_catalog
from ophyd_timepix.devices import DatedPaths

if site.simulated:
    from ophyd_timepix.app.delay import SimulatedDelay
    from ophyd_timepix.app.simulator import Simulator

    simulator = Simulator.start(["--chips", str(site.chips)])  # ends with this process
    delay = SimulatedDelay(simulator, name="delay")

spidr = SpidrBoard(simulator.address if site.simulated else site.address, name="spidr", chips=site.chips)
paths = DatedPaths(site.data, proposal=site.proposal or None)
tpx = TimepixDetector(spidr, name="tpx", data_dir=site.data, paths=paths)

init_catalog(site.catalog, readable=[site.data])
installation = install(RE, [tpx], catalog=site.catalog)
db = installation.db
