"""What a user gets by importing the package."""

import subprocess
import sys

import ophyd_timepix


def test_importing_the_package_is_cheap():
    code = "import sys, ophyd_timepix; print(*(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numba", "numpy", "tiled", "databroker", "ophyd", "bluesky", "h5py", "pydantic"}
    assert not heavy & set(done.stdout.split())


def test_every_public_name_resolves():
    for name in ophyd_timepix.__all__:
        assert getattr(ophyd_timepix, name) is not None
    assert set(ophyd_timepix.__all__) <= set(dir(ophyd_timepix))
