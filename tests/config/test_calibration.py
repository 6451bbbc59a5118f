"""A calibration: what it says, its file, and that the file is the one that was chosen."""

import numpy as np
import pytest
from pydantic import ValidationError

from ophyd_timepix.config import Calibration, CalibrationFile, ConfigError, Processing
from ophyd_timepix.config.calibration import energy_kev, walk_ns
from ophyd_timepix.events.corrections import Corrections

ABC = np.array([[540.0, -5.0, 0.0], [300.0, 0.5, 2.0]])
ABCT = np.array([[2.0, 10.0, 50.0, 1.5], [3.0, 0.0, 0.0, 0.0]])


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(time_walk_abc=ABC, chip_offset_ns=[0, 25], energy_abct=ABCT, comment="of Tuesday, 0° °C")


def test_a_file_says_what_was_saved(calibration, tmp_path):
    path = calibration.save(tmp_path / "a.npz")
    assert Calibration.load(path) == calibration
    assert Calibration.load(path).comment == calibration.comment
    assert Calibration.load(path).digest() == calibration.digest()


def test_the_same_calibration_gives_the_same_file(calibration, tmp_path):
    one, two = (CalibrationFile.of(calibration.save(tmp_path / name)) for name in ("a.npz", "b.npz"))
    assert one.sha256 == two.sha256


def test_a_file_that_is_there_is_not_replaced_unasked(calibration, tmp_path):
    calibration.save(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match="overwrite=True"):
        calibration.save(tmp_path / "a.npz")
    calibration.save(tmp_path / "a.npz", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_arrays_cannot_be_written(calibration):
    with pytest.raises(ValueError, match="read-only"):
        calibration.chip_offset_ns[0] = 1


def test_processing_names_the_file_with_its_digest_and_survives_json(calibration, tmp_path):
    path = calibration.save(tmp_path / "a.npz")
    processing = Processing(calibration=str(path))
    assert processing.calibration == CalibrationFile.of(path)
    assert (processing.calibration.chips, processing.calibration.energy) == (2, True)
    assert Processing.model_validate_json(processing.model_dump_json()) == processing
    assert processing.load_calibration() == calibration
    assert processing.optional_columns == ("energy",)
    assert Processing(calibration="").calibration is Processing(calibration="none").calibration is None


def test_a_file_that_changed_is_refused_with_both_digests(calibration, tmp_path):
    path = calibration.save(tmp_path / "a.npz")
    processing, before = Processing(calibration=path), CalibrationFile.of(path)
    Calibration(chip_offset_ns=[1]).save(path, overwrite=True)
    now = CalibrationFile.of(path)
    words = f"has changed since it was chosen: its sha256 is {now.sha256}, not {before.sha256}; put the old file back"
    with pytest.raises(ConfigError, match=words):
        processing.load_calibration()
    with pytest.raises(ValidationError, match=words):
        Processing(calibration=before.text)
    assert Processing(calibration=now.text).calibration == now


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "says something"),
        ({"chip_offset_ns": [[1.0]]}, r"has the shape \(chips\) with 1 to 4 chips, not \(1, 1\)"),
        ({"time_walk_table_ns": np.zeros((1, 1023))}, r"has the shape \(chips, 1024\)"),
        (
            {"time_walk_abc": np.zeros((5, 3))},
            r"\(chips, 3\) or \(chips, 256, 256, 3\) with 1 to 4 chips, not \(5, 3\)",
        ),
        ({"time_walk_abc": [[np.nan, 0, 0]]}, "not finite"),
        ({"time_walk_abc": ABC, "time_walk_table_ns": np.zeros((2, 1024))}, "not both"),
        ({"time_walk_abc": ABC, "chip_offset_ns": [1]}, r"of the same chips, not of \[1, 2\]"),
        ({"chip_offset_ns": [20_000]}, "within 10000 ns, not 20000 ns"),
        ({"energy_abct": [[0, 1, 1, 1]]}, "ToT grows with energy"),
        ({"energy_abct": [[np.inf, 1, 1, 1]]}, "infinite numbers; NaN stands for"),
        ({"chip_offset_ns": [1j]}, "real numbers, not complex128"),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        Calibration(**wrong)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such calibration file"), (b"", "no .npz file"), (b"PK\x03\x04 cut", "no .npz file")],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"a\.npz: .*{words}"):
        Calibration.load(tmp_path / "a.npz")


def test_another_npz_is_no_calibration(tmp_path):
    np.savez(tmp_path / "a.npz", mask=np.zeros(3))
    with pytest.raises(ConfigError, match="`format` is not 'ophyd_timepix calibration'"):
        Calibration.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", format="ophyd_timepix calibration", version=np.zeros(3))
    with pytest.raises(ConfigError, match="it has the version"):
        Calibration.load(tmp_path / "b.npz")


def test_no_byte_of_a_file_can_be_lost_unseen(calibration, tmp_path):
    whole = calibration.save(tmp_path / "a.npz").read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "a.npz").write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"a\.npz"):
            Calibration.load(tmp_path / "a.npz")


def test_time_walk_stays_within_what_it_says(calibration):
    low, high = calibration.range_ns
    walks = calibration.walk_table_ns()
    assert low <= walks.min() <= walks.max() <= high
    assert walks[1, 100] == 300 / 99.5 + 2 + 25
    assert walk_ns(np.array([540.0, 3.0, 1.0]), [0, 3, 4, 5]).tolist() == [541, 541, 541, 271]


def test_energy_is_the_inverse_of_the_surrogate():
    energies = np.linspace(1.6, 100, 50)
    a, b, c, t = ABCT[0]
    tot = a * energies + b - c / (energies - t)
    np.testing.assert_allclose(energy_kev(ABCT[0], tot), energies, rtol=1e-9)
    assert energy_kev(ABCT[1], [0, 30]).tolist() == [0, 10]


def test_a_calibration_of_fewer_chips_than_there_are_is_refused(calibration):
    with pytest.raises(ValueError, match="describes 2 chips, the data come from 4"):
        Corrections(Processing(), calibration, 4)
