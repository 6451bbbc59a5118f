"""Rows from words, against the slow twin; and the same rows however the stream is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ophyd_timepix.config import Calibration, CentroidTime, Edge, Geometry, Metric, Processing
from ophyd_timepix.events import BlockArrays, Capacity, Flag
from ophyd_timepix.events.builder import CHAIN_MAX
from tests import naive
from tests.rows import Rows, assert_same_rows, process
from tests.strategies import LATENESS, MS, N_EXAMPLES, SECOND, Stream, as_words, cuts, streams
from tests.synthesis import busy_stream

EXAMPLES = settings(max_examples=N_EXAMPLES, deadline=None)
DENSE = (0, 0, 0, 0, 1, 2, 4, 16, 100, LATENESS + 1, MS, 17 * MS)
ORDER_BY_OTHERS = st.sampled_from(({}, {"leaves_order": True, "pile": 1}, {"leaves_order": True, "pile": 3}))
SMALL = Capacity(hits=4096, shots=4, edges=4)


def some_calibrations() -> list[Calibration]:
    """Of each kind one, with time-walk enough to change the order."""
    rng = np.random.default_rng(3)
    pixels = (4, 256, 256)
    energy = np.stack([rng.uniform(1, 3, pixels), rng.uniform(0, 20, pixels), rng.uniform(0, 90, pixels)], -1)
    return [
        Calibration(time_walk_table_ns=rng.uniform(-50, 400, (4, 1024)), chip_offset_ns=[0, 30.3, -25, 7]),
        Calibration(
            time_walk_abc=[(540, -5, 0), (90, 0.5, -3), (0, 0, 0), (1, 4, 2)],
            energy_abct=energy[:, 0, 0, [0, 1, 2, 2]] / 4,
        ),
        Calibration(
            time_walk_abc=rng.uniform((10, -9, -5), (900, 9, 5), (*pixels, 3)),
            chip_offset_ns=[1000, 0, -1000, 0],
            energy_abct=np.concatenate([energy, rng.uniform(-1, 3, (*pixels, 1))], -1),
        ),
    ]


CALIBRATIONS = (None, *some_calibrations())


@st.composite
def processings(draw) -> Processing:
    low = draw(st.sampled_from((None, None, 0.0, 100.0)))
    period = draw(st.sampled_from((None, None, 1e3, 1e5, 1e8, 1e9)))
    infers = period is not None and period < 1e9 and draw(st.booleans())
    return Processing(
        radius_px=draw(st.sampled_from((1.0, 1.5, 2.0, 2.9, 5.0))),
        window_ns=draw(st.sampled_from((25.0, 100.0, 117.6470588, 400.0))),
        metric=draw(st.sampled_from(Metric)),
        min_samples=draw(st.sampled_from((1, 1, 2, 3, 5, 9))),
        min_size=draw(st.sampled_from((1, 1, 2))),
        split=draw(st.booleans()),
        split_radius_px=draw(st.sampled_from((1.0, 2.5))),
        centroid_time=draw(st.sampled_from(CentroidTime)),
        trigger_input=draw(st.sampled_from((1, 2))),
        trigger_edge=draw(st.sampled_from(Edge)),
        trigger_period_ns=period,
        missing_triggers="infer" if infers else "report",
        trigger_delay_ns=draw(st.sampled_from((0.0, 0.0, 30.0, -2000.0, 1e6, -1e8, 1e8))),
        trigger_prescale=draw(st.sampled_from((1, 1, 2, 3))),
        tof_min_ns=low,
        tof_max_ns=draw(st.sampled_from((None, None, 5e3, 1e6))),
        tot_min=draw(st.sampled_from((None, None, 1, 300))),
        tot_max=draw(st.sampled_from((None, None, 1021, 300))),
        masked_pixels=draw(st.sampled_from(((), (), ((0, 3, 3), (0, 4, 5), (1, 255, 0))))),
        hits=True,
    )


def rows_of(stream: Stream, processing: Processing, **options) -> Rows:
    return process(as_words(stream.words), processing, n_chips=stream.n_chips, lateness_ticks=LATENESS * 96, **options)


def assert_rows_equal_twin(
    rows: Rows,
    stream: Stream,
    processing: Processing,
    end_tick: int | None,
    chain_max: int,
    lost=(),
    calibration=None,
    open_tick=None,
):
    """Decode, order, shots, filter, clusters, centroids: every row of every table."""
    twin = naive.NaiveDecoder(True, stream.n_chips, lateness=LATENESS)
    twin.decode(stream.words)
    twin.flush()
    hits, *filtered = naive.keep_hits(twin.hits, processing)
    hits = naive.corrected(hits, calibration)
    shots = naive.assign_shots(hits, twin.edges, processing, stream.n_chips, end_tick, lost, rows.horizon, open_tick)
    window = int(processing.window_ns * 96 // 25)
    forced = naive.forced_cuts(shots.hits, shots.opened, window, chain_max)
    labels = naive.clusters(shots.hits, shots.shot, processing, forced)
    labels, parts = naive.split(shots.hits, labels, processing) if processing.split else (labels, set())
    table = Geometry.for_chips(stream.n_chips).table().tolist()
    time = processing.centroid_time
    expected = naive.centroids(shots.hits, shots.shot, shots.opened, labels, table, processing.min_size, parts, time)

    triggers, found_shots = rows.table("triggers"), rows.table("shots")
    assert triggers["time"].tolist() == [naive.ns(edge[0]) for edge in shots.edges]
    assert triggers["channel"].tolist() == [edge[1] for edge in shots.edges]
    assert triggers["edge"].tolist() == [edge[2] for edge in shots.edges]
    assert triggers["counter"].tolist() == [edge[3] for edge in shots.edges]
    assert found_shots["time"].tolist() == [naive.ns(tick) for tick in shots.opened]
    assert found_shots["valid"].tolist() == shots.valid
    assert found_shots.get("inferred", np.zeros(len(shots.opened))).tolist() == shots.inferred
    assert rows.totals["n_filtered"] == shots.filtered
    assert rows.filtered == tuple(filtered)
    gaps = [(gap.low_ticks, gap.high_ticks, gap.input, gap.missing) for gap in rows.gaps]
    delay = round(processing.trigger_delay_ns * 96 / 25)  # gaps lie on the line of the shots
    assert sorted(gaps) == sorted((low + delay, high + delay, *who) for low, high, *who in naive.gaps(shots.edges))
    assert rows.rhythm == shots.rhythm

    hit_rows = rows.table("hits")
    row_of = {i: row for row, centroid in enumerate(expected) for i in centroid.members}
    for i, (tick, chip, y, x, tot) in enumerate(shots.hits):
        a, b, c, d, e, f = table[chip]
        assert (hit_rows["toa"][i], hit_rows["chip"][i], hit_rows["tot"][i]) == (naive.ns(tick), chip, tot)
        assert (hit_rows["x"][i], hit_rows["y"][i]) == (a * x + b * y + c, d * x + e * y + f)
        assert hit_rows["shot"][i] == shots.shot[i]
        assert hit_rows["cluster"][i] == row_of.get(i, -1)
    assert len(hit_rows["toa"]) == len(shots.hits)

    centroids = rows.table("centroids")
    assert len(centroids["toa"]) == len(expected)
    for name in ("shot", "toa", "tot", "tot_max", "size", "chip"):
        assert centroids[name].tolist() == [getattr(row, name) for row in expected]
    for name in ("x", "y", "tof"):
        values = np.array([getattr(row, name) for row in expected], centroids[name].dtype)
        np.testing.assert_allclose(centroids[name], values, rtol=1e-6)
    for flag, name in ((Flag.SATURATED, "saturated"), (Flag.EDGE, "edge"), (Flag.GAP, "gap"), (Flag.SPLIT, "split")):
        assert [bool(flags & flag) for flags in centroids["flags"]] == [getattr(row, name) for row in expected]
    assert ("energy" in centroids) == (calibration is not None and calibration.has_energy)
    if "energy" in centroids:
        energies = [naive.energy([shots.hits[i] for i in row.members], calibration) for row in expected]
        np.testing.assert_allclose(centroids["energy"], energies, rtol=1e-6)
    totals = rows.totals
    assert totals["n_hits"] == totals["n_clustered"] + totals["n_noise"] + totals["n_small_hits"]
    assert totals["n_noise"] == labels.count(-1)
    assert totals["n_clusters"] == len(set(labels) - {-1}) == totals["n_centroids"] + totals["n_small"]
    assert [header["last"] for header in rows.headers] == [0] * (rows.n_blocks - 1) + [1]


@EXAMPLES
@given(st.data(), processings())
def test_rows_equal_the_slow_twin(data, processing):
    stream = data.draw(streams(bad=data.draw(st.booleans()), pauses=DENSE, max_chips=2))
    end_tick = data.draw(st.sampled_from((None, (stream.start + SECOND) * 96)))
    target, chain_max = data.draw(st.sampled_from(((1, 4), (5, 40), (100, 4000))))
    lost = [
        ((stream.start + first) * 96, (stream.start + first + length) * 96)
        for first, length in data.draw(st.lists(st.tuples(st.sampled_from(DENSE), st.sampled_from(DENSE)), max_size=3))
    ]
    calibration = data.draw(st.sampled_from(CALIBRATIONS))
    open_tick = data.draw(st.sampled_from((None, stream.start * 96, *(edge[0] for edge in stream.edges))))
    rows = rows_of(
        stream, processing, end_tick=end_tick, open_tick=open_tick, lost=lost, target_hits=target, chain_max=chain_max,
        sort_piece=4, calibration=calibration, **data.draw(ORDER_BY_OTHERS),
        block=BlockArrays(capacity=SMALL), places=data.draw(cuts(len(stream.words))), partial=data.draw(st.booleans()),
    )  # fmt: skip
    assert_rows_equal_twin(rows, stream, processing, end_tick, chain_max, lost, calibration, open_tick)


@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=["none", "table", "by chip", "by pixel"])
@pytest.mark.parametrize(
    ("metric", "radius_px"), [(Metric.CYLINDER, 2.0), (Metric.ELLIPSOID, 2.0), (Metric.CYLINDER, 5.0)]
)
def test_rows_of_a_busy_camera_equal_the_slow_twin(metric, radius_px, calibration):
    stream = Stream(1, 0, busy_stream(1, 20e6)[:300].tolist())
    processing = Processing(metric=metric, radius_px=radius_px, hits=True)
    rows = rows_of(
        stream, processing, calibration=calibration, target_hits=50, sort_piece=20, leaves_order=True, pile=5
    )
    assert rows.totals["n_hits"] > 250
    assert_rows_equal_twin(rows, stream, processing, None, CHAIN_MAX, calibration=calibration)


@EXAMPLES
@given(st.data(), processings())
def test_rows_do_not_depend_on_how_the_stream_is_cut(data, processing):
    stream = data.draw(streams(bad=data.draw(st.booleans()), max_steps=150))
    calibration = data.draw(st.sampled_from(CALIBRATIONS))
    reference = rows_of(stream, processing, chain_max=50, calibration=calibration)
    other = rows_of(
        stream,
        processing,
        places=data.draw(cuts(len(stream.words))),
        partial=data.draw(st.booleans()),
        target_hits=data.draw(st.sampled_from((1, 7, 50))),
        sort_piece=data.draw(st.sampled_from((1, 10, 1000))),
        **data.draw(ORDER_BY_OTHERS),
        chain_max=50,
        calibration=calibration,
        block=BlockArrays(capacity=SMALL),
    )
    assert_same_rows(reference, other)
