"""`python -m spidr_sim`: the same as `spidr-sim`."""

import sys

from spidr_sim.cli import main

sys.exit(main())
