"""Ledgers of acquisitions add up to that of their run."""

from ophyd_timepix.pipeline.ledger import add_ledgers

ONE = {
    "hits": 5,
    "max_lateness_ns": 400.0,
    "sent_datagrams": 3,
    "ended_by": "counters",
    "unknown_headers": {"0x12": 1},
    "chips": {"0": {"hits": 5, "sent_pixel_words": 5}},
    "lost_datagrams": 0,
    "unaccounted": 0,
    "verdict": "complete",
}


def test_counts_add_up_largest_values_stay_and_names_are_joined():
    other = ONE | {
        "hits": 2,
        "max_lateness_ns": 25.0,
        "ended_by": "silence",
        "unknown_headers": {"0x13": 4},
        "chips": {"0": {"hits": 1, "sent_pixel_words": 1}, "1": {"hits": 1, "sent_pixel_words": 1}},
        "lost_datagrams": 1,
        "shots": 10,
    }
    total = add_ledgers([ONE, other])
    assert total["hits"] == 7
    assert total["max_lateness_ns"] == 400.0
    assert total["ended_by"] == "counters, silence"
    assert total["unknown_headers"] == {"0x12": 1, "0x13": 4}
    assert total["chips"] == {"0": {"hits": 6, "sent_pixel_words": 6}, "1": {"hits": 1, "sent_pixel_words": 1}}
    assert total["shots"] is None


def test_what_one_acquisition_does_not_know_the_run_does_not_know():
    total = add_ledgers([ONE, ONE | {"sent_datagrams": None, "chips": {"0": {"hits": 5, "sent_pixel_words": None}}}])
    assert total["sent_datagrams"] is None
    assert total["chips"]["0"] == {"hits": 10, "sent_pixel_words": None}


def test_a_sum_goes_on_as_if_all_were_added_at_once():
    other = ONE | {"ended_by": "silence", "hits": 1, "max_lateness_ns": 7.0}
    assert add_ledgers([add_ledgers([ONE, other]), ONE]) == add_ledgers([ONE, other, ONE])


def test_a_chip_that_one_acquisition_heard_nothing_of_counts_in_the_others():
    assert add_ledgers([ONE | {"chips": {}}, ONE, ONE | {"chips": {}}])["chips"] == ONE["chips"]


def test_a_run_without_acquisitions_has_lost_nothing():
    assert add_ledgers([])["unaccounted"] == 0
