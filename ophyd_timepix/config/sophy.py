"""SoPhy's `.spx` files: the DACs and pixels of one chip, as the program of the camera's maker saves them.

A zip: `__data.xml` with the DACs, then numbered Java arrays, of which the last three are `short[65536]`: mask (1 =
enabled), test bits, threshold adjustment, each row by row. Known from what Pymepix reads and from one example file.

Uncertain: the orientation. `ORIENTATION` holds what Pymepix does: mask transposed to [column, row] only; test bits and
adjustment transposed, then with the rows in reverse order (left-right flipped, as numpy calls it). An earlier version
of it flipped the mask too. Compare a known noisy pixel with the picture before trusting it. Whether SoPhy itself opens
a file that this module wrote is not known: it has what the readers need, not all that SoPhy writes.
"""

import os
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from ophyd_timepix.protocol import Dac, PixelMatrix
from ophyd_timepix.protocol.pixel_matrix import ADJUST_MAX, SHAPE

from .dac_values import DacValues
from .errors import ZIP_TROUBLE, ConfigError, FileThere, require_folder
from .model import ChipConfig

XML_NAME: Final = "__data.xml"
DAC_CLASS: Final = "sophy.medipix.SPMPXDACCollection"
ITEM_CLASS: Final = "java.util.Map.Entry"

N_PIXELS: Final = SHAPE[0] * SHAPE[1]
JAVA_HEADER: Final = bytes.fromhex("ACED0005757200025B53EF832E06E55DB0FA020000787000010000")
"""What Java writes before the elements of a `short[65536]`."""
ARRAY_BYTES: Final = len(JAVA_HEADER) + 2 * N_PIXELS
_ARRAY_MARK: Final = "_short[]"
_MAX_XML_BYTES: Final = 4_000_000

Pixels = npt.NDArray[np.int16]


@dataclass(frozen=True)
class _Array:
    """One of the three arrays: its name, its largest value, whether its rows are in reverse order."""

    name: str
    max: int
    flipped: bool


ORIENTATION: Final = (
    _Array("mask", 1, flipped=False),
    _Array("test", 1, flipped=True),
    _Array("threshold adjustment", ADJUST_MAX, flipped=True),
)
"""In the order of the file. Uncertain: see the module's text."""


# --- read -------------------------------------------------------------------------------------------------------------
def import_spx(path: str | Path, *, index: int = 0, test_bits: bool = False) -> ChipConfig:
    """DACs and pixels of an `.spx` file, for chip `index`; of all else it says nothing.

    test_bits: take over the test bits too. Files are known whose test bits are all set: with test pulses on, every
    pixel would fire. Raises ConfigError that names the part that is damaged or missing.
    """
    path = Path(path)
    try:
        xml, arrays = _parts(path)
        mask, test, adjust = (_pixels(array, data) for array, data in zip(ORIENTATION, arrays, strict=True))
        dacs = _dacs(xml)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; nothing was loaded") from None
    matrix = PixelMatrix(mask == 0, adjust.astype(np.uint8), (test != 0) if test_bits else np.zeros(SHAPE, np.bool_))
    return ChipConfig(index=index, dacs=dacs, matrix=matrix)


