"""What the index tells of the board's counter around acquisitions, also of one that was never ended."""

import numpy as np

from ophyd_timepix.pipeline.locating import Way
from ophyd_timepix.pipeline.recorded import recorded_ways
from ophyd_timepix.spool.index import RECORD, Kind, Moment, Row, spans


def ways(*rows: Row, n_bytes: int = 1000) -> list[Way | None]:
    records = np.array(list(rows), RECORD)
    told = recorded_ways(records, spans(records, n_bytes))
    unasked = dict.fromkeys(("words_before", "words", "paused_before", "paused"))
    return [None if way is None else way._replace(**unasked) for way in told]


def poll(offset: int, acquisition: int, sent: int, before: int, after: int) -> Row:
    return Row(offset, 0, after, 0, acquisition, sent=sent, received_before=before, kind=Kind.POLL)


BASELINE = poll(0, 0, 0, 7, 7)


def begin(offset: int, number: int, arrived: int) -> Row:
    return Row(offset, 0, arrived, 0, number)


def end(offset: int, sent: int, arrived: int) -> Row:
    return Row(offset, 0, arrived, 0, 0, sent=sent, kind=Kind.END)


def test_each_end_is_compared_with_the_one_before_and_the_first_with_the_baseline():
    told = ways(BASELINE, begin(0, 1, 7), end(400, 50, 55), begin(400, 2, 55), end(900, 90, 97))
    assert told == [Way(0, 7, 50, 55), Way(50, 55, 90, 97)]


def test_an_acquisition_whose_end_nobody_counted_is_told_with_the_next():
    told = ways(BASELINE, begin(0, 1, 7), end(400, -1, 55), begin(400, 2, 55), end(900, 90, 97))
    assert told == [None, Way(0, 7, 90, 97)]


def test_of_one_that_broke_off_the_last_reading_counts_when_something_is_lost_for_certain():
    """All that may be lost by then: what had arrived before the board was asked."""
    readings = (poll(200, 1, 20, 26, 27), poll(300, 1, 50, 52, 54))
    assert ways(BASELINE, begin(0, 1, 7), *readings) == [Way(0, 7, 50, 52)]


def test_of_one_that_broke_off_with_datagrams_under_way_nothing_is_said():
    assert ways(BASELINE, begin(0, 1, 7), poll(300, 1, 50, 52, 57)) == [None]


def test_a_reading_beyond_the_words_that_are_left_does_not_count():
    rows = (BASELINE, begin(0, 1, 7), poll(200, 1, 20, 27, 27), poll(300, 1, 50, 52, 54))
    assert ways(*rows, n_bytes=250) == [None]
    assert ways(*rows, n_bytes=300) == [Way(0, 7, 50, 52)]


def test_what_waited_on_the_board_is_that_of_beginning_and_end_of_each_acquisition():
    base = Row(400, 0, 55, 0, 2, sent=52, received_before=55, kind=Kind.BASELINE, paused=4)
    ends = [end(400, 50, 55)._replace(paused=3), end(900, 90, 97)._replace(paused=9)]
    records = np.array([BASELINE, begin(0, 1, 7), ends[0], base, ends[1]], RECORD)
    told = recorded_ways(records, spans(records, 1000))
    assert [(way.paused_before, way.paused) for way in told if way] == [(0, 3), (4, 9)]


def test_the_index_tells_when_the_shutter_of_an_acquisition_opened_and_of_an_older_one_nothing():
    told = [Row(40, 3, 9, 0, 2, end_counts=70, kind=Kind.BEGIN), Row(80, 5, 9, 0, 2, end_counts=90, kind=Kind.OPEN)]
    closed = Row(900, 9, 97, 0, 0, end_counts=500, kind=Kind.END)
    records = np.array([begin(0, 1, 7), end(40, 9, 9), begin(40, 2, 9), *told, closed], RECORD)
    first, second = spans(records, 1000)
    assert (first.begin, first.open_counts, first.end_counts) == (None, None, None)
    assert (second.begin, second.open_counts, second.end_counts) == (Moment(70, 3), 90, 500)
