"""Losses on the way lie where they are said to lie, and as few stretches are suspected as can be."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.pipeline.locating import Place, Reading, places

TRANSIT = 5
"""The longest a datagram travels."""


@dataclass
class Wire:
    """Datagrams sent at times, some lost, the others here after at most `TRANSIT`; addresses are arrivals."""

    sent_at: list[int]
    arrives_at: list[int | None]

    def sent(self, time: int) -> int:
        return sum(t <= time for t in self.sent_at)

    def arrived(self, time: int) -> int:
        return sum(t is not None and t <= time for t in self.arrives_at)

    def reading(self, asked: int, read: int, answered: int) -> Reading:
        low, high = self.arrived(asked), self.arrived(answered + TRANSIT)
        return Reading(self.sent(read), low, high, low, high)


@st.composite
def wires(draw) -> tuple[Wire, list[Reading]]:
    pauses = draw(st.lists(st.sampled_from((0, 1, 1, 3, 20)), max_size=40))
    sent_at, now = [], 0
    for pause in pauses:
        now += pause
        sent_at.append(now)
    lost = draw(st.lists(st.booleans() if draw(st.booleans()) else st.just(False), min_size=len(pauses)))
    arrives, latest = [], 0
    for k, time in enumerate(sent_at):  # in order, as from one board through one switch
        latest = max(latest, time + draw(st.integers(0, TRANSIT)))
        arrives.append(None if lost[k] else min(latest, time + TRANSIT))
    wire = Wire(sent_at, arrives)
    readings, time = [], 0
    for _ in range(draw(st.integers(0, 6))):
        asked = time + draw(st.integers(0, 15))
        read = asked + draw(st.integers(0, 3))
        time = read + draw(st.integers(0, 3))
        readings.append(wire.reading(asked, read, time))
    return wire, readings


@given(wires())
def test_every_lost_datagram_lies_in_a_place_that_is_told(case):
    wire, readings = case
    end = wire.reading(10_000, 10_000, 10_000)
    found = places(Reading(0, 0, 0, 0, 0), readings, end)
    total = wire.arrives_at.count(None)
    assert (total == 0) == (found == [])
    arrived = 0
    missing = dict.fromkeys(found, 0)
    for here in wire.arrives_at:
        if here is not None:
            arrived += 1
            continue
        around = [place for place in found if place.low <= arrived <= place.high]
        assert around
        for place in around:
            missing[place] += 1
    for place, n in missing.items():
        assert place.least <= n
    assert sum(place.least for place in found) <= total <= sum(place.most for place in found)


@given(wires())
def test_places_are_apart_and_in_order(case):
    wire, readings = case
    found = places(Reading(0, 0, 0, 0, 0), readings, wire.reading(10_000, 10_000, 10_000))
    assert all(a.high < b.low for a, b in pairwise(found))


def test_a_reading_in_a_silence_proves_what_came_before_it_whole():
    quiet = Reading(100, 100, 100, 8000, 8000)
    end = Reading(200, 197, 197, 15_000, 15_000)
    assert places(Reading(0, 0, 0, 0, 0), [quiet], end) == [Place(8000, 15_000, 3, 3)]


def test_a_burst_of_losses_is_placed_though_datagrams_are_on_their_way():
    """At 10 datagrams between question and answer: the burst of 50 shows, whether more were lost elsewhere does not."""
    readings = [
        Reading(100 * k, 100 * k - 5 - 50 * (k > 2), 100 * k + 5 - 50 * (k > 2), 8 * k, 8 * k + 1) for k in (1, 2, 3, 4)
    ]
    found = places(Reading(0, 0, 0, 0, 0), readings, Reading(500, 450, 450, 50, 50))
    assert [(place.low, place.high, place.least, place.most) for place in found] == [(0, 50, 50, 50)]


def test_what_was_lost_before_belongs_to_the_acquisition_before():
    begin = Reading(50, 40, 40, 100, 100)
    assert places(begin, [], Reading(90, 80, 80, 200, 200)) == []
    assert places(begin, [], Reading(90, 79, 79, 200, 200)) == [Place(100, 200, 1, 1)]


def test_a_loss_and_a_surplus_apart_from_each_other_are_both_seen_and_the_loss_may_lie_anywhere():
    begin, end = Reading(0, 0, 0, 0, 0), Reading(100, 100, 100, 1000, 1000)
    assert places(begin, [Reading(50, 49, 49, 400, 500)], end) == [Place(0, 1000, 0, 1)]
    between = [Reading(30, 29, 29, 0, 300), Reading(60, 60, 60, 300, 600)]
    assert places(begin, between, Reading(100, 99, 99, 1000, 1000)) == [Place(0, 1000, 1, 1)]


def test_readings_that_contradict_each_other_make_no_place_narrower():
    begin, end = Reading(0, 0, 0, 0, 0), Reading(100, 99, 99, 1000, 1000)
    late = [Reading(30, 20, 20, 0, 300), Reading(60, 60, 60, 300, 600)]  # ten were on their way for long
    assert places(begin, late, end) == [Place(0, 1000, 1, 10)]


@pytest.mark.parametrize("surplus", [1, 100])
def test_more_than_was_sent_is_no_loss(surplus):
    assert places(Reading(0, 0, 0, 0, 0), [], Reading(10, 10 + surplus, 10 + surplus, 80, 80)) == []
