"""`ophyd-timepix process` and `info`, as a user calls them."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ophyd_timepix.app.cli import main
from ophyd_timepix.files.reader import read_table
from ophyd_timepix.protocol import words as w
from tests.warm_pipeline import running_pipeline, warm_pipeline

__all__ = ["running_pipeline", "warm_pipeline"]

pytestmark = pytest.mark.usefixtures("warm_pipeline")


def as_a_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ophyd_timepix.app.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has imported everything already. The stages are processes in any case, but run
    from one command to the next."""
    line, out, err = list(map(str, arguments)), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(line, code, out.getvalue(), err.getvalue())


def process(*arguments: object) -> dict:
    done = command("process", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def hit_word(x: int, y: int, tot: int, counts: int) -> int:
    dcol, super_pixel, pixel = w.pixel_address(x, y)
    return (
        w.HEADER.put(w.PIXEL_DATA_DRIVEN) | w.DCOL.put(dcol) | w.SUPER_PIXEL.put(super_pixel) | w.PIXEL.put(pixel)
        | w.TOA.put(counts & 0x3FFF) | w.TOT.put(tot) | w.SPIDR_TIME.put(counts >> 14)
    )  # fmt: skip


def write_tpx3(path: Path, words: list[int], chip: int = 0) -> Path:
    path.write_bytes(np.array([w.chunk_header(chip, 8 * len(words)), *words], "<u8").tobytes())
    return path


def test_the_ions_of_pymepix(real_data, tmp_path):
    out = tmp_path / "ions.h5"
    result = process(real_data / "centroid_pipeline_test.raw", "-o", out, "--hits")
    ledger = result["ledger"]
    assert result["hits"] == 1858
    assert ledger["unaccounted"] == 0
    triggers = read_table(out, "triggers")
    counts = {
        (channel, edge): int(np.sum((triggers["channel"] == channel) & (triggers["edge"] == edge)))
        for channel in (1, 2) for edge in (0, 1)
    }  # fmt: skip
    assert counts == {(1, 0): 14, (1, 1): 14, (2, 0): 1100, (2, 1): 1101}
    assert len(read_table(out, "hits", ["toa"])["toa"]) == 1858
    assert result["shots"] == 14


def test_the_background_of_a_quad(real_data, tmp_path):
    out = tmp_path / "quad.h5"
    result = process(real_data / "suann_socket_background_serval32.tpx3", "-o", out, "--hits")
    assert result["hits"] == 98_548
    assert result["ledger"]["tdc_words"] == 28_800
    assert result["triggers"] == 7_200
    assert result["ledger"]["unaccounted"] == 0
    assert set(np.unique(read_table(out, "hits", ["chip"])["chip"])) == {0, 1, 2, 3}


def test_recordings_of_mostly_heartbeats(real_data, tmp_path):
    recordings = sorted((real_data / "tpx3awkward").glob("*.tpx3"))
    assert len(recordings) == 6
    assert process(*recordings, "-o", tmp_path / "out.h5")["ledger"]["unaccounted"] == 0


def test_the_master_opens_with_everything_in_it(tmp_path):
    recording = write_tpx3(tmp_path / "a.tpx3", [hit_word(10, 20, 30, 1000)])
    process(recording, "-o", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.nxs") as file:
        assert file["entry/centroids/x"][:].tolist() == [10.0]
        assert file["entry/centroids/toa"][:].tolist() == [25_000.0]
        assert file["entry/instrument/timepix/data"][20, 10] == 1
        assert file["entry/timepix_events/event_id"][:].tolist() == [20 * 256 + 10]
        assert json.loads(file["entry/start_document/data"][()])["plan_name"] == "process"
        assert file["entry/ledger"].attrs["unaccounted"] == 0


def tdc_word(counts: int, counter: int) -> int:
    byte = w.TOP_BYTE.put(w.TdcByte.TDC1_RISING)
    return byte | w.TDC_COUNTER.put(counter) | w.TDC_TIME.put(8 * counts) | w.TDC_STAMP.put(1)


def test_several_recordings_follow_each_other_in_one_file(tmp_path):
    for name in ("a", "b"):
        words = [tdc_word(500, 1), hit_word(10, 20, 30, 1000), tdc_word(2000, 2), hit_word(1, 2, 30, 3000)]
        write_tpx3(tmp_path / f"{name}.tpx3", words)
    result = process(tmp_path / "a.tpx3", tmp_path / "b.tpx3", "-o", tmp_path / "out.h5")
    assert (result["hits"], result["shots"], result["ledger"]["unaccounted"]) == (4, 4, 0)
    rows = read_table(tmp_path / "out.h5", "centroids", ["shot", "tof"])
    assert rows["shot"].tolist() == [0, 1, 2, 3]
    assert rows["tof"].tolist() == [12_500.0, 25_000.0, 12_500.0, 25_000.0]
    assert read_table(tmp_path / "out.h5", "acquisitions", ["row_stop"])["row_stop"].tolist() == [2, 4]


def test_a_truncated_recording_keeps_what_is_good_and_says_so(tmp_path):
    recording = write_tpx3(tmp_path / "a.tpx3", [hit_word(10, 20, 30, 1000), hit_word(1, 2, 3, 5000)])
    recording.write_bytes(recording.read_bytes()[:-3])
    done = as_a_process("process", recording, "-o", tmp_path / "a.h5")
    assert done.returncode == 1
    assert "the last 5 bytes are no whole word" in done.stderr
    assert read_table(tmp_path / "a.h5", "centroids", ["x"])["x"].tolist() == [10.0]


def test_recordings_put_behind_each_other_that_were_cut_off_within_a_word_are_read_to_the_end(tmp_path):
    """All that follows lies at odd bytes: no hit is lost but those of the chunks that were cut."""
    recording = tmp_path / "a.tpx3"
    for k in range(30):
        write_tpx3(tmp_path / "b.tpx3", [hit_word(k, y, 30, 10_000 * k + 100 * y) for y in range(0, 100, 5)])
        content = (tmp_path / "b.tpx3").read_bytes()
        with recording.open("ab") as file:
            file.write(content[:-1] if k % 10 == 4 else content)
    done = command("process", recording, "-o", tmp_path / "a.h5", "--hits", "--json")
    assert done.returncode == 1
    assert "60 words lie outside any chunk" in done.stderr
    assert f"a.tpx3: unframed, 160 bytes at byte {4 * 168}" in done.stderr
    ledger = json.loads(done.stdout)["ledger"]
    assert (ledger["unaccounted"], ledger["damaged_bytes"]) == (0, 3 * 7)
    rows = read_table(tmp_path / "a.h5", "hits", ["x"])["x"]
    assert np.array_equal(rows, np.repeat([k for k in range(30) if k % 10 != 4], 20))
    strict = command("process", recording, "-o", tmp_path / "b.h5", "--strict")
    assert strict.returncode == 1
    assert not (tmp_path / "b.h5").exists()


def test_a_recording_cut_within_a_chunk_says_so(tmp_path):
    recording = write_tpx3(tmp_path / "a.tpx3", [hit_word(10, 20, 30, 1000), hit_word(1, 2, 3, 5000)])
    recording.write_bytes(recording.read_bytes()[:-8])
    done = command("process", recording, "-o", tmp_path / "a.h5")
    assert done.returncode == 1
    assert "1 words of a last chunk are missing" in done.stderr


def test_an_output_that_the_master_would_overwrite_is_refused(tmp_path):
    recording = write_tpx3(tmp_path / "a.tpx3", [hit_word(10, 20, 30, 1000)])
    done = command("process", recording, "-o", tmp_path / "a.nxs")
    assert done.returncode != 0
    assert "must not end in .nxs" in done.stderr
    (tmp_path / "b.nxs").write_text("precious")
    done = command("process", recording, "-o", tmp_path / "b.h5")
    assert done.returncode != 0
    assert "b.nxs exists" in done.stderr
    assert (tmp_path / "b.nxs").read_text() == "precious"


def test_random_bytes_as_words_keep_what_was_good(tmp_path):
    good = [hit_word(x, 20, 30, 1000 + 100 * x) for x in range(50)]
    noise = np.random.default_rng(1).integers(0, 2**63, 400, dtype=np.uint64)
    recording = write_tpx3(tmp_path / "a.tpx3", good)
    recording.write_bytes(recording.read_bytes() + noise.tobytes())
    done = command("process", recording, "-o", tmp_path / "a.h5", "--json")
    assert done.returncode == 1
    assert "400 words lie outside any chunk" in done.stderr
    assert json.loads(done.stdout)["ledger"]["unaccounted"] == 0
    assert read_table(tmp_path / "a.h5", "centroids", ["x"])["x"].tolist() == list(range(50))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda p: p / "absent.tpx3", "No such file"),
        (lambda p: (p / "a.txt").write_text("hello, world") and p / "a.txt", "unknown file type"),
        (lambda p: p, "directory"),
    ],
    ids=["absent", "foreign", "directory"],
)
def test_an_input_that_is_no_recording_is_one_clear_error(tmp_path, make, complaint):
    done = command("process", make(tmp_path), "-o", tmp_path / "out.h5")
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.h5").exists()


