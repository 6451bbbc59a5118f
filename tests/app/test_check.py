"""`ophyd-timepix check` against a simulated camera: what it says, what it leaves."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ophyd_timepix.app import check_camera as c
from ophyd_timepix.app import check_findings, cli
from ophyd_timepix.app.check_findings import State
from ophyd_timepix.capture.capture import Totals
from ophyd_timepix.capture.sockets import Buffer
from ophyd_timepix.config import diff
from ophyd_timepix.control import Board, Drift, SpidrClient, TimerReading
from ophyd_timepix.control.configuration import apply_configuration, read_configuration
from ophyd_timepix.control.info import BoardInfo, ChipInfo
from ophyd_timepix.control.inspection import BoardState, ChipState, drift_between
from ophyd_timepix.decode import Count
from ophyd_timepix.devices import SpidrBoard
from ophyd_timepix.events.quality import EdgeKind
from ophyd_timepix.pipeline.glance import Seen
from ophyd_timepix.protocol import Dac, GeneralConfig, PixelMatrix, PllConfig, Polarity
from tests.sim_process import SimProcess, running_sim

SHORT = ["--camera-only", "--seconds", "0.2", "--json"]
NOTHING = np.zeros(0, np.int64)
NO_TOTALS = Totals(0, 0, 0, 0, 0, 0, 0, 0)
CHIP = ChipState(0, GeneralConfig(), PllConfig(), "", 0, ("127.0.0.1", 8192), ("127.0.0.1", 8192))
ELECTRONS = replace(CHIP, general=GeneralConfig(polarity=Polarity.ELECTRONS))
INFO = BoardInfo("22071500", "23011200", 4, (ChipInfo(0, 0x1234, "W1_A1", 0xFF, 0xFF, True),))


@pytest.fixture(scope="module")
def sim() -> Iterator[SimProcess]:
    with running_sim(rate=100_000) as process:
        yield process


@pytest.fixture
def board(sim: SimProcess) -> Iterator[Board]:
    """Another client, before and after."""
    sim.clear_faults()
    with SpidrClient.at(sim.address) as client:
        yield Board(client)
    sim.clear_faults()


def checked(
    sim: SimProcess, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, dict[str, str]], dict[str, Any]]:
    """Exit code, findings by what they are about, the facts of the camera."""
    code = cli.main(["check", sim.address, *SHORT])
    result = json.loads(capsys.readouterr().out)
    return code, {finding["what"]: finding for finding in result["findings"]}, result["camera"]


# --- a camera ---------------------------------------------------------------------------------------------------------


def test_a_camera_that_is_well_is_found_well_and_left_as_it_was(
    sim: SimProcess, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    chip = board.chip(0)
    chip.set_destination("127.0.0.1", 9999)
    chip.set_header_filter(0x0CA0)
    before = read_configuration(board)
    board.client.close()
    code, findings, facts = checked(sim, capsys)
    assert code == 0
    assert {name: f for name, f in findings.items() if name != "clock" and f["state"] != "OK"} == {}
    assert facts["sent_datagrams"] == facts["arrived_datagrams"] > 0
    assert facts["edges"][0]["name"] == "TDC 1 rising"
    assert facts["edges"][0]["rate_hz"] == pytest.approx(1000, rel=0.01)
    assert facts["chips"][0]["hits"] == facts["hits"] > 0
    assert not diff(before, read_configuration(board))
    assert chip.destination() == ("127.0.0.1", 9999)
    assert chip.header_filter()[0] == 0x0CA0


def test_the_wrong_polarity_is_said_with_the_way_out(
    sim: SimProcess, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    chip = board.chip(0)
    right = chip.general_config()
    chip.set_general_config(replace(right, polarity=Polarity.ELECTRONS))
    board.client.close()
    code, findings, _ = checked(sim, capsys)
    assert chip.general_config().polarity == Polarity.ELECTRONS
    chip.set_general_config(right)
    assert code == 1
    assert findings["chip 0 hits"]["state"] == "wrong"
    assert "none in 0.2 s; polarity electrons (negative), bias on" in findings["chip 0 hits"]["found"]
    assert "holes (positive)" in findings["chip 0 hits"]["remedy"]
    assert findings["TDC 1 rising"]["state"] == "OK"


def test_a_noisy_pixel_is_proposed_for_the_mask_and_not_masked(
    sim: SimProcess, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    chip = board.chip(0)
    before, threshold = chip.read_matrix(), chip.dac(Dac.VTHRESHOLD_FINE)
    noisy = PixelMatrix(threshold_adjust=np.full((256, 256), 15, np.uint8))
    noisy.threshold_adjust[30, 50] = 0
    noisy.mask[64:], noisy.mask[:, 64:] = True, True  # the simulator shares the noise of a chip out over its pixels
    chip.upload_matrix(noisy)
    chip.set_dac(Dac.VTHRESHOLD_FINE, 230)
    board.client.close()
    _, findings, facts = checked(sim, capsys)
    left = chip.read_matrix()
    chip.set_dac(Dac.VTHRESHOLD_FINE, threshold)
    chip.upload_matrix(before)
    assert left == noisy
    assert facts["chips"][0]["hot_pixels"] == [[30, 50]]
    assert findings["chip 0 hot pixels"]["remedy"].startswith("mask them: spidr.chip0.matrix.mask(30, 50)")


@pytest.mark.parametrize(
    ("fault", "says"), [("drop=1", "none arrives"), ("drop=20", "lost on the way"), ("truncate=9", "no whole words")]
)
def test_data_that_do_not_arrive_whole_are_wrong(
    sim: SimProcess, board: Board, capsys: pytest.CaptureFixture[str], fault: str, says: str
) -> None:
    board.client.close()
    sim.fault(fault)
    code, findings, _ = checked(sim, capsys)
    assert (code, findings["data"]["state"], says in findings["data"]["found"]) == (1, "wrong", True), findings["data"]


def test_remedies_that_are_lines_of_python_are_understood(sim: SimProcess, board: Board) -> None:
    made = [
        c.judge_chip(replace(CHIP, phase_unknown="?")),
        c.judge_hits(ELECTRONS, exposure(), True, bias_on=True)[0],
        c.judge_clock(True, None),
        c.judge_triggers([], 5)[0],
        c.judge_hot(0, np.pad([[1000]], (100, 155)))[0],
    ]
    before = read_configuration(board)
    board.client.close()
    spidr = SpidrBoard(sim.address, name="spidr")
    try:
        for finding in made:
            (line,) = re.findall(r"spidr\.[\w.]+\((?:'[^']*'|[^()'])*\)", finding.remedy)
            done = eval(line, {"spidr": spidr})
            if done is not None:
                done.wait(10)
        assert spidr.chip0.matrix.read_back().mask.nonzero() == (100, 100)
    finally:
        spidr.disconnect()
        apply_configuration(board, before)


def test_a_board_that_does_not_answer_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "127.0.0.1:1", *SHORT]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["what"], finding["state"]) == ("board", "wrong")
    assert "connection refused" in finding["found"]
    assert "check the port" in finding["remedy"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--datagram-bytes", "1401"], "multiple of 8 from 64 to 65504, not 1401"),
        (["sim", "--seconds", "0"], "0.2 to 60.0 s, not 0"),
        (["--camera-only"], "which camera?"),
    ],
)
def test_what_cannot_be_checked_is_refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", *words]) == 1
    assert says in capsys.readouterr().err


def test_a_machine_is_shown_with_a_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from ophyd_timepix.app import check, check_machine

    small = check_machine.judge_buffer(Buffer(8 << 20, None), 4 << 20)
    machine = check_machine.Machine([small], [check_machine.Cap("capture", 40.0)])
    monkeypatch.setattr(check, "examine_machine", lambda *_: machine)
    assert cli.main(["check"]) == 1
    shown = capsys.readouterr().out
    assert "One chip at up to 40 Mhit/s, limited by the capture" in shown
    assert "-> sudo sysctl -w net.core.rmem_max=134217728\n" in re.sub(r" +\n", "\n", shown)
    assert "0 OK, 0 to look at, 1 wrong" in shown


# --- single judgements ------------------------------------------------------------------------------------------------


def exposure(**changed: Any) -> c.Exposure:
    """Nothing came, of nothing sent."""
    seen = Seen(
        totals=changed.pop("totals", NO_TOTALS),
        counts={count.name.lower(): 0 for count in Count} | changed.pop("counts", {}),
        complete=True,
        **{name: changed.pop(name, NOTHING) for name in ("ticks", "chip", "x", "y", "edge_ticks", "edge_input")},
        edge_falling=NOTHING,
        edge_counter=NOTHING,
        edge_chip=NOTHING,
    )
    plain = c.Exposure(1.0, seen, 0, 0, 0, None, [("10.0.0.1", 5000)], ("10.0.0.2",), [Buffer(1 << 28, None)])
    return replace(plain, **changed)


@pytest.mark.parametrize(
    ("made", "state", "says"),
    [
        (exposure(), State.WRONG, "the board sent nothing"),
        (exposure(sent_datagrams=5), State.WRONG, "none arrives"),
        (
            exposure(sent_datagrams=5, totals=NO_TOTALS._replace(datagrams=5)),
            State.OK,
            "5 of 5 datagrams from 10.0.0.2",
        ),
        (
            exposure(sent_datagrams=5, totals=NO_TOTALS._replace(datagrams=3, kernel_dropped=2)),
            State.WRONG,
            "the kernel dropped 2",
        ),
        (
            exposure(sent_datagrams=5, totals=NO_TOTALS._replace(datagrams=5, wrong_sender=1)),
            State.LOOK,
            "somebody else",
        ),
        (
            exposure(sent_datagrams=5, totals=NO_TOTALS._replace(datagrams=5), counts={"unknown_words": 3}),
            State.LOOK,
            "3 unknown words",
        ),
    ],
)
def test_arrival_is_judged_by_counts(made: c.Exposure, state: State, says: str) -> None:
    finding = c.judge_arrival(made)
    assert (finding.state, says in finding.found) == (state, True)


def test_a_firewall_is_thought_of_on_the_card_that_leads_to_the_camera() -> None:
    finding = c.judge_arrival(exposure(sent_datagrams=5), c.Card("eth7", 9000, 10_000))
    assert "sudo ufw allow in on eth7" in finding.remedy


@pytest.mark.parametrize(
    ("external", "drift", "state", "says"),
    [
        (False, Drift(30.0, 20.0), State.OK, "the board's own; 30 ± 20 ppm slow"),
        (True, Drift(-30.0, 20.0), State.OK, "external reference; 30 ± 20 ppm fast"),
        (False, Drift(300.0, 250.0), State.OK, "--seconds 10 tells more"),
        (False, Drift(300.0, 20.0), State.LOOK, "300"),
        (True, Drift(300.0, 20.0), State.WRONG, "300"),
        (True, None, State.WRONG, "the timer does not run"),
    ],
)
def test_a_clock_is_judged_by_its_rate(external: bool, drift: Drift | None, state: State, says: str) -> None:
    finding = c.judge_clock(external, drift)
    assert (finding.state, says in finding.found) == (state, True)


def test_a_drift_is_what_the_host_counts_more() -> None:
    first, last = TimerReading(0, 0, 1000), TimerReading(40_000_000, 1_000_050_000, 1_000_053_000)
    drift = drift_between(first, last)
    assert drift is not None
    assert (drift.ppm, drift.uncertainty_ppm) == (pytest.approx(51.0), pytest.approx(2.0))
    assert drift_between(last, last) is None


KIND = EdgeKind(1, False, 1000, 1000.0, 1e6, 1e6, 1e6, 0, 0, 0)


@pytest.mark.parametrize(
    ("kind", "state", "says"),
    [
        (KIND, State.OK, "1,000 edges, 1,000.0 Hz, spacing 1 ms (1 ms to 1 ms), no gaps"),
        (KIND._replace(missing=3), State.WRONG, "3 missing by the counter"),
        (KIND._replace(late=2, longest_ns=2e6), State.LOOK, "(1 ms to 2 ms); 2 gaps"),
        (KIND._replace(doubled=2, shortest_ns=5e3), State.LOOK, "(5 µs to 1 ms); 2 twice as close"),
        (KIND._replace(edges=1, rate_hz=0.0), State.OK, "1 edges, 0.0 Hz, no gaps"),
    ],
)
def test_an_edge_is_judged_by_sequence_and_spacing(kind: EdgeKind, state: State, says: str) -> None:
    finding = c.judge_edges(kind)
    assert (finding.state, says in finding.found) == (state, True)


def test_no_trigger_is_said_and_one_that_the_board_keeps_to_itself_is_wrong() -> None:
    (none,) = c.judge_triggers([], 0)
    (kept,) = c.judge_triggers([], 500)
    assert (none.state, kept.state) == (State.LOOK, State.WRONG)
    assert "none on TDC 1 and TDC 2" in none.found


def noise(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "ticks": np.sort(rng.integers(0, 3_840_000_000, n)),
        "chip": np.zeros(n, np.uint32),
        "x": rng.integers(0, 256, n),
        "y": rng.integers(0, 256, n),
    }


@pytest.mark.parametrize(
    ("chip", "made", "bias_on", "state", "says"),
    [
        (CHIP, exposure(), True, State.WRONG, "is there light or beam?"),
        (CHIP, exposure(), False, State.WRONG, "switch the bias on"),
        (ELECTRONS, exposure(), True, State.WRONG, "set('holes (positive)')"),
        (CHIP, exposure(**noise(1000)), True, State.LOOK, "threshold too near the noise?"),
        (ELECTRONS, exposure(**noise(1000)), True, State.WRONG, "set('holes (positive)')"),
        (CHIP, exposure(**noise(5)), True, State.LOOK, "nearly dark"),
    ],
    ids=["dark", "bias off", "electrons", "noise", "noise of electrons", "few"],
)
def test_no_hits_and_only_noise_are_said(
    chip: ChipState, made: c.Exposure, bias_on: bool, state: State, says: str
) -> None:
    finding = c.judge_hits(chip, made, True, bias_on=bias_on)[0]
    assert (finding.state, says in finding.remedy) == (state, True)


def test_a_board_is_judged_by_what_it_says() -> None:
    four = replace(CHIP, phase_unknown="the column phases of 4 clock phases are not known")
    dark = replace(CHIP, masked=65_536)
    unlocked = ChipInfo(1, 0x2345, "W1_B1", 0xFF, 0x7F, False)
    missing = ChipInfo(2, 0x7FFFFFFF, "?", 0xFF, 0, False)
    info = replace(INFO, chips=(*INFO.chips, unlocked, missing))
    state = BoardState(info, False, 0, 0.1, {"chip": 80.0, "board": None}, (four, dark))
    findings = c.judge_board(state)
    assert [(f.what, str(f.state)) for f in findings] == [
        ("board", "OK"),
        ("chip 0", "OK"),
        ("chip 1", "wrong"),
        ("bias", "wrong"),
        ("temperatures", "look"),
        ("chip 0 settings", "wrong"),
        ("chip 0 settings", "wrong"),
    ]
    assert "board ?" in findings[4].found


def test_without_a_chip_nothing_is_exposed_and_that_is_wrong() -> None:
    state = BoardState(replace(INFO, chips=()), False, 0, None, {}, ())
    assert [f.what for f in c.judge_board(state) if f.state is State.WRONG] == ["chips"]


def test_a_chip_that_is_missing_between_others_is_wrong_and_a_place_behind_the_last_is_none() -> None:
    gone = ChipInfo(1, 0x7FFFFFFF, "", 0xFF, 0, False)
    third, nothing = replace(INFO.chips[0], index=2), replace(gone, index=3)
    state = BoardState(replace(INFO, chips=(INFO.chips[0], gone, third, nothing)), False, 0, 100.0, {}, ())
    (told,) = [f for f in c.judge_board(state) if f.state is State.WRONG]
    assert (told.what, told.found) == ("chip 1", "no id: links enabled 0xFF, locked 0x00")
    assert "chip 3" not in [f.what for f in c.judge_board(state)]


def test_what_is_no_number_is_null_in_json() -> None:
    assert check_findings.plain({"a": [float("nan"), 1.0], "b": ("x", None)}) == {"a": [None, 1.0], "b": ["x", None]}
