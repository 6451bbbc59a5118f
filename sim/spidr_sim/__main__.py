"""`python -m spidr_sim`: the same as `spidr-sim`."""

import sys

from spidr_sim.cli import main
from spidr_sim.jit import without_extensions

without_extensions()
sys.exit(main())
