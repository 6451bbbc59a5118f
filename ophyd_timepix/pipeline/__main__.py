"""`python -m ophyd_timepix.pipeline`: the supervisor process. Started by `pipeline.client`, never by hand."""

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path

from numba.core import entrypoints

from ..decode.decoder import warm_up as warm_decoder
from ..decode.repeats import warm_up as warm_repeats
from ..events.warm import warm_up as warm_events
from ..files.sharing import share_what_is_made
from .supervisor import Supervisor
from .wire import LineSocket


def main() -> int:
    """Warm the kernels, fork the stages, serve until the control socket closes."""
    parser = argparse.ArgumentParser(prog="ophyd_timepix.pipeline", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True, help="inherited socket to the user's process")
    parser.add_argument("--workers", type=int, default=1, help="centroid processes")
    parser.add_argument("--ring-bytes", type=int, required=True, help="size of the RAM ring, a power of two")
    parser.add_argument("--live-fd", type=int, default=-1, help="inherited memory for what a point adds up to")
    parser.add_argument("--log", type=Path, required=True, help="the log file that stderr goes to")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is Bluesky's pause key
    share_what_is_made()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s"
    )
    _without_extensions_of_numba()
    warm_decoder()
    warm_repeats()
    warm_events()
    control = LineSocket(socket.socket(fileno=options.control_fd))
    supervisor = Supervisor(
        control,
        workers=options.workers,
        ring_bytes=options.ring_bytes,
        log_path=options.log,
        live_fd=options.live_fd,
    )
    return supervisor.serve()


def _without_extensions_of_numba() -> None:
    """What other packages add to it, no kernel here uses; to import it costs each start half a second (awkward)."""
    entrypoints._already_initialized = True  # numba has no option for it; one without this name just imports them


if __name__ == "__main__":
    sys.exit(main())
