"""How pixels answer: time-walk, offsets of chips, energy. Measured once, kept in a file, applied when hits are decoded.

A hit's time becomes `toa - time_walk(ToT) - chip_offset`. Time-walk is a table over ToT, one for each chip, or
`a / (ToT - b) + c` for each chip or pixel. Energy E follows from `ToT = a * E + b - c / (E - t)`, the usual surrogate
function, for each chip or pixel.

A file is numpy's .npz with the arrays of `Calibration` by name, and `format`, `version` and `comment`.
"""

import hashlib
import io
import os
import re
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ..protocol.words import MATRIX_SIDE, MAX_CHIPS, TOT
from .errors import ZIP_TROUBLE, ConfigError, FileThere, require_folder

FORMAT: Final = "ophyd_timepix calibration"
VERSION: Final = 1
N_TOT: Final = TOT.mask + 1
"""ToT goes from 0 to 1023 counts of 25 ns."""
LIMIT_NS: Final = 10_000.0
"""No correction is larger: hits wait for each other so much longer."""
NEAREST: Final = 1.0
"""Counts of ToT above b: nearer to its pole the time-walk is taken as it is here."""
NONE: Final = "none"
"""As the name of a file: no calibration."""
_MAX_BYTES: Final = 64 << 20
_PINNED: Final = re.compile("#[0-9a-f]{64}$")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is known of the chips; None: not known, not corrected. The first axis is the chip.

    Arrays are copied and cannot be written. Raises ConfigError for a wrong shape or value.
    """

    time_walk_table_ns: Floats | None = None
    """Time-walk by ToT (ns), shape (chips, 1024)."""
    time_walk_abc: Floats | None = None
    """a (ns counts), b (counts), c (ns) of a / (ToT - b) + c, shape (chips, 3) or (chips, 256, 256, 3) [chip, y, x]."""
    chip_offset_ns: Floats | None = None
    """By how much each chip's times are too late (ns), shape (chips,)."""
    energy_abct: Floats | None = None
    """a (counts/keV), b (counts), c (counts keV), t (keV), shape (chips, 4) or (chips, 256, 256, 4); NaN: not known."""
    comment: str = ""

    def __post_init__(self) -> None:
        for name, shapes in _SHAPES.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _array(name, getattr(self, name), shapes))
        sizes = {len(array) for array in self._arrays().values()}
        if not sizes:
            raise ConfigError("a calibration says something: give a time-walk, chip_offset_ns or energy_abct")
        if len(sizes) > 1:
            raise ConfigError(f"the arrays of a calibration are of the same chips, not of {sorted(sizes)}")
        if self.time_walk_table_ns is not None and self.time_walk_abc is not None:
            raise ConfigError("time-walk is a table (time_walk_table_ns) or a formula (time_walk_abc), not both")
        self._check_values()

    def _check_values(self) -> None:
        if self.energy_abct is not None:
            a, c = self.energy_abct[..., 0], self.energy_abct[..., 2]
            if np.any(a <= 0) or np.any(c < 0):
                raise ConfigError("energy_abct needs a > 0 counts/keV and c >= 0 counts keV: ToT grows with energy")
        largest = max(map(abs, self.range_ns))
        if not largest <= LIMIT_NS:
            raise ConfigError(f"corrections are within {LIMIT_NS:g} ns, not {largest:g} ns; are the numbers in ns?")

    def _arrays(self) -> dict[str, Floats]:
        return {name: getattr(self, name) for name in _SHAPES if getattr(self, name) is not None}

    @property
    def n_chips(self) -> int:
        """Chips that are described."""
        return len(next(iter(self._arrays().values())))

    @property
    def has_energy(self) -> bool:
        """Whether centroids get an energy."""
        return self.energy_abct is not None

    @property
    def per_pixel(self) -> bool:
        """Whether each pixel has a time-walk of its own."""
        return self.time_walk_abc is not None and self.time_walk_abc.ndim > 2

    def walk_table_ns(self) -> Floats:
        """Time-walk and offset by ToT (ns), shape (chips, 1024). Of pixels that differ, the offset alone."""
        table = np.zeros((self.n_chips, N_TOT))
        if self.time_walk_table_ns is not None:
            table += self.time_walk_table_ns
        elif self.time_walk_abc is not None and not self.per_pixel:
            table += walk_ns(self.time_walk_abc[:, None, :], np.arange(N_TOT))
        if self.chip_offset_ns is not None:
            table += self.chip_offset_ns[:, None]
        return table

    @property
    def range_ns(self) -> tuple[float, float]:
        """The smallest and the largest that is subtracted from a time (ns)."""
        table = self.walk_table_ns()
        low, high = float(table.min()), float(table.max())
        if self.per_pixel and self.time_walk_abc is not None:
            a, c = self.time_walk_abc[..., 0], self.time_walk_abc[..., 2]
            # Steepest at the pole; flattest at the end of the counter, where c is left of it.
            ends = np.stack([a / NEAREST + c, c])
            low, high = low + float(ends.min()), high + float(ends.max())
        return low, high

    def digest(self) -> str:
        """sha256 of all that it says, whatever file it is in."""
        digest = hashlib.sha256()
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array, "<f8").tobytes())
        digest.update(self.comment.encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {array.shape}" for name, array in self._arrays().items())
        return f"Calibration({self.n_chips} chips: {said})"

    # --- files

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the file, or none. Returns its path."""
        path = Path(path)
        require_folder(path)
        if path.suffix != ".npz":
            raise ConfigError(f"{path}: a calibration is kept in NAME.npz")
        if path.exists() and not overwrite:
            raise FileThere(path)
        content = io.BytesIO()
        head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "comment": self.comment}
        np.savez_compressed(content, allow_pickle=False, **head, **self._arrays())
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(content.getvalue())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file. Raises ConfigError that names the file and its trouble."""
        return cls._parsed(_bytes_of(Path(path)), Path(path))

    @classmethod
    def _parsed(cls, data: bytes, path: Path) -> Self:
        try:
            values = _values_of(data)
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}; nothing was loaded") from None
        except ZIP_TROUBLE as error:
            raise ConfigError(f"{path} is no calibration, or damaged ({error}); take a good copy") from None


