"""The settings of a board as its devices saw them last: the models that are saved, compared and stored with a run."""

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..config.model import BiasConfig, BoardConfig, ChipConfig, DetectorConfig, PulseSettings, TriggerSettings
from ..config.text import to_text
from ..files.sharing import make_shared_directory, share
from ..protocol import PixelMatrix
from ..protocol.pixel_matrix import decode_ctpr
from ..protocol.registers import BIAS_MAX_V, BIAS_MIN_V
from .signals import ON

if TYPE_CHECKING:
    from .board import SpidrBoard
    from .chip import Timepix3Chip

logger = logging.getLogger(__name__)

MATRICES: Final = "matrices"
"""The folder beside the data where matrices are kept, each under its digest."""


def last_seen(board: "SpidrBoard") -> BoardConfig:
    """The settings as last seen. Asks nobody. Raises ValueError when some were never seen or make no sense."""
    volts = round(float(board.bias.setpoint.last), 1)
    enabled = board.bias.enabled.last == ON
    in_range = BIAS_MIN_V <= volts <= BIAS_MAX_V
    trigger = {name: getattr(board.shutter, name).last for name in TriggerSettings.model_fields}
    return BoardConfig(
        bias=BiasConfig(enabled=enabled and in_range, volts=volts if in_range else None),
        trigger=TriggerSettings(**trigger),
        external_clock=board.clock.external.last == ON,
        tdc=board.tdc.word.last,
        chips=tuple(chip_last_seen(chip) for chip in board.chips),
    )


def chip_last_seen(chip: "Timepix3Chip") -> ChipConfig:
    """The settings of a chip as last seen. Raises ValueError when its matrix was never read."""
    matrix: PixelMatrix | None = chip.matrix.last
    if matrix is None:
        raise ValueError(f"{chip.name} was not read yet; connect its board")
    pulse = {name: getattr(chip.test_pulse, name).last for name in PulseSettings.model_fields}
    info = chip.parent.info
    return ChipConfig(
        index=chip.index,
        name=info.chips[chip.index].name if info is not None else "",
        dacs=chip.dacs.last(),
        general=chip.config.general.last,
        pll=chip.config.pll.last,
        output_block=chip.config.output_block.last,
        matrix=matrix,
        test_columns=decode_ctpr(bytes.fromhex(chip.test_pulse.columns.last)),
        test_pulse=PulseSettings(**pulse),
        header_filter=chip.header_filter.last,
        column_phase=chip.column_phase,
    )


def as_text(config: DetectorConfig) -> str:
    """The text of a file of settings; its matrices are named by their digests."""
    return to_text(config, "detector", f"{MATRICES}/DIGEST.npz", config.digest())


def matrix_file(digest: str, directory: Path) -> Path:
    """Where the matrix of that digest is kept under `directory`."""
    return directory / MATRICES / f"{digest}.npz"


def keep_matrix(matrix: PixelMatrix, directory: Path) -> Path:
    """The file of a matrix under `directory`; written unless it is there."""
    path = matrix_file(matrix.digest(), directory)
    if not path.exists():
        make_shared_directory(path.parent)
        unfinished = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        with open(unfinished, "wb") as file:
            np.savez_compressed(file, mask=matrix.mask, threshold_adjust=matrix.threshold_adjust, test=matrix.test)
        share(unfinished)
        os.replace(unfinished, path)
    return path
