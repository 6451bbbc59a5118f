"""The command `config`: files shown, compared and converted; a board is only read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ophyd_timepix.app import cli
from ophyd_timepix.config import BoardConfig, DetectorConfig
from ophyd_timepix.config.sophy import export_spx, import_spx
from ophyd_timepix.control import Board, SpidrClient
from ophyd_timepix.control.configuration import read_configuration
from spidr_sim.board import Board as SimulatedBoard
from spidr_sim.tcp import TcpServer
from tests.config.settings import board_config, chip_config, detector_config
from tests.sim.board_doubles import RecordingStreams, StandingClock


@pytest.fixture
def address() -> Iterator[str]:
    with TcpServer(SimulatedBoard(2, RecordingStreams(), StandingClock())) as server:
        yield "{}:{}".format(*server.address)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    return str(detector_config().save(tmp_path / "tuesday"))


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["config", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_show_prints_the_file_as_it_was_saved(capsys: pytest.CaptureFixture[str], saved: str) -> None:
    assert call(capsys, "show", saved) == (0, Path(saved).read_text(), "")
    code, out, _ = call(capsys, "show", saved, "--json")
    assert code == 0
    assert json.loads(out)["board"]["chips"][0]["matrix"] == detector_config().board.chips[0].matrix.digest()


def test_show_reads_a_board(capsys: pytest.CaptureFixture[str], address: str) -> None:
    code, out, _ = call(capsys, "show", "--address", address)
    assert code == 0
    assert "name: W0026_J06" in out
    assert "vthreshold_fine: 420" in out


def test_damage_is_one_line_and_a_code(capsys: pytest.CaptureFixture[str], saved: str) -> None:
    path = Path(saved)
    path.write_text(path.read_text()[:500])
    code, out, err = call(capsys, "show", saved)
    assert (code, out) == (1, "")
    assert err.startswith(f"ophyd-timepix: {saved}: ")
    assert err.count("\n") == 1


def test_diff_of_equal_files_is_empty(capsys: pytest.CaptureFixture[str], saved: str, tmp_path: Path) -> None:
    detector_config().board.save(tmp_path / "board")
    assert call(capsys, "diff", saved, str(tmp_path / "board")) == (0, "no differences\n", "")


def test_diff_names_each_setting_and_has_a_code(capsys: pytest.CaptureFixture[str], saved: str, tmp_path: Path) -> None:
    chip = chip_config()
    board = board_config(1).changed(tdc=6, chips=(chip.changed(dacs=chip.dacs.changed(vfbk=1)),))
    detector_config().changed(board=board).save(tmp_path / "other")
    code, out, _ = call(capsys, "diff", saved, str(tmp_path / "other"))
    assert (code, out.splitlines()) == (1, ["chip 0 dacs.vfbk: 130 -> 1", "tdc: 5 -> 6"])
    code, out, _ = call(capsys, "diff", saved, str(tmp_path / "other"), "--json")
    assert json.loads(out)[1] == {"path": "tdc", "left": 5, "right": 6}


def test_diff_with_a_board_compares_the_chips_of_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, address: str
) -> None:
    with SpidrClient.at(address) as client:
        config = read_configuration(Board(client), [0])
    config.save(tmp_path / "now")
    assert call(capsys, "diff", str(tmp_path / "now"), "--address", address) == (0, "no differences\n", "")
    chip = config.chips[0]
    config.changed(chips=(chip.changed(dacs=chip.dacs.changed(vfbk=1)),)).save(tmp_path / "then")
    code, out, _ = call(capsys, "diff", str(tmp_path / "then"), "--address", address)
    assert (code, out) == (1, "chip 0 dacs.vfbk: 1 -> 128\n")


def test_convert_goes_from_sophy_and_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spx, yaml, again = (str(tmp_path / name) for name in ("a.spx", "b.yaml", "c.spx"))
    export_spx(chip_config(), spx)
    assert call(capsys, "convert", spx, yaml, "--chip", "2", "--test-bits") == (0, f"wrote {yaml}\n", "")
    chip = BoardConfig.load(yaml).chip(2)
    assert (chip.dacs, chip.matrix) == (chip_config().dacs, chip_config().matrix)
    assert call(capsys, "convert", yaml, again)[0] == 0
    assert import_spx(again, test_bits=True).matrix == chip_config().matrix


def test_convert_signs_what_was_edited(capsys: pytest.CaptureFixture[str], saved: str, tmp_path: Path) -> None:
    path = Path(saved)
    lines = [line for line in path.read_text().splitlines(True) if not line.startswith("checksum")]
    path.write_text("".join(lines).replace("vfbk: 130", "vfbk: 131"))
    assert call(capsys, "convert", saved, str(tmp_path / "new"))[0] == 0
    assert "\nchecksum: " in (tmp_path / "new.yaml").read_text()
    assert DetectorConfig.load(tmp_path / "new").board.chips[0].dacs["vfbk"] == 131


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show"], "Give a FILE or the --address"),
        (["diff", "{saved}"], "Give an OTHER file or the --address"),
        (["convert", "{two}", "{folder}/x.spx"], "has 2 chips and a .spx file holds one: choose it with --chip"),
        (["convert", "{two}", "{folder}/x.spx", "--chip", "3"], "no chip 3; it has 0, 1"),
        (["convert", "{saved}", "{two}"], "exists; take another name, or say --overwrite"),
        (
            ["convert", "{saved}", "{folder}/x.txt"],
            "x.txt: a TARGET is NAME.yaml or NAME.spx, no .txt file; nothing was",
        ),
    ],
)
def test_a_call_that_cannot_be_says_what_to_do(
    capsys: pytest.CaptureFixture[str], saved: str, tmp_path: Path, words: list[str], says: str
) -> None:
    two = board_config(2).save(tmp_path / "two")
    code, _, err = call(capsys, *(word.format(saved=saved, two=two, folder=tmp_path) for word in words))
    assert code == 1
    assert says in err
