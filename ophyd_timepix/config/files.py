"""Configurations in files: NAME.yaml for people, NAME.matrix.npz for the pixels.

The pixels are numpy arrays `chipN_mask`, `chipN_threshold_adjust` and `chipN_test`, indexed [column, row]. Both files
are written aside and renamed; where the second cannot be renamed, the first is put back. The yaml holds a digest of
each matrix, so that two files that do not belong together are told apart.
"""

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from ophyd_timepix.protocol import PixelMatrix

from .errors import ZIP_TROUBLE, ConfigError, FileThere, require_folder
from .model import BoardConfig, DetectorConfig
from .text import explain, from_text, to_text

Stored = TypeVar("Stored", bound=BaseModel)

_KINDS: Final[dict[str, type[BoardConfig] | type[DetectorConfig]]] = {"board": BoardConfig, "detector": DetectorConfig}
SPX: Final = ".spx"
"""Ends the names of SoPhy's files: see `sophy.py`."""
_PARTS: Final = ("mask", "threshold_adjust", "test")
_MAX_ARRAY_BYTES: Final = 1_000_000
_HEAD_FIELDS: Final = ("format", "version", "kind", "checksum")


def paths_of(path: str | Path) -> tuple[Path, Path]:
    """(yaml, npz) of a configuration; `path` with or without `.yaml`."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".yaml", ".yml") else path
    text = path if path != stem else stem.with_name(stem.name + ".yaml")
    return text, stem.with_name(stem.name + ".matrix.npz")


# --- save -------------------------------------------------------------------------------------------------------------
def save(config: BaseModel, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write both files, or none. Returns the path of the yaml."""
    text_path, matrix_path = paths_of(path)
    if not isinstance(config, BoardConfig | DetectorConfig):
        raise ConfigError(f"a BoardConfig or DetectorConfig can be saved, not {type(config).__name__}")
    if text_path.name.endswith(f"{SPX}.yaml"):
        raise ConfigError(
            f"{path}: a {SPX} file holds one chip alone: it is written by config.sophy.export_spx(chip, path), and "
            f"from a saved configuration by `ophyd-timepix config convert NAME.yaml NAME{SPX}`"
        )
    require_folder(text_path)
    there = [p for p in (text_path, matrix_path) if p.exists()]
    if there and not overwrite:
        raise FileThere(there[0])
    kind = next(name for name, model in _KINDS.items() if isinstance(config, model))
    text = to_text(config, kind, matrix_path.name, config.digest())
    board = config if isinstance(config, BoardConfig) else config.board
    with (
        _aside(text_path, lambda file: file.write(text.encode())) as new_text,
        _aside(matrix_path, lambda file: _write_matrices(file, board)) as new_matrix,
        _kept(matrix_path),
    ):
        os.replace(new_matrix, matrix_path)
        os.replace(new_text, text_path)
    return text_path


def _write_matrices(file: Any, board: BoardConfig) -> None:
    arrays = {f"chip{c.index}_{part}": getattr(c.matrix, part) for c in board.chips for part in _PARTS}
    np.savez_compressed(file, **arrays)


