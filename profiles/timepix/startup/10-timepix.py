"""The camera of this site. What changes from site to site is in three variables of the environment:

TIMEPIX_ADDRESS   HOST:PORT of the SPIDR board, or `sim`: a simulated camera, and a simulated motor `delay`
TIMEPIX_CHIPS     how many chips it has (1 to 4)
TIMEPIX_DATA      where the data go
"""

import os
from pathlib import Path

from ophyd_timepix import SpidrBoard, TimepixDetector, centroids, install, tpx_fly
from ophyd_timepix.catalog import init_catalog

address = os.environ.get("TIMEPIX_ADDRESS", "192.168.100.10:50000")
data_dir = Path(os.environ.get("TIMEPIX_DATA", Path.home() / "timepix-data"))

if address == "sim":
    from ophyd.sim import SynAxis
    from ophyd_timepix.app.simulator import Simulator

    simulator = Simulator.start()  # ends with this process
    address = simulator.address
    delay = SynAxis(name="delay", labels={"motors"})

spidr = SpidrBoard(address, name="spidr", chips=int(os.environ.get("TIMEPIX_CHIPS", "1")))
tpx = TimepixDetector(spidr, name="tpx", data_dir=data_dir)

init_catalog("timepix", readable=[data_dir])
installation = install(RE, [tpx], catalog="timepix")
db = installation.db