def test_an_existing_output_is_never_overwritten(tmp_path):
    recording = write_tpx3(tmp_path / "a.tpx3", [hit_word(10, 20, 30, 1000)])
    (tmp_path / "out.h5").write_text("precious")
    done = command("process", recording, "-o", tmp_path / "out.h5")
    assert done.returncode != 0
    assert "never overwritten" in done.stderr
    assert (tmp_path / "out.h5").read_text() == "precious"


@pytest.mark.parametrize("option", [("--radius-px", "-1"), ("--min-samples", "0"), ("--window-ns", "1e9")])
def test_nonsense_parameters_are_refused_with_their_range(tmp_path, option):
    recording = write_tpx3(tmp_path / "a.tpx3", [hit_word(10, 20, 30, 1000)])
    done = command("process", recording, "-o", tmp_path / "out.h5", *option)
    assert done.returncode != 0
    assert option[0].strip("-").replace("-", "_") in done.stderr
    assert "Traceback" not in done.stderr


def test_info_tells_what_is_in_a_recording(tmp_path):
    recording = write_tpx3(tmp_path / "a.tpx3", [hit_word(10, 20, 30, 1000), 0x44 << 56], chip=2)
    done = as_a_process("info", recording, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["format"] == "tpx3"
    assert facts["hits"] == 1
    assert facts["chunks_of_chip"] == {"2": 1}
