"""The end of a run is whole whatever interrupts it, and whatever other preprocessors add to it."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky.utils import RunEngineInterrupted
from ophyd.sim import SynAxis, det

from ophyd_timepix.plans import tpx_fly
from tests.fakes import ROWS

pytestmark = pytest.mark.usefixtures("installed")


class Interrupter:
    """Asks for a pause while the engine works on the message number `at` of those that match."""

    def __init__(self, engine, matches, at=1):
        self._engine, self._matches, self._left = engine, matches, at
        engine.msg_hook = self

    def __call__(self, msg):
        if self._left and self._matches(msg):
            self._left -= 1
            if not self._left:
                self._engine.loop.create_task(self._engine._request_pause_coro(False))


def in_closing(tpx):
    """Messages that close a run, each of which a pause may hit."""
    return {
        "books": lambda msg: msg.command == "trigger" and msg.obj is tpx.ledger,
        "wait": lambda msg: msg.command == "wait" and str(msg.kwargs.get("group", "")).startswith("books"),
        "declare": lambda msg: msg.command == "declare_stream",
        "collect": lambda msg: msg.command == "collect",
        "row": lambda msg: msg.command == "create" and msg.kwargs["name"] == "tpx_ledger",
        "read": lambda msg: msg.command == "read" and msg.obj is tpx.ledger,
        "save": lambda msg: msg.command == "save",
    }


PLANS = {"count": lambda tpx: bp.count([tpx]), "tpx_fly": tpx_fly}
PLACES = ["books", "wait", "declare", "collect", "row", "read", "save"]
CELLS = [("count", place, verb) for place in PLACES for verb in ("resume", "stop")]
CELLS += [("tpx_fly", place, verb) for place in ("wait", "collect", "read") for verb in ("resume", "stop")]
CELLS += [("count", "wait", "abort"), ("tpx_fly", "wait", "abort")]


@pytest.mark.parametrize(("plan", "place", "verb"), CELLS)
def test_a_pause_while_a_run_closes_costs_nothing(RE, checker, tpx, plan, place, verb):
    Interrupter(RE, in_closing(tpx)[place])
    try:
        RE(PLANS[plan](tpx))
    except RunEngineInterrupted:
        getattr(RE, verb)()
    run = checker.run
    (ledger,) = run.stream("tpx_ledger")
    assert run.rows == ledger["tpx_ledger_rows"] > 0
    points = run.stream("primary") + run.stream("tpx_frames")
    told = sum(point["tpx_n_centroids"] for point in points)
    assert told + ledger["tpx_ledger_cancelled_rows"] == run.rows
    if verb == "resume":
        assert run.stop["exit_status"] == "success"
        assert len(points) == 1


class Unreadable(SynAxis):
    def read(self):
        raise RuntimeError("no reading")


def test_an_exposure_that_never_becomes_an_event_counts_as_cancelled(RE, checker, tpx, pipe):
    with pytest.raises(RuntimeError, match="no reading"):
        RE(bp.count([tpx, Unreadable(name="bad")], num=3))
    (ledger,) = checker.run.stream("tpx_ledger")
    assert ledger["tpx_ledger_cancelled_acquisitions"] == 1
    assert ledger["tpx_ledger_cancelled_rows"] == checker.run.rows == ROWS
    assert pipe.superseded == (1,)


def test_an_exposure_that_is_triggered_again_before_it_is_read_counts_as_cancelled(RE, checker, tpx, pipe):
    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger(tpx, wait=True)
        yield from bps.trigger_and_read([tpx])

    RE(plan())
    assert pipe.superseded == (1,)
    assert checker.run.stream("tpx_ledger")[0]["tpx_ledger_cancelled_rows"] == ROWS


@pytest.mark.parametrize("omitted", [True, False])
def test_events_without_the_number_of_the_acquisition_cancel_nothing(RE, checker, tpx, pipe, omitted):
    tpx.acquisition.kind = "omitted" if omitted else "normal"
    RE(bp.count([tpx], num=2))
    assert pipe.superseded == ()


@pytest.mark.parametrize("first", [True, False])
def test_a_baseline_belongs_to_the_run_whatever_the_order_of_preprocessors(RE, checker, tpx, first):
    data = bpp.SupplementalData(baseline=[tpx])
    if first:
        RE.preprocessors.insert(0, data)
    else:
        RE.preprocessors.append(data)
    RE(bp.count([det]))
    assert checker.run.stop["exit_status"] == "success"
    assert len(checker.run.stream("baseline")) == 2
    assert checker.run.rows == 2 * ROWS


@pytest.mark.parametrize("first", [True, False])
def test_a_flight_during_a_run_lands_whatever_the_order_of_preprocessors(RE, checker, tpx, first):
    data = bpp.SupplementalData(flyers=[tpx])
    if first:
        RE.preprocessors.insert(0, data)
    else:
        RE.preprocessors.append(data)
    RE(bp.count([det]))
    assert len(checker.run.stream("tpx_frames")) == 1
    assert checker.run.rows == ROWS


def test_a_flight_during_a_scan_of_the_detectors_own_setting(RE, checker, tpx):
    RE(bpp.fly_during_wrapper(bp.list_scan([det], tpx.gates.gate0.tof_min, [1.0, 2.0]), [tpx]))
    assert len(checker.run.stream("tpx_frames")) == 1
    assert len(checker.run.stream("primary")) == 2


def test_a_flight_that_was_not_collected_is_no_event_of_the_next_run(RE, checker, tpx):
    for _ in range(2):
        Interrupter(RE, lambda msg: msg.command == "collect" and msg.obj is tpx, at=2)
        with pytest.raises(RunEngineInterrupted):
            RE(tpx_fly(tpx))
        RE.halt()
    RE.msg_hook = None
    RE(tpx_fly(tpx))
    assert len(checker.runs[-1].stream("tpx_frames")) == 1


def flights(tpx, steps):
    """A run with a flight after each step."""

    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        for step in steps:
            yield from step()
            yield from bps.kickoff(tpx, wait=True)
            yield from bps.complete(tpx, wait=True)
            yield from bps.collect(tpx)

    return plan()


def vfbk_of(run):
    return [doc["configuration"]["tpx"]["data"]["tpx_chip0_vfbk"] for doc in run.described_by("tpx_frames")]


def test_a_setting_that_changes_between_flights_is_recorded_anew(RE, checker, spidr, tpx):
    dac = spidr.chip0.dacs.vfbk
    RE(flights(tpx, [bps.null, lambda: bps.mv(dac, 100), bps.null, lambda: bps.mv(dac, 101)]))
    assert vfbk_of(checker.run) == [128, 100, 100, 101]
    assert len(checker.run.described("tpx_frames")) == 3


def test_flights_that_are_collected_late_keep_their_configuration(RE, checker, spidr, tpx):
    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        for value in (100, 101):
            yield from bps.mv(spidr.chip0.dacs.vfbk, value)
            yield from bps.kickoff(tpx, wait=True)
            yield from bps.complete(tpx, wait=True)
        yield from bps.collect(tpx)

    RE(plan())
    assert vfbk_of(checker.run) == [100, 101]


def test_points_and_flights_of_one_run_each_have_their_configuration(RE, checker, spidr, tpx):
    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        for value in (100, 101):
            yield from bps.mv(spidr.chip0.dacs.vfbk, value)
            yield from bps.trigger_and_read([tpx, det])
            yield from bps.mv(spidr.chip0.dacs.vfbk, value + 10)
            yield from bps.kickoff(tpx, wait=True)
            yield from bps.complete(tpx, wait=True)
            yield from bps.collect(tpx)

    RE(plan())
    assert vfbk_of(checker.run) == [110, 111]
    described = checker.run.described_by("primary")
    assert [doc["configuration"]["tpx"]["data"]["tpx_chip0_vfbk"] for doc in described] == [100, 101]


def test_a_setting_that_changes_during_a_flight_is_told(RE, checker, spidr, tpx, pipe, caplog):
    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        yield from bps.kickoff(tpx, wait=True)
        yield from bps.mv(spidr.chip0.dacs.vfbk, 99)
        yield from bps.complete(tpx, wait=True)
        yield from bps.collect(tpx)

    RE(plan())
    assert vfbk_of(checker.run) == [128]
    assert "changed during a flight (tpx_chip0_vfbk)" in caplog.text


def test_a_scan_during_a_flight_is_no_change_that_nobody_tells(RE, checker, spidr, tpx, caplog):
    RE(bpp.fly_during_wrapper(bp.list_scan([det], spidr.chip0.dacs.vfbk, [100, 101]), [tpx]))
    assert "changed during" not in caplog.text


@pytest.mark.parametrize("verb", ["stop", "abort", "halt"])
@pytest.mark.parametrize("command", ["kickoff", "wait"])
def test_a_flight_that_is_ended_as_it_begins_leaves_nothing_open(RE, checker, tpx, fake_board, command, verb):
    """Nothing stages the detector here: nobody but the end of the run can put it to rest."""
    Interrupter(RE, lambda msg: msg.command == command)
    with pytest.raises(RunEngineInterrupted):
        RE(bpp.fly_during_wrapper(bp.count([det]), [tpx]))
    getattr(RE, verb)()
    assert tpx.recording_run is None
    assert not fake_board.shutter_open.is_set()
    tpx.start_align()
    tpx.stop_align()


@pytest.mark.parametrize("verb", ["stop", "abort"])
def test_a_run_that_is_ended_at_its_first_trigger_has_its_ledger_row(RE, checker, tpx, verb):
    Interrupter(RE, lambda msg: msg.command == "trigger")
    with pytest.raises(RunEngineInterrupted):
        RE(bp.count([tpx]))
    getattr(RE, verb)()
    assert len(checker.run.stream("tpx_ledger")) == 1


def test_a_whole_flight_that_the_plan_did_not_collect_is_an_event(RE, checker, tpx, pipe):
    @bpp.stage_decorator([tpx])
    @bpp.run_decorator()
    def plan():
        yield from bps.kickoff(tpx, wait=True)
        yield from bps.complete(tpx, wait=True)
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        RE(plan())
    (frame,) = checker.run.stream("tpx_frames")
    assert frame["tpx_n_centroids"] == ROWS
    assert pipe.superseded == ()
    assert checker.run.stream("tpx_ledger")[0]["tpx_ledger_cancelled_rows"] == 0
