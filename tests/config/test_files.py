"""Configurations in files: what is saved comes back, and what is damaged is named, with nothing loaded."""

import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ophyd_timepix.config import (
    BiasConfig,
    BoardConfig,
    ChipConfig,
    ConfigError,
    DetectorConfig,
    TriggerSettings,
    diff,
)
from ophyd_timepix.config import files as config_files
from ophyd_timepix.config.files import paths_of, read
from ophyd_timepix.protocol import Dac, GeneralConfig, PixelMatrix
from tests.config.settings import board_config, board_configs, chip_config, detector_config, detector_configs
from tests.pages import Guide

IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
FLIPS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return board_config(1).save(tmp_path / "tuesday")


def matrix_path(path: Path) -> Path:
    return paths_of(path)[1]


def edit(path: Path, old: str, new: str) -> None:
    """Change a saved file by hand, as the text in it says."""
    text = path.read_text()
    assert old in text
    text = text.replace(old, new, 1)
    path.write_text("".join(line for line in text.splitlines(True) if not line.startswith("checksum")))


# --- there and back ---------------------------------------------------------------------------------------------------
@IN_ONE_FOLDER
@given(detector_configs | board_configs)
def test_what_is_saved_comes_back(tmp_path: Path, config: DetectorConfig | BoardConfig):
    config.save(tmp_path / "any", overwrite=True)
    again = type(config).load(tmp_path / "any")
    assert again == config
    assert diff(config, again) == ()


@pytest.mark.parametrize("line_end", ["\n", "\r", "\x85", "\u2028", "\u2029"])
def test_comment_with_any_end_of_line_comes_back(tmp_path: Path, line_end: str):
    config = detector_config().changed(comment=f"a{line_end}b{line_end}")
    assert DetectorConfig.load(config.save(tmp_path / "any")) == config


def test_path_goes_with_and_without_its_suffix(tmp_path: Path):
    config = board_config(1)
    path = config.save(tmp_path / "v1.tuesday")
    assert path == tmp_path / "v1.tuesday.yaml"
    assert sorted(os.listdir(tmp_path)) == ["v1.tuesday.matrix.npz", "v1.tuesday.yaml"]
    assert BoardConfig.load(path) == BoardConfig.load(tmp_path / "v1.tuesday") == config


def test_board_of_a_detector_is_found_in_its_file_but_not_the_other_way(tmp_path: Path):
    config = detector_config()
    config.save(tmp_path / "detector")
    assert BoardConfig.load(tmp_path / "detector") == config.board
    config.board.save(tmp_path / "board")
    with pytest.raises(ConfigError, match="settings of a board, not of a whole detector"):
        DetectorConfig.load(tmp_path / "board")


def test_parts_that_say_nothing_are_not_in_the_file(tmp_path: Path):
    path = BoardConfig(trigger=TriggerSettings()).save(tmp_path / "trigger")
    text = path.read_text()
    assert "trigger:" in text
    assert not any(word in text for word in ("bias:", "tdc:", "None", "null"))


def test_text_is_for_people(saved: Path):
    """Units, limits and meanings stand beside the values; pixels are summed up; enumerations go by name."""
    text = saved.read_text()
    for line in (
        r"  bias: +# bias voltage of the sensor",
        r"    volts: 33\.5 +# bias voltage while it is on, 12 to 104 V",
        r"    mode: open +# shutter mode",
        r"  - index: 0 +# number of the chip on its board, 0 to 3",
        r"      vthreshold_fine: 422 +# 0 to 511: threshold, fine",
        r"      polarity: electrons \(negative\) +# charge collected: holes \(positive\) \| electrons \(negative\)",
        r"      gray_counter: on +# ToA in Gray code: off \| on",
        r"    # \d+ masked, \d+ with test pulses, threshold_adjust 0 to 15",
        r"    header_filter: 0xc70 +# .*16 bits",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), line
    assert max(map(len, text.splitlines())) <= 140


def test_example_of_the_how_to_is_what_is_written(tmp_path: Path):
    with Guide("docs/how-to/save-and-load-a-configuration.md", "yaml") as guide:
        example = guide.take().text
    board = BoardConfig(
        bias=BiasConfig(enabled=True, volts=50.0),
        trigger=TriggerSettings(),
        chips=(
            ChipConfig(
                name="W0026_K06", dacs={dac: dac.default for dac in Dac}, general=GeneralConfig(), matrix=PixelMatrix()
            ),
        ),
    )
    written = board.save(tmp_path / "example").read_text().splitlines()
    own = ("...", "matrix:", "checksum:", "# 12 masked")
    shown = [line for line in example.splitlines() if not line.strip().startswith(own)]
    assert [line for line in shown if line not in written] == []


def test_change_by_hand_is_taken_when_the_checksum_is_deleted(saved: Path):
    edit(saved, "vthreshold_fine: 422", "vthreshold_fine: 430")
    (only,) = diff(board_config(1), BoardConfig.load(saved))
    assert str(only) == "chip 0 dacs.vthreshold_fine: 422 -> 430"


