"""What the pictures say: the numbers in them, the words beside them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from ophyd_timepix.plots import tof_picture, vmi_picture


def test_a_centroid_at_a_pixel_centre_is_in_that_pixel_with_y_upwards() -> None:
    image = vmi_picture([3.0, 3.4, 250.0], [200.0, 199.6, 0.0]).axes[0].images[0]
    data = np.asarray(image.get_array())
    assert data[200, 3] == 2
    assert data[0, 250] == 1
    assert data.sum() == 3
    assert image.origin == "lower"


def test_finer_bins_count_the_same_centroids() -> None:
    xs = np.linspace(0, 255, 1000)
    data = np.asarray(vmi_picture(xs, xs, bins_per_px=4).axes[0].images[0].get_array())
    assert data.shape == (1024, 1024)
    assert data.sum() == 1000


def test_axes_and_bar_carry_units_and_the_title_counts() -> None:
    figure = vmi_picture(np.zeros(1500), np.zeros(1500), title="I+")
    picture, bar = figure.axes
    assert picture.get_title() == "I+: 1,500 centroids"
    assert (picture.get_xlabel(), picture.get_ylabel()) == ("x (pixel, 1 pixel = 55 µm)", "y (pixel)")
    assert bar.get_ylabel() == "centroids per pixel"


def test_the_spectrum_counts_every_centroid_that_has_a_shot() -> None:
    tof = np.array([np.nan, 1000.0, 1000.5, 5000.0])
    figure = tof_picture(tof, range_ns=(0, 6000), bin_ns=10, title="run 7")
    values, edges, _ = figure.axes[0].patches[0].get_data()
    assert values.sum() == 3
    assert values[100] == 2
    assert edges[100] == pytest.approx(1.0)
    assert figure.axes[0].get_title() == "run 7: 3 centroids"
    assert figure.axes[0].get_xlabel() == "time of flight (µs)"
    assert figure.axes[0].get_ylabel() == "centroids per 10 ns"


def test_the_last_centroid_is_counted_when_no_range_is_given() -> None:
    tof = np.arange(0.0, 5000.0, 7.0)
    values, _, _ = tof_picture(tof).axes[0].patches[0].get_data()
    assert values.sum() == tof.size


def test_mass_peaks_in_range_are_named() -> None:
    figure = tof_picture([1605.0], range_ns=(0, 10_000), peaks={"H+": 1605.0, "far": 99_000.0})
    assert [text.get_text() for text in figure.axes[0].texts] == ["H+"]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_nothing_to_show_is_shown_as_such(scale: str, tmp_path: Path) -> None:
    for name, figure in {
        "vmi": vmi_picture([], [], scale=scale),  # type: ignore[arg-type]
        "tof": tof_picture([], scale=scale),  # type: ignore[arg-type]
    }.items():
        assert figure.axes[0].get_title().endswith("no centroids")
        figure.savefig(tmp_path / f"{name}.png")


def test_the_room_is_imported_without_matplotlib() -> None:
    script = "import sys, ophyd_timepix.plots; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "False", done.stderr
