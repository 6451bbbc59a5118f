"""SoPhy files, in and out. The file that is read is made here, from the format's description, not by the export."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from ophyd_timepix.config import ChipConfig, ConfigError
from ophyd_timepix.config.sophy import export_spx, import_spx
from ophyd_timepix.protocol import Dac
from tests.config.settings import chip_config, chip_configs

HEADER = struct.pack(">HHBBH2sQBHBBI", 0xACED, 5, 0x75, 0x72, 2, b"[S", 0xEF832E06E55DB0FA, 2, 0, 0x78, 0x70, 65_536)
EXAMPLE = {dac.wire_name: dac.default for dac in Dac} | {"Ibias_Ikrum": 20, "Vthreshold_fine": 150}

MASKED = (3, 10)
"""Column and row of the one masked pixel, as the file has it: row by row, so at 10 * 256 + 3."""


def xml(dacs: dict[str, object], *, head: str = "", kind: str = "sophy.medipix.SPMPXDACCollection") -> str:
    items = "".join(
        f'<element class="java.util.Map.Entry"><key class="java.lang.String" value="{name}"/><entry class="x.Dac">'
        f'<default class="java.lang.Integer" value="1"/><min class="java.lang.Integer" value="0"/>'
        f'<max class="java.lang.Integer" value="511"/><data class="java.lang.Integer" value="{value}"/>'
        "</entry></element>"
        for name, value in dacs.items()
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{head}<root><other><entry class="sophy.Other"/></other>'
        f'<map><entry class="{kind}"><dacs class="java.util.TreeMap">{items}</dacs></entry></map></root>'
    )


def java(values: np.ndarray) -> bytes:
    return HEADER + values.astype(">i2").tobytes()


def arrays() -> list[bytes]:
    """Mask, test, trim. One pixel is masked; all have test bits; the trim tells row and column."""
    mask = np.ones((256, 256), np.int16)
    mask[MASKED[1], MASKED[0]] = 0
    rows, columns = np.indices((256, 256))
    return [java(mask), java(np.ones((256, 256))), java((rows + 2 * columns) % 16)]


def spx(path: Path, document: str | None = None, parts: list[bytes] | None = None, **entries: bytes) -> Path:
    """A file as SoPhy lays it out: the XML first, numbered arrays of other kinds, the three arrays of short last."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__data.xml", xml(EXAMPLE) if document is None else document)
        archive.writestr("0_5d6ccd86-7f4e-4b0f-a7a5-6f4d6d1d7a01_int[]", b"\xac\xed")
        archive.writestr("1_5d6ccd86-7f4e-4b0f-a7a5-6f4d6d1d7a02_short[]", b"\xac\xed")
        for number, part in enumerate(arrays() if parts is None else parts, 2):
            archive.writestr(f"{number}_5d6ccd86-7f4e-4b0f-a7a5-6f4d6d1d7a03_short[]", part)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return spx(tmp_path / "W0028_H06_50V.spx")


# --- in ---------------------------------------------------------------------------------------------------------------
def test_the_file_of_these_tests_is_laid_out_as_described(path: Path):
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0] == "__data.xml"
        assert [archive.getinfo(name).file_size for name in archive.namelist()[-3:]] == [131_099] * 3


def test_dacs_come_by_their_names(path: Path):
    dacs = import_spx(path).dacs
    assert {dac.wire_name: dacs[dac] for dac in Dac} == EXAMPLE


def test_mask_is_transposed_only(path: Path):
    """0 means masked; the file goes row by row, the matrix is indexed [column, row]."""
    mask = import_spx(path).matrix.mask
    assert np.argwhere(mask).tolist() == [list(MASKED)]


def test_adjustment_is_transposed_and_its_rows_are_reversed(path: Path):
    """Row 255 - r of the file's column c is the pixel [c, r], in the usual (not reversed) order of bits."""
    adjust = import_spx(path).matrix.threshold_adjust
    assert adjust[0, 255] == 0
    assert adjust[1, 255] == 2
    assert adjust[0, 254] == 1
    assert adjust[7, 0] == (255 + 14) % 16


def test_test_bits_come_only_when_asked_for(path: Path):
    assert not import_spx(path).matrix.test.any()
    assert import_spx(path, test_bits=True).matrix.test.all()
    one = np.zeros((256, 256))
    one[10, 3] = 1
    spx(path, parts=[arrays()[0], java(one), arrays()[2]])
    assert np.argwhere(import_spx(path, test_bits=True).matrix.test).tolist() == [[3, 245]]


def test_of_all_else_the_file_says_nothing(path: Path):
    chip = import_spx(path, index=2)
    assert (chip.index, chip.name, chip.general, chip.pll, chip.test_pulse) == (2, "", None, None, None)


