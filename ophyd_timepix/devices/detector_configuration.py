"""A detector with a board: all settings of both, as a file, as the configuration of a run, and compared.

Settings of the board are told as they were last seen, so that telling them asks nobody. Knows no exposure and no run.
"""

import logging
from collections.abc import Set
from pathlib import Path
from typing import Any

from ..config import BoardConfig, DetectorConfig, Geometry, Processing, diff
from ..control.configuration import Applied
from .board import SpidrBoard
from .chip import Timepix3Chip
from .configuration import as_text, keep_matrix, last_seen, matrix_file
from .detector_signals import DetectorSignals
from .signals import DataKey, scalar_key
from .text import Text

logger = logging.getLogger(__name__)


class ConfiguredDetector(DetectorSignals):
    """The signals of a detector, and its configuration with that of its board."""

    def __init__(
        self,
        board: SpidrBoard,
        *,
        name: str,
        data_dir: Path,
        processing: Processing,
        geometry: Geometry,
        **kwargs: Any,
    ) -> None:
        self.board = board
        self.data_dir = data_dir
        self._geometry = geometry
        self._kept_matrices: set[str] = set()
        super().__init__(name=name, **kwargs)
        self.processing.adopt(processing)
        self.geometry.publish(geometry.model_dump_json())
        self._shape_arrays(geometry)

    @property
    def picture(self) -> Geometry:
        """Where each chip lies in the picture, and its size."""
        return self._geometry

    def save_configuration(self, path: str | Path, *, comment: str = "", overwrite: bool = False) -> Path:
        """Write all settings, read from the board now, with geometry and processing. Returns the path of the yaml."""
        self.board.connect()
        config = self._configuration(self.board.read_settings()).changed(comment=comment)
        return config.save(path, overwrite=overwrite)

    def load_configuration(self, path: str | Path, *, any_chip: bool = False) -> Applied:
        """Apply the settings of a file to the board, all or none, then take over geometry and processing.

        Returns what changed on the board.
        """
        config = DetectorConfig.load(path)
        applied = self.board.apply(config.board, any_chip=any_chip)
        self.processing.adopt(config.processing)
        self._geometry = config.geometry
        self._shape_arrays(self._geometry)
        self.geometry.publish(self._geometry.model_dump_json())
        self._note_configuration()
        return applied

    def diff_configuration(self, path: str | Path) -> Text:
        """What differs between the detector, its board read now, and a file; empty: nothing. A line each."""
        now = self._configuration(self.board.read_settings())
        return Text("\n".join(map(str, diff(now, DetectorConfig.load(path)))))

    def configuration(self) -> DetectorConfig:
        """All settings of board and detector, as last seen, as the model that is saved and compared."""
        return self._configuration(last_seen(self.board))

    def _configuration(self, board: BoardConfig) -> DetectorConfig:
        return DetectorConfig(board=board, geometry=self._geometry, processing=self.processing.model)

    def describe_configuration(self) -> dict[str, DataKey]:
        keys: dict[str, DataKey] = super().describe_configuration()
        keys |= {f"{self.name}_{name}": signal.describe()[signal.name] for name, signal in self.board.settings()}
        files = {self._matrix_key(chip): scalar_key("TPX3:matrices", "") for chip in self.board.chips}
        return keys | files

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        """Settings of the detector, and those of the board as last seen: reading them must not need the board.

        A pixel matrix is its digest and the file that holds it.
        """
        reading: dict[str, dict[str, Any]] = super().read_configuration()
        for name, signal in self.board.settings():
            reading[f"{self.name}_{name}"] = signal.read_configuration()[signal.name]
        for chip in self.board.chips:
            digest = chip.matrix.digest
            reading[self._matrix_key(chip)] = {"value": self._matrix_file(chip), "timestamp": digest.timestamp}
        return reading

    def _matrix_file(self, chip: Timepix3Chip) -> str:
        """The file that holds the chip's matrix, written when a matrix is seen first; empty before any was."""
        matrix, digest = chip.matrix.last, chip.matrix.digest.last
        if matrix is None:
            return ""
        if digest not in self._kept_matrices:
            keep_matrix(matrix, self.data_dir)
            self._kept_matrices.add(digest)
        return str(matrix_file(digest, self.data_dir))

    def _matrix_key(self, chip: Timepix3Chip) -> str:
        return f"{self.name}_{chip.attr_name}_matrix_file"

    def fingerprint(self, shown: Set[str] = frozenset()) -> dict[str, Any]:
        """The values of the configuration, but for those that `shown`, the keys of an event, tell anyway."""
        told = {
            f"{self.name}_{name}" for name, signal in self.board.settings() if not shown.isdisjoint(signal.shown_by)
        }
        return {
            key: entry["value"]
            for key, entry in self.read_configuration().items()
            if key not in told and key not in shown
        }

    def _note_configuration(self) -> None:
        """What the run's configuration says of the board, once its settings were read."""
        info, chips = self.board.info, self.board.chips
        if info is None:
            return
        self.chip_ids.publish(",".join(info.chips[chip.index].name for chip in chips))
        self.pll_words.publish(",".join(f"0x{int(chip.config.pll.last):04X}" for chip in chips))

    def _stored_configuration(self) -> dict[str, Any]:
        """The configuration of a run as its files keep it."""
        stored: dict[str, Any] = {
            "detector": {key: reading["value"] for key, reading in self.read_configuration().items()},
            "matrices": [self._matrix_file(chip) for chip in self.board.chips],
        }
        try:
            stored["settings"] = as_text(self.configuration())
        except ValueError as error:
            logger.warning("the settings of %s are not stored as a file of settings: %s", self.name, error)
        return stored
