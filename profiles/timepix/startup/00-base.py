"""The session: RunEngine, tables and plots, plans. Works in IPython and under bluesky-queueserver (with --keep-re)."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky import RunEngine
from bluesky.plans import count, fly, grid_scan, list_scan, rel_scan, scan

try:
    from bluesky_queueserver import is_re_worker_active
except ImportError:

    def is_re_worker_active() -> bool:
        return False


RE = RunEngine({})

if not is_re_worker_active():
    from bluesky.callbacks.best_effort import BestEffortCallback
    from bluesky.utils import ProgressBarManager

    bec = BestEffortCallback()
    RE.subscribe(bec)
    RE.waiting_hook = ProgressBarManager()
