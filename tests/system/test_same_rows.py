"""The same rows, bit for bit: for reading in pieces of 1 kB to 16 MB, datagrams of any size, one or two workers."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ophyd_timepix.config import Calibration, CalibrationFile, Processing
from ophyd_timepix.decode import Framing
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.pipeline.client import Pipeline
from ophyd_timepix.pipeline.errors import PipelineError
from ophyd_timepix.pipeline.messages import RunRequest
from ophyd_timepix.protocol.words import chunk_header
from spidr_sim.synth import synthesize
from tests.rows import Rows, assert_same_rows, process

PROCESSING = Processing(
    hits=True, tot_min=3, tot_max=1000, masked_pixels="0,128,128 0,100,140", trigger_period_ns=1e6,
    missing_triggers="infer", trigger_delay_ns=-500.0, trigger_prescale=2,
)  # fmt: skip
TABLES = ("centroids", "hits", "shots", "triggers")
few_examples = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def words() -> npt.NDArray[np.uint64]:
    """A second of ions: enough for many blocks, some 17 MB."""
    return synthesize("vmi", seed=3, duration_s=1.0, rate_hz=2e6, shot_rate_hz=1000).words[0]


@pytest.fixture(scope="module")
def processing(tmp_path_factory: pytest.TempPathFactory) -> Processing:
    """With all that moves hits, takes them out, or adds columns."""
    calibration = Calibration(time_walk_abc=[(540, -5, 0)], chip_offset_ns=[-3], energy_abct=[(1.8, 12, 60, 2)])
    path = calibration.save(tmp_path_factory.mktemp("calibration") / "chip.npz")
    return Processing.model_validate(PROCESSING.model_dump() | {"calibration": path})


@pytest.fixture(scope="module")
def in_one_piece(words: npt.NDArray[np.uint64], processing: Processing) -> Rows:
    return process(words, processing, framing=Framing.RAW, calibration=processing.load_calibration())


@few_examples
@given(log2_bytes=st.floats(10, 24), partial=st.booleans())
def test_the_size_of_the_pieces_changes_nothing(words, processing, in_one_piece, log2_bytes, partial):
    step = int(2**log2_bytes) // 8
    places = [*range(0, words.size, step), words.size]
    calibration = processing.load_calibration()
    rows = process(words, processing, framing=Framing.RAW, places=places, partial=partial, calibration=calibration)
    assert_same_rows(rows, in_one_piece)


@pytest.fixture(scope="module")
def pipelines():
    with Pipeline(workers=1, ring_bytes=1 << 22) as one, Pipeline(workers=2, ring_bytes=1 << 22) as two:
        yield {1: one, 2: two}


def write_recording(path: Path, words: npt.NDArray[np.uint64], datagram_words: int) -> Path:
    """`words` in chunks of one size."""
    with path.open("wb") as file:
        for start in range(0, words.size, datagram_words):
            part = words[start : start + datagram_words]
            file.write(chunk_header(0, part.nbytes).to_bytes(8, "little") + part.tobytes())
    return path


@few_examples
@given(workers=st.sampled_from([1, 2]), datagram_words=st.integers(20, 8188))
def test_the_number_of_workers_and_the_size_of_datagrams_change_nothing(
    pipelines, words, processing, in_one_piece, tmp_path_factory, workers, datagram_words
):
    place = tmp_path_factory.mktemp("rows")
    recording = write_recording(place / "a.tpx3", words, datagram_words)
    pipelines[workers].process(RunRequest(event_file=place / "a.h5", processing=processing), [recording])
    for table in TABLES:
        expected = in_one_piece.table(table)
        found = read_table(place / "a.h5", table)
        assert found.keys() == expected.keys()
        for column in found:
            assert found[column].tobytes() == expected[column].tobytes(), f"{table}/{column} differs"


def test_a_calibration_that_changed_is_refused_when_the_run_opens(pipelines, words, tmp_path):
    recording = write_recording(tmp_path / "a.tpx3", words[:10_000], 1000)
    chip = tmp_path / "chip.npz"
    processing = Processing(calibration=Calibration(chip_offset_ns=[1]).save(chip))
    Calibration(chip_offset_ns=[2]).save(chip, overwrite=True)
    with pytest.raises(PipelineError, match=f"its sha256 is {CalibrationFile.of(chip).sha256}, not .*old file back"):
        pipelines[1].process(RunRequest(event_file=tmp_path / "a.h5", processing=processing), [recording])
    again = Processing(calibration=chip)
    pipelines[1].process(RunRequest(event_file=tmp_path / "b.h5", processing=again), [recording])
    assert len(read_table(tmp_path / "b.h5", "centroids")["toa"])