def _parts(path: Path) -> tuple[bytes, list[bytes]]:
    """The XML, and the last three arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            arrays = [name for name in names if name.endswith(_ARRAY_MARK)][-len(ORIENTATION) :]
            if XML_NAME not in names:
                raise ConfigError(f"{XML_NAME} is not in it: it is no SoPhy file, or only a part of one")
            if len(arrays) < len(ORIENTATION):
                raise ConfigError(f"{len(arrays)} arrays of short are in it; mask, test and adjustment are needed")
            return _entry(archive, XML_NAME, _MAX_XML_BYTES), [_entry(archive, n, ARRAY_BYTES) for n in arrays]
    except FileNotFoundError:
        raise ConfigError("there is no such file") from None
    except ConfigError:
        raise
    except ZIP_TROUBLE as error:
        raise ConfigError(f"it is no zip, or a damaged one ({error}); take another copy") from None


def _entry(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    size = archive.getinfo(name).file_size
    if size > max_bytes:
        raise ConfigError(f"{name} has {size} bytes; it has at most {max_bytes}")
    try:
        return archive.read(name)
    except ZIP_TROUBLE as error:
        raise ConfigError(f"{name} in it is damaged ({error}); take another copy") from None


def _pixels(array: _Array, data: bytes) -> Pixels:
    """An array as [column, row]."""
    if len(data) != ARRAY_BYTES:
        raise ConfigError(f"the array {array.name} has {len(data)} bytes; {ARRAY_BYTES} make {N_PIXELS} pixels")
    if not data.startswith(JAVA_HEADER):
        raise ConfigError(f"the array {array.name} is no Java array of {N_PIXELS} short: its first bytes are others")
    rows = np.frombuffer(data, dtype=">i2", offset=len(JAVA_HEADER)).reshape(SHAPE)
    wrong = np.argwhere((rows < 0) | (rows > array.max))
    if len(wrong):
        row, column = wrong[0]
        raise ConfigError(f"the array {array.name} has values of 0 to {array.max}, not {rows[row, column]}")
    return _turned(array, rows.T).astype(np.int16)


def _turned(array: _Array, pixels: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """[column, row] with the rows as the file has them, or back: its own inverse."""
    return pixels[:, ::-1] if array.flipped else pixels


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type: that is where entities are defined which grow without end, or read other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ConfigError(f"{XML_NAME} has a document type (DOCTYPE {name}): no SoPhy file has one, it is refused")


def _dacs(xml: bytes) -> DacValues:
    try:
        root = ElementTree.fromstring(xml, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{XML_NAME} cannot be read as XML ({error}); take another copy") from None
    values: dict[str, int] = {}
    for name, text in _items(root):
        if name in values:
            raise ConfigError(f"{XML_NAME}: DAC {name} stands twice")
        values[name] = _number(name, text)
    return _checked(values)


def _items(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """(name, value) of each known DAC, as they stand."""
    collection = next((entry for entry in root.iter("entry") if entry.get("class") == DAC_CLASS), None)
    if collection is None:
        raise ConfigError(f"{XML_NAME} has no entry of the class {DAC_CLASS}: it holds no DACs of a chip")
    known = {dac.wire_name for dac in Dac}
    for item in collection.iter("element"):
        if item.get("class") == ITEM_CLASS:
            name = _last_attribute(item.find("key"))
            if name in known:
                yield name, _last_attribute(item.find("entry/data"))


def _last_attribute(element: ElementTree.Element | None) -> str:
    """The value is the last attribute, whatever its name is: so Pymepix reads it."""
    values = [] if element is None else list(element.attrib.values())
    return values[-1] if values else ""


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{XML_NAME}: the value of DAC {name} is a number, not {text!r}") from None


def _checked(values: dict[str, int]) -> DacValues:
    missing = [dac.wire_name for dac in Dac if dac.wire_name not in values]
    if missing:
        raise ConfigError(f"{XML_NAME}: DAC {', '.join(missing)} missing")
    try:
        return DacValues({dac: values[dac.wire_name] for dac in Dac})
    except ValueError as error:
        raise ConfigError(f"{XML_NAME}: {error}") from None


# --- write ------------------------------------------------------------------------------------------------------------
def export_spx(config: ChipConfig, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write DACs and pixels of a chip as `.spx`. Raises ConfigError when the file exists, unless `overwrite`."""
    path = Path(path)
    require_folder(path)
    if path.exists() and not overwrite:
        raise FileThere(path)
    matrix = config.matrix
    pixels = (~matrix.mask, matrix.test, matrix.threshold_adjust)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(XML_NAME, _xml(config.dacs))
            for number, (array, values) in enumerate(zip(ORIENTATION, pixels, strict=True)):
                rows = _turned(array, values.astype(">i2")).T
                name = f"{number}_{uuid.uuid4()}{_ARRAY_MARK}"
                archive.writestr(name, JAVA_HEADER + np.ascontiguousarray(rows).tobytes())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _xml(dacs: DacValues) -> bytes:
    root = ElementTree.Element("data")
    collection = ElementTree.SubElement(root, "entry", {"class": DAC_CLASS})
    items = ElementTree.SubElement(collection, "map", {"class": "java.util.TreeMap"})
    for dac, value in dacs.by_dac().items():
        item = ElementTree.SubElement(items, "element", {"class": ITEM_CLASS})
        ElementTree.SubElement(item, "key", {"class": "java.lang.String", "value": dac.wire_name})
        entry = ElementTree.SubElement(item, "entry", {"class": "sophy.medipix.SPMPXDAC"})
        parts = {"data": value, "default": dac.reset, "min": 0, "max": dac.max}
        for part, number in parts.items():
            ElementTree.SubElement(entry, part, {"class": "java.lang.Integer", "value": str(number)})
    ElementTree.indent(root)
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return data