class CalibrationFile(BaseModel):
    """A calibration as a run names it: the file and what was in it. Made by `CalibrationFile.of(path)`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the file")
    chips: int = Field(ge=1, le=MAX_CHIPS)
    energy: bool = Field(False, description="whether centroids get an energy from it")

    @classmethod
    def of(cls, path: str | Path) -> Self:
        """Look into a file. Raises ConfigError when it is none."""
        path = Path(path).expanduser().absolute()
        data = _bytes_of(path)
        calibration = Calibration._parsed(data, path)
        digest = hashlib.sha256(data).hexdigest()
        return cls(path=path, sha256=digest, chips=calibration.n_chips, energy=calibration.has_energy)

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """From `PATH`, or from `PATH#SHA256`, which has to be that of the file; None from `none` and an empty text."""
        path, _, digest = text.rpartition("#") if _PINNED.search(text) else (text, "", "")
        if path in ("", NONE):
            return None
        found = cls.of(path)
        if digest:
            found._require(digest)
        return found

    @property
    def text(self) -> str:
        """`PATH#SHA256`."""
        return f"{self.path}#{self.sha256}"

    def load(self) -> Calibration:
        """What was in it when it was named. Raises ConfigError for another file, with both digests."""
        data = _bytes_of(self.path)
        self.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})._require(self.sha256)
        return Calibration._parsed(data, self.path)

    def _require(self, wanted: str) -> None:
        if self.sha256 != wanted:
            raise ConfigError(
                f"{self.path} has changed since it was chosen: its sha256 is {self.sha256}, not {wanted}; "
                "put the old file back, or choose this one anew"
            )


def is_pinned(text: str) -> bool:
    """Does the text of a calibration file say its sha256?"""
    return _PINNED.search(text) is not None


def as_calibration_file(value: Any) -> Any:
    """A path becomes what is known of its file; an empty one is none."""
    return CalibrationFile.from_text(str(value)) if isinstance(value, str | Path) else value


def walk_ns(abc: Floats, tot: npt.ArrayLike) -> Floats:
    """a / (ToT - b) + c (ns), no nearer to the pole than one count."""
    return np.asarray(abc[..., 0] / np.maximum(np.asarray(tot) - abc[..., 1], NEAREST) + abc[..., 2])


def energy_kev(abct: Floats, tot: npt.ArrayLike) -> Floats:
    """The energy (keV) that gives a ToT: the root above t of ToT = a E + b - c / (E - t)."""
    a, b, c, t = (abct[..., k] for k in range(4))
    q = a * t + b - np.asarray(tot)
    root = np.sqrt(q * q + 4 * a * c)
    with np.errstate(invalid="ignore", divide="ignore"):
        # The same root twice: each without a difference of nearly equal numbers.
        above = np.where(q > 0, np.where(q + root > 0, 2 * c / (q + root), 0.0), (root - q) / (2 * a))
    return np.asarray(t + above)


_CHIP_PIXELS: Final = (MATRIX_SIDE, MATRIX_SIDE)
_SHAPES: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "time_walk_table_ns": ((N_TOT,),),
    "time_walk_abc": ((3,), (*_CHIP_PIXELS, 3)),
    "chip_offset_ns": ((),),
    "energy_abct": ((4,), (*_CHIP_PIXELS, 4)),
}
"""Shapes behind the axis of chips."""


def _array(name: str, value: npt.ArrayLike, shapes: tuple[tuple[int, ...], ...]) -> Floats:
    if np.asarray(value).dtype.kind not in "iuf":
        raise ConfigError(f"{name} has real numbers, not {np.asarray(value).dtype}")
    array = np.array(value, np.float64)
    wanted = " or ".join(f"({', '.join(map(str, ('chips', *shape)))})" for shape in shapes)
    if array.ndim == 0 or array.shape[1:] not in shapes or not 1 <= len(array) <= MAX_CHIPS:
        raise ConfigError(f"{name} has the shape {wanted} with 1 to {MAX_CHIPS} chips, not {array.shape}")
    if name != "energy_abct" and not np.all(np.isfinite(array)):
        raise ConfigError(f"{name} has numbers that are not finite; 0 stands for no correction")
    if np.any(np.isinf(array)):
        raise ConfigError(f"{name} has infinite numbers; NaN stands for a pixel whose energies are not known")
    array.flags.writeable = False
    return array


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_BYTES >> 20} MiB: no calibration")
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such calibration file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error})") from None


def _values_of(data: bytes) -> dict[str, Any]:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ConfigError("it is no .npz file")
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        if "format" not in archive or str(archive["format"]) != FORMAT:
            raise ConfigError(f"it is no calibration: `format` is not {FORMAT!r}")
        if archive["version"].ndim or archive["version"] != VERSION:
            raise ConfigError(f"it has the version {archive['version']}; this program reads version {VERSION}")
        names = {field.name for field in fields(Calibration)}
        unknown = sorted(set(archive.files) - names - {"format", "version"})
        if unknown:
            raise ConfigError(f"{unknown[0]} is nothing that a calibration has")
        values = {name: archive[name] for name in archive.files if name in _SHAPES}
        return values | {"comment": str(archive["comment"]) if "comment" in archive else ""}
