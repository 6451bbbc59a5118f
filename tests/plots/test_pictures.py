"""What the pictures say: the numbers in them, the words beside them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from ophyd_timepix.config import Gate, MassCalibration
from ophyd_timepix.plots import (
    distribution_picture,
    image_picture,
    ledger_picture,
    spectrum_picture,
    tof_picture,
    vmi_picture,
)


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


IODINE, METHYL = Gate(name="iodine", tof=(13_800, 14_050)), Gate(name="methyl", mq=(14, 16))
CALIBRATION = MassCalibration(t0_ns=400, k_ns=1200)


def test_gates_are_bands_with_names_in_time_or_mass() -> None:
    edges = np.linspace(0, 20_000, 201)
    for mass_axis, low in ((False, 13.8), (True, CALIBRATION.mq(13_800))):
        (axes,) = spectrum_picture(
            np.ones(200), edges, gates=[METHYL, IODINE], calibration=CALIBRATION, mass_axis=mass_axis
        ).axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["methyl", "iodine"]
        bands = [patch for patch in axes.patches if patch.get_label() == "iodine"]
        assert bands[0].get_x() == pytest.approx(low)
        assert axes.get_xlabel() == ("m/q (u/e)" if mass_axis else "time of flight (µs)")


def test_a_band_ends_at_the_border_where_its_gate_is_open() -> None:
    (axes,) = tof_picture([100.0, 900.0], range_ns=(0, 1000), gates=[Gate(name="late", tof=(500, None))]).axes
    (band,) = (patch for patch in axes.patches if patch.get_label() == "late")
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.5, 1.0))


def test_an_axis_or_a_gate_of_mass_needs_a_calibration() -> None:
    with pytest.raises(ValueError, match="an axis of m/q needs a calibration"):
        spectrum_picture([1], [0, 1], mass_axis=True)
    with pytest.raises(ValueError, match="'methyl' is a window of m/q, and there is no calibration"):
        spectrum_picture([1], [0, 1], gates=[METHYL])


def test_a_counted_picture_is_shown_as_it_is() -> None:
    counts = np.arange(6).reshape(2, 3)
    axes = image_picture(counts, scale="log", title="gate").axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), counts)
    assert (axes.get_title(), axes.get_xlim(), axes.get_ylim()) == ("gate: 15 centroids", (-0.5, 2.5), (-0.5, 1.5))


def test_a_distribution_names_its_median() -> None:
    (axes,) = distribution_picture([0, 5, 20, 1, 0, 0], quantity="cluster size (hits)", first=-0.5).axes
    assert axes.get_legend().get_texts()[0].get_text() == "median 2"
    assert axes.get_xlim() == (-0.5, 3.5)
    assert axes.get_xlabel() == "cluster size (hits)"


def test_the_ledger_shows_what_was_lost_and_leaves_out_what_was_not() -> None:
    whole = {"hits": 1000, "centroids": 90, "written": 90, "unaccounted": 0, "unknown_words": 0}
    (axes,) = ledger_picture(whole).axes
    assert axes.get_title() == "Ledger: complete: all of the recording was read; no shots"
    said = [label.get_text() for label in axes.get_yticklabels()]
    assert said == ["hits", "centroids", "rows written", "unaccounted"]
    (axes,) = ledger_picture(whole | {"lost_datagrams": 3, "unaccounted": 7}).axes
    assert axes.get_title() == "Ledger: do not publish: 7 words, hits or datagrams are unaccounted for"
    assert "datagrams lost" in [label.get_text() for label in axes.get_yticklabels()]
    assert [text.get_text() for text in axes.texts] == ["1,000", "90", "90", "3", "7"]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_nothing_to_show_is_shown_as_such(scale: str, tmp_path: Path) -> None:
    for name, figure in {
        "vmi": vmi_picture([], [], scale=scale),  # type: ignore[arg-type]
        "tof": tof_picture([], scale=scale),  # type: ignore[arg-type]
        "size": distribution_picture([], quantity="size"),
    }.items():
        assert figure.axes[0].get_title().endswith("no centroids")
        figure.savefig(tmp_path / f"{name}.png")


def test_the_room_is_imported_without_matplotlib() -> None:
    script = "import sys, ophyd_timepix.plots; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "False", done.stderr


class Counted(np.ndarray):  # type: ignore[type-arg]
    """A picture that says how fine it is, as those of the catalog do."""

    attrs = {"bins_per_px": 2}  # noqa: RUF012


def test_a_fine_picture_of_the_catalog_keeps_the_size_of_the_sensor() -> None:
    figure = image_picture(np.zeros((512, 512)).view(Counted))
    picture, bar = figure.axes
    assert picture.images[0].get_extent() == [-0.5, 255.5, -0.5, 255.5]
    assert bar.get_ylabel() == "centroids per (1/2 pixel)²"


def test_pictures_per_point_and_unknown_scales_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"2 dimensions \(y, x\), not 3; of pictures per point choose one"):
        image_picture(np.zeros((2, 8, 8)))
    for picture in (lambda: vmi_picture([1], [1], scale="Log"), lambda: tof_picture([5.0], scale="Log")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no scale 'Log'; there are: linear, log"):
            picture()
    with pytest.raises(ValueError, match="range_ns is empty: 5 ns is not below 5 ns"):
        tof_picture([5000.0], range_ns=(5, 5))


def test_titles_count_what_is_shown() -> None:
    figure = tof_picture([100.0, 900.0, 5000.0], range_ns=(0, 1000), bin_ns=10)
    assert figure.axes[0].get_title() == "Time of flight: 2 centroids"
    assert vmi_picture([1], [1]).axes[0].get_title() == "Velocity-map image: 1 centroid"


def test_a_gate_beside_what_is_shown_is_not_in_the_legend() -> None:
    gates = [Gate(name="near", tof=(100, 200)), Gate(name="far", tof=(5_000, 6_000))]
    (axes,) = tof_picture([100.0, 900.0], range_ns=(0, 1000), bin_ns=10, gates=gates).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["near"]


def test_a_ledger_that_knows_nothing_is_drawn_as_that() -> None:
    for ledger in ({}, {"unaccounted": None, "written": 5}):
        assert ledger_picture(ledger).axes[0].get_title().startswith("Ledger: not known: ")
    assert ledger_picture({"unaccounted": 0, "written": 5}).axes[0].get_title().startswith("Ledger: complete: ")