@contextlib.contextmanager
def _aside(path: Path, write: Callable[[Any], object]) -> Iterator[Path]:
    """A new file beside `path`, written to the disk; it is gone afterwards, unless it was renamed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _kept(path: Path) -> Iterator[None]:
    """What stands at `path` comes back when the body fails. Where a crash leaves it, `load` finds it."""
    kept = _kept_path(path)
    existed = path.exists()
    if existed:
        os.replace(path, kept)
    try:
        yield
    except BaseException:
        if existed:
            os.replace(kept, path)
        else:
            path.unlink(missing_ok=True)
        raise
    kept.unlink(missing_ok=True)


def _kept_path(path: Path) -> Path:
    return path.with_name(path.name + ".old")


# --- load -------------------------------------------------------------------------------------------------------------
def load(path: str | Path, model: type[Stored]) -> Stored:
    """Read both files. A BoardConfig is also found in the file of a detector."""
    config = read(path)
    if isinstance(config, model):
        return config
    if isinstance(config, DetectorConfig) and isinstance(config.board, model):
        return config.board
    raise ConfigError(
        f"{paths_of(path)[0]} holds the settings of a board, not of a whole detector: load it into the board "
        "(BoardConfig.load)"
    )


def read(path: str | Path) -> BoardConfig | DetectorConfig:
    """Read both files, whichever kind it is. Raises ConfigError that names the damaged or missing part."""
    text_path, matrix_path = paths_of(path)
    if Path(path).suffix == SPX and not text_path.exists():
        raise ConfigError(
            f"{path}: SoPhy's {SPX} files are made into configurations by `ophyd-timepix config convert {path} "
            "NAME.yaml`; their DACs and pixels alone are read by config.sophy.import_spx; nothing was loaded"
        )
    try:
        values = from_text(_bytes_of(text_path))
        return _validated(values, text_path, matrix_path)
    except ConfigError as error:
        raise ConfigError(f"{text_path}: {error}; nothing was loaded") from None


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("there is no such file") from None
    except OSError as error:
        raise ConfigError(f"it cannot be read ({error.strerror or error})") from None


def _validated(values: dict[str, Any], text_path: Path, matrix_path: Path) -> BoardConfig | DetectorConfig:
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(f"kind is {' or '.join(_KINDS)}, not {kind!r}")
    checksum = values.get("checksum")
    fields = {name: value for name, value in values.items() if name not in _HEAD_FIELDS}
    if kind == "board":
        # The file of a detector has more sections beside this one.
        unknown = [str(name) for name in fields if name != "board"]
        if unknown or not isinstance(fields.get("board"), dict):
            raise ConfigError(f"{unknown[0]} is no setting" if unknown else "the section `board` is missing")
        fields = fields["board"]
    _fill_matrices(fields if kind == "board" else fields.get("board"), matrix_path)
    model, prefix = _KINDS[kind], "board." if kind == "board" else ""
    try:
        config = model.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(explain(error, model, prefix)) from None
    if "checksum" in values and checksum != config.digest():
        raise ConfigError(
            "the values are not those that were saved: if you changed them by hand, delete the line `checksum`, "
            "else the file is damaged: take another copy"
        )
    return config


def _fill_matrices(board: Any, path: Path) -> None:
    """Put the matrix in the place of its digest, for each chip."""
    chips = board.get("chips") if isinstance(board, dict) else None
    chips = [chip for chip in chips if isinstance(chip, dict)] if isinstance(chips, list) else []
    for chip in chips:
        if not isinstance(chip.get("index", 0), int):
            raise ConfigError(f"board.chips: the index of a chip is a number, not {chip['index']!r}")
    digests = {chip.get("index", 0): chip.get("matrix") for chip in chips}
    matrices = _matrices(path, digests)
    for chip in chips:
        if "matrix" in chip:
            chip["matrix"] = matrices[chip.get("index", 0)]


def _matrices(path: Path, digests: dict[Any, Any]) -> dict[Any, PixelMatrix]:
    # A save that was cut off between the two renames leaves the file that belongs to this yaml beside.
    kept = _kept_path(path)
    if kept.exists():
        with contextlib.suppress(ConfigError):
            return _read_matrices(kept, digests)
    return _read_matrices(path, digests)


def _read_matrices(path: Path, digests: dict[Any, Any]) -> dict[Any, PixelMatrix]:
    if not path.exists():
        raise ConfigError(f"the file of its pixel matrices, {path.name}, is not beside it")
    try:
        with zipfile.ZipFile(path) as archive:
            return {index: _matrix(archive, index, digest) for index, digest in digests.items()}
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    except ZIP_TROUBLE as error:
        raise ConfigError(f"{path.name} is damaged ({error}); take a copy that was not") from None


def _matrix(archive: zipfile.ZipFile, index: object, digest: object) -> PixelMatrix:
    missing = [part for part in _PARTS if f"chip{index}_{part}.npy" not in archive.namelist()]
    if missing:
        raise ConfigError(f"the {missing[0]} of chip {index} is not in it: it belongs to another configuration")
    try:
        matrix = PixelMatrix(*(_array(archive, f"chip{index}_{part}.npy") for part in _PARTS))
    except ZIP_TROUBLE as error:
        raise ConfigError(f"the matrix of chip {index} is damaged ({error}); take a copy that was not") from None
    if matrix.digest() != digest:
        raise ConfigError(
            f"the matrix of chip {index} is another one (digest {matrix.digest()[:12]}, the yaml names "
            f"{str(digest)[:12]}): the two files do not belong together"
        )
    return matrix


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    if archive.getinfo(name).file_size > _MAX_ARRAY_BYTES:
        raise ConfigError(f"{name} is too large for a matrix")
    # Read as a whole: that checks the zip's own checksum before numpy looks at it.
    array: npt.NDArray[Any] = np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
    return array