# --- damage -----------------------------------------------------------------------------------------------------------
def refused(path: Path, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        import_spx(path)
    assert str(path) in str(error.value)
    assert str(error.value).endswith("nothing was loaded")


def without(name: str) -> dict[str, object]:
    return {dac: value for dac, value in EXAMPLE.items() if dac != name}


BILLION_LAUGHS = '<!DOCTYPE root [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (xml(EXAMPLE)[:-20], "__data.xml cannot be read as XML"),
        ("", "__data.xml cannot be read as XML"),
        (xml(EXAMPLE, kind="sophy.medipix.SPMPX"), r"no entry of the class sophy\.medipix\.SPMPXDACCollection"),
        (xml(without("Vfbk")), "DAC Vfbk missing"),
        (xml(EXAMPLE | {"Vfbk": 256}), r"vfbk is 0 to 255 \(DAC code\), not 256"),
        (xml(EXAMPLE | {"Vfbk": -1}), r"vfbk is 0 to 255 \(DAC code\), not -1"),
        (xml(EXAMPLE | {"Vfbk": "1.5"}), "the value of DAC Vfbk is a number, not '1.5'"),
        (xml(EXAMPLE).replace("<data", "<date"), "the value of DAC Ibias_Preamp_ON is a number, not ''"),
        (xml(EXAMPLE).replace('value="Vfbk"', 'value="PLL_Vcntrl"'), "DAC PLL_Vcntrl stands twice"),
        (xml(EXAMPLE, head=BILLION_LAUGHS).replace("x.Dac", "&b;"), "has a document type .*refused"),
        (xml(EXAMPLE, head='<!DOCTYPE root SYSTEM "file:///etc/passwd">'), "has a document type .*refused"),
        (xml(EXAMPLE).replace("UTF-8", "EBCDIC-ODD"), "__data.xml cannot be read as XML"),
        (xml(EXAMPLE) + " " * 4_000_000, r"__data\.xml has \d+ bytes; it has at most 4000000"),
    ],
)
def test_damaged_xml_is_named(path: Path, document: str, says: str):
    refused(spx(path, document), says)


@pytest.mark.parametrize("number", range(3))
def test_array_of_wrong_length_or_kind_is_named(path: Path, number: int):
    name = ("mask", "test", "threshold adjustment")[number]
    parts = arrays()
    for part, says in {
        parts[number][:-1]: f"the array {name} has 131098 bytes; 131099 make 65536 pixels",
        b"": f"the array {name} has 0 bytes",
        parts[number] + b"\0": "has 131100 bytes",
        bytes(131_099): f"the array {name} is no Java array",
        java(np.full((256, 256), 16)): f"the array {name} has values of 0 to (1|15), not 16",
        java(np.full((256, 256), -1)): f"the array {name} has values of 0 to (1|15), not -1",
    }.items():
        refused(spx(path, parts=[*parts[:number], part, *parts[number + 1 :]]), says)


def test_damaged_zip_is_told(path: Path):
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        refused(path, "it is no zip, or a damaged one")
    flipped = bytearray(whole)
    flipped[200] ^= 0x10
    path.write_bytes(flipped)
    refused(path, "__data.xml in it is damaged")
    path.unlink()
    refused(path, "there is no such file")


def test_missing_parts_are_told(path: Path):
    refused(spx(path, parts=[]), "1 arrays of short are in it")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.xml", xml(EXAMPLE))
    path.write_bytes(buffer.getvalue())
    refused(path, "__data.xml is not in it")


# --- out --------------------------------------------------------------------------------------------------------------
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=10)
@given(chip_configs(0))
def test_what_is_exported_is_imported_again(tmp_path: Path, chip: ChipConfig):
    path = export_spx(chip, tmp_path / "out.spx", overwrite=True)
    again = import_spx(path, test_bits=True)
    assert (again.dacs, again.matrix) == (chip.dacs, chip.matrix)


def test_exported_file_is_laid_out_as_described(tmp_path: Path):
    chip = chip_config()
    path = export_spx(chip, tmp_path / "out.spx")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        mask, test, trim = (archive.read(name) for name in names[-3:])
        document = archive.read(names[0]).decode()
    assert names[0] == "__data.xml"
    assert all(name.endswith("_short[]") and name[0] == str(number) for number, name in enumerate(names[1:]))
    assert mask == java(~chip.matrix.mask.T)
    assert test == java(chip.matrix.test[:, ::-1].T)
    assert trim == java(chip.matrix.threshold_adjust[:, ::-1].T)
    assert 'value="Vthreshold_fine"' in document


def test_export_names_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"the folder {tmp_path / 'missing'} is not there; make it"):
        export_spx(chip_config(), tmp_path / "missing" / "a.spx")


def test_export_keeps_an_existing_file_unless_told(path: Path):
    with pytest.raises(ConfigError, match=r"exists; .*overwrite=True"):
        export_spx(chip_config(), path)
    assert import_spx(path).dacs[Dac.IBIAS_IKRUM] == 20
    export_spx(chip_config(), path, overwrite=True)
    assert import_spx(path).dacs == chip_config().dacs
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_entry_whose_damaged_head_names_another_packing_is_refused_like_any_damage(tmp_path: Path):
    """Unpacking as LZMA (method 14) fails with errors of its own."""
    path = tmp_path / "chip.spx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("__data.xml", b"\x09\x04\x05\x00" + b"\xff" * 60)
        for number in range(3):
            archive.writestr(f"{number}_short[]", b"")
    data = bytearray(path.read_bytes())
    for signature, method_at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        at = data.index(signature) + method_at
        data[at : at + 2] = struct.pack("<H", 14)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"chip\.spx: .*damaged"):
        import_spx(path)