# --- both or none -----------------------------------------------------------------------------------------------------
def test_existing_files_are_kept_unless_told(saved: Path):
    other = board_config(2)
    with pytest.raises(ConfigError, match=r"tuesday\.yaml exists; .*overwrite=True"):
        other.save(saved)
    assert BoardConfig.load(saved) == board_config(1)
    other.save(saved, overwrite=True)
    assert BoardConfig.load(saved) == other


@pytest.mark.parametrize("failing", range(1, 4))
def test_a_disk_that_fails_at_any_rename_leaves_what_was_there(
    saved: Path, monkeypatch: pytest.MonkeyPatch, failing: int
):
    calls: list[object] = []
    rename = os.replace

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing:
            raise OSError(28, "No space left on device", str(target))
        rename(source, target)

    monkeypatch.setattr(config_files.os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        board_config(2).save(saved, overwrite=True)
    assert BoardConfig.load(saved) == board_config(1)
    assert len(os.listdir(saved.parent)) == 2


def test_a_disk_that_fails_at_first_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(config_files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        board_config(1).save(tmp_path / "new")
    assert os.listdir(tmp_path) == []


def test_a_save_that_was_cut_off_between_the_renames_left_the_old_state(saved: Path, tmp_path: Path):
    """As after a power failure: the new matrices are in place, the old ones beside, the yaml is still the old one."""
    board_config(2).save(tmp_path / "other")
    old = matrix_path(saved)
    old.rename(old.with_name(old.name + ".old"))
    matrix_path(tmp_path / "other").rename(old)
    assert BoardConfig.load(saved) == board_config(1)


# --- damage -----------------------------------------------------------------------------------------------------------
def refused(path: Path, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        BoardConfig.load(path)
    assert str(path) in str(error.value)
    assert str(error.value).endswith("nothing was loaded")


@FLIPS
@given(data=st.data())
def test_one_flipped_bit_in_the_yaml_is_told_or_harmless(tmp_path: Path, data: st.DataObject):
    path = saved_once(tmp_path)
    flip_a_bit(path, data)
    loads_whole_or_not_at_all(path)


@FLIPS
@given(data=st.data())
def test_one_flipped_bit_in_the_matrices_is_told_or_harmless(tmp_path: Path, data: st.DataObject):
    path = saved_once(tmp_path)
    flip_a_bit(matrix_path(path), data)
    loads_whole_or_not_at_all(path)


@FLIPS
@given(data=st.data())
def test_a_cut_file_is_told(tmp_path: Path, data: st.DataObject):
    path = saved_once(tmp_path)
    damaged = data.draw(st.sampled_from([path, matrix_path(path)]))
    whole = damaged.read_bytes()
    # The last line feed and what stands behind the archive's directory may go.
    damaged.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    with pytest.raises(ConfigError, match="nothing was loaded"):
        DetectorConfig.load(path)


def saved_once(folder: Path) -> Path:
    """A whole configuration in `folder`, whatever an example before did to it; packing it each time would take long."""
    whole = folder / "whole"
    if not whole.exists():
        whole.mkdir()
        detector_config().save(whole / "tuesday")
    for part in whole.iterdir():
        (folder / part.name).write_bytes(part.read_bytes())
    return folder / "tuesday.yaml"


def flip_a_bit(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)


def loads_whole_or_not_at_all(path: Path) -> None:
    try:
        config = DetectorConfig.load(path)
    except ConfigError as error:
        assert "nothing was loaded" in str(error)  # noqa: PT017
    else:
        assert config == detector_config()


def test_a_folder_that_cannot_take_the_files_is_named_with_the_way_out(tmp_path: Path):
    (tmp_path / "file").touch()
    for folder, what in (("missing", "is not there"), ("file", "is a file, no folder")):
        with pytest.raises(
            ConfigError, match=rf"any\.yaml cannot be written: the folder {tmp_path / folder} {what}; make"
        ):
            board_config(1).save(tmp_path / folder / "any")


def test_a_file_of_sophy_is_no_configuration_and_the_message_says_how_it_becomes_one(tmp_path: Path):
    path = tmp_path / "chip.spx"
    path.touch()
    with pytest.raises(ConfigError, match=rf"config convert {path} NAME\.yaml`.*import_spx; nothing was loaded"):
        BoardConfig.load(path)
    with pytest.raises(ConfigError, match=r"export_spx\(chip, path\).*config convert NAME\.yaml NAME\.spx"):
        board_config(1).save(path)
    assert list(tmp_path.iterdir()) == [path]


def test_missing_files_are_named(saved: Path):
    refused(saved.with_name("wednesday.yaml"), "there is no such file")
    refused(saved.parent, "there is no such file|cannot be read")
    matrix_path(saved).unlink()
    refused(saved, r"tuesday\.matrix\.npz, is not beside it")


def test_matrices_of_another_configuration_are_refused(saved: Path, tmp_path: Path):
    BoardConfig(chips=(chip_config(0, seed=9),)).save(tmp_path / "other")
    matrix_path(tmp_path / "other").rename(matrix_path(saved))
    refused(saved, r"the matrix of chip 0 is another one \(digest \w+, the yaml names \w+\).*do not belong together")
    BoardConfig(chips=(chip_config(1),)).save(tmp_path / "third")
    matrix_path(tmp_path / "third").rename(matrix_path(saved))
    refused(saved, "the mask of chip 0 is not in it: it belongs to another configuration")


def test_digest_that_was_changed_is_told(saved: Path):
    digest = board_config(1).chips[0].matrix.digest()
    edit(saved, f"matrix: {digest}", f"matrix: {digest[::-1]}")
    refused(saved, "the matrix of chip 0 is another one")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((256, 255), np.uint8), "shape"),
        (np.full((256, 256), 16, np.uint8), "threshold_adjust is 0 to 15"),
        (np.full((256, 256), None), "allow_pickle"),
        (np.zeros((1024, 1024), np.uint8), "too large"),
    ],
)
def test_array_that_is_no_matrix_is_told(saved: Path, array: np.ndarray, says: str):
    arrays = dict(np.load(matrix_path(saved)))
    np.savez(matrix_path(saved), allow_pickle=True, **arrays | {"chip0_threshold_adjust": array})
    refused(saved, says)


