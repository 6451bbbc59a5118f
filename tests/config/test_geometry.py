"""Pictures that are turned."""

import numpy as np
import pytest

from ophyd_timepix.config import Geometry, Orientation
from ophyd_timepix.config.geometry import inner_sides


def places(geometry: Geometry, chip: int) -> np.ndarray:
    """(x, y) of each pixel [column, row] of a chip."""
    a, b, c, d, e, f = geometry.placements[chip]
    column, row = np.indices((256, 256))
    return np.stack([a * column + b * row + c, d * column + e * row + f])


def test_a_single_chip_is_turned_as_pymepix_turns_it():
    column, row = np.indices((256, 256))
    expected = {
        Orientation.UP: (column, row),
        Orientation.LEFT: (row, 255 - column),
        Orientation.DOWN: (255 - column, 255 - row),
        Orientation.RIGHT: (255 - row, column),
    }
    for orientation, place in expected.items():
        np.testing.assert_array_equal(places(Geometry().turned(orientation), 0), np.stack(place))


@pytest.mark.parametrize("orientation", list(Orientation))
def test_a_picture_that_is_turned_holds_each_pixel_once(orientation):
    geometry = Geometry.for_chips(4, 10).turned(orientation)
    found = np.concatenate([places(geometry, chip).reshape(2, -1) for chip in range(4)], axis=1)
    assert len(set(map(tuple, found.T.tolist()))) == 4 << 16
    assert found.min() == 0
    assert (found[0].max(), found[1].max()) == (geometry.width_px - 1, geometry.height_px - 1)


def test_four_quarters_are_a_whole_turn_though_the_picture_is_not_square():
    geometry = Geometry(placements=((1, 0, 0, 0, 1, 0), (1, 0, 260, 0, 1, 3)), width_px=516, height_px=259)
    turned = geometry.turned(Orientation.LEFT)
    assert (turned.width_px, turned.height_px) == (259, 516)
    assert turned.turned(Orientation.RIGHT) == geometry
    assert turned.turned(Orientation.LEFT) == geometry.turned(Orientation.DOWN)


def test_a_gap_that_is_none_is_refused():
    with pytest.raises(ValueError, match="0 to 1000 pixels, not -1"):
        Geometry.for_chips(4, -1)


@pytest.mark.parametrize("orientation", list(Orientation))
def test_the_inner_sides_of_a_quad_face_another_chip_however_it_is_turned(orientation):
    """1 column 0, 2 column 255, 8 row 255: row 0 is outside on all four."""
    assert inner_sides(Geometry.for_chips(4, 7).turned(orientation).table()).tolist() == [9, 10, 9, 10]
    assert inner_sides(Geometry.for_chips(2).turned(orientation).table()).tolist() == [8, 8]


def test_a_chip_alone_or_aside_faces_none():
    assert inner_sides(Geometry().table()).tolist() == [0]
    corner_to_corner = np.array([(1, 0, 0, 0, 1, 0), (1, 0, 300, 0, 1, 300)])
    assert inner_sides(corner_to_corner).tolist() == [0, 0]
