"""What this camera adds to bluesky's plans, and what one asks of runs that were taken."""

from ophyd_timepix import Gate, calibrate_mass, centroids, count_until, counts, regate, tpx_fly
