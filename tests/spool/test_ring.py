import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.spool.ring import N_MARKS, Mark, Ring


def make_ring(size: int = 4096) -> Ring:
    return Ring(np.zeros(size, np.uint8), np.zeros(N_MARKS, np.int64))


def append(ring: Ring, data: np.ndarray) -> None:
    start = ring.reserve(data.size)
    first, second = ring.parts(start, start + data.size)
    first[:] = data[: first.size]
    second[:] = data[first.size :]
    ring.publish(data.size)


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_a_reader_gets_what_was_written_or_is_sent_to_the_file(sizes, random):
    ring = make_ring()
    written = np.zeros(0, np.uint8)
    for n in sizes:
        data = np.frombuffer(random.randbytes(n), np.uint8)
        append(ring, data)
        written = np.concatenate([written, data])
        start = random.randrange(written.size)
        out = np.zeros(min(random.randrange(1, 4097), written.size - start), np.uint8)
        if ring.copy_out(start, out):
            assert np.array_equal(out, written[start : start + out.size])
        else:
            assert start < written.size - ring.size


def test_a_range_that_is_being_overwritten_is_refused():
    ring = make_ring()
    append(ring, np.ones(4096, np.uint8))
    ring.reserve(8)
    assert not ring.copy_out(0, np.zeros(16, np.uint8))
    assert ring.copy_out(8, np.zeros(16, np.uint8))


def test_free_room_is_what_is_on_disk_already():
    ring = make_ring()
    append(ring, np.ones(1000, np.uint8))
    assert ring.free == 3096
    ring.marks[Mark.ON_DISK] = 600
    assert ring.free == 3696


@pytest.mark.parametrize("size", [0, 4095, 12288])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(ValueError, match="power of two"):
        make_ring(size)
