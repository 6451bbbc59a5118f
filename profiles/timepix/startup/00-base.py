"""The session: RunEngine with metadata that stay, tables and plots, progress bar, plans. For IPython and for
bluesky-queueserver, which shows no plots.
"""

from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky import RunEngine
from bluesky.plan_stubs import mv
from bluesky.plans import adaptive_scan, count, fly, grid_scan, list_scan, rel_scan, scan

from ophyd_timepix.wiring import PersistentMetadata, Site

try:
    from bluesky_queueserver import is_re_worker_active
except ImportError:

    def is_re_worker_active() -> bool:
        return False


# From site.toml beside this folder, or TIMEPIX_ADDRESS, TIMEPIX_CHIPS, TIMEPIX_DATA, TIMEPIX_CATALOG, TIMEPIX_PROPOSAL
site = Site.read(Path(__file__).parents[1] / "site.toml")

RE = RunEngine(PersistentMetadata(site.metadata))

if not is_re_worker_active():
    from bluesky.callbacks.best_effort import BestEffortCallback
    from bluesky.utils import ProgressBarManager

    bec = BestEffortCallback()
    RE.subscribe(bec)
    RE.waiting_hook = ProgressBarManager()