def test_matrices_that_are_no_archive_are_told(saved: Path):
    matrix_path(saved).write_bytes(b"no archive")
    refused(saved, r"tuesday\.matrix\.npz is damaged \(File is not a zip file\)")
    with zipfile.ZipFile(matrix_path(saved), "w"):
        pass
    refused(saved, "the mask of chip 0 is not in it")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("vfbk: 130", "vfbk: 256", r"board\.chips\.0\.dacs: vfbk is 0 to 255 \(DAC code\), not 256"),
        ("vfbk: 130", "vfbk: high", r"vfbk is 0 to 255 \(DAC code\), not 'high'"),
        ("vfbk: 130", "vfbc: 130", "vfbk is missing; there is no DAC 'vfbc'"),
        ("vfbk: 130", "vfbk: 130\n      vfbk: 131", "line .* 'vfbk' stands twice"),
        ("volts: 33.5", "volts: 120", r"board\.bias\.volts \(bias voltage while it is on, 12 to 104 V\) cannot be 120"),
        ("volts: 33.5", "volts: .nan", r"board\.bias\.volts .* cannot be nan"),
        ("volts: 33.5", "", "a bias that is on has a voltage"),
        ("tdc: 0x5", "tdc: -1", r"board\.tdc \(TDC control word.*cannot be -1"),
        ("tdc: 0x5", "tcd: 0x5", r"board\.tcd is no setting"),
        ("count: 100", "count: 65536", r"test_pulse\.count \(0 to 65535: number of test pulses\) cannot be 65536"),
        ("mode: open", "mode: ajar", "the shutter mode is .*, not 'ajar'"),
        ("phases: 2 ", "phases: 3 ", r"board\.chips\.0\.pll: phases \(clock phases\) is 1 \| 2 \| 4 \| 8 \| 16, not 3"),
        ("    name:", "    nickname:", r"board\.chips\.0\.nickname is no setting"),
        ("  - index: 0", "  - index: 4", "the mask of chip 4 is not in it|index"),
        ("  - index: 0", "  - index: [0]", r"the index of a chip is a number, not \[0\]"),
        ("  - index: 0", "  - index: '0'", "the index of a chip is a number, not '0'"),
        ("kind: board", "kind: [board]", r"kind is board or detector, not \['board'\]"),
        ("kind: board", "kind: boat", "kind is board or detector, not 'boat'"),
        ("version: 1", "version: 2", "format version 2; this program reads version 1"),
        ("format: ophyd", "format: other", "it is no configuration"),
        ("  chips:", "  chips: 7\n  others:", "chips"),
        ("board:", "boards:", "boards is no setting"),
        ("\n...", "", r"it ends early: the last line, `\.\.\.`, is not there.* or add the line if you wrote"),
    ],
)
def test_wrong_value_is_named_with_its_place_and_limits(saved: Path, old: str, new: str, says: str):
    edit(saved, old, new)
    refused(saved, says)


def test_change_by_hand_with_the_checksum_left_is_refused(saved: Path):
    saved.write_text(saved.read_text().replace("vfbk: 130", "vfbk: 131"))
    refused(saved, "the values are not those that were saved: .*delete the line `checksum`")


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"- a\n- b\n", b"a: [", b"!!bool x", b"[" * 500, b"!!python/name:os.system"]
)
def test_what_is_no_configuration_at_all_is_refused(tmp_path: Path, text: bytes):
    path = tmp_path / "any.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="nothing was loaded"):
        read(path)
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="1000001 bytes"):
        read(path)
