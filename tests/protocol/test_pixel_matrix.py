"""The pixel matrix, to and from each form on the wire."""

import contextlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ophyd_timepix.protocol.pixel_matrix import (
    PixelMatrix,
    decode_ctpr,
    decode_upload,
    encode_ctpr,
    matrix_from_columns,
    pack,
    unpack,
)

seeds = st.integers(0, 2**32 - 1)


def random_codes(seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 64, (256, 256), dtype=np.uint8)


def received(matrix: PixelMatrix) -> npt.NDArray[np.uint8]:
    """What a chip holds after the upload."""
    codes = np.full((256, 256), 0xFF, dtype=np.uint8)
    for first, data in matrix.upload():
        columns = decode_upload(first, data)
        codes[first : first + len(columns)] = columns
    return codes


@given(seeds)
def test_codes_and_matrix_are_the_same_thing(seed: int):
    codes = random_codes(seed)
    assert np.array_equal(PixelMatrix.from_codes(codes).codes(), codes)


@given(seeds)
def test_upload_then_read_back_gives_the_matrix(seed: int):
    matrix = PixelMatrix.from_codes(random_codes(seed))
    chip = received(matrix)
    assert matrix_from_columns([column.tobytes() for column in chip]) == matrix


@given(st.lists(st.integers(0, 63), max_size=100).filter(lambda codes: len(codes) % 4 == 0))
def test_packing_is_concatenating_six_bits_each(codes: list[int]):
    bits = "".join(f"{code:06b}" for code in codes)
    expected = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    assert pack(np.array(codes, dtype=np.uint8)) == expected
    assert unpack(expected).tolist() == codes


def test_upload_is_86_messages_of_the_sizes_of_the_reference():
    messages = list(PixelMatrix().upload())
    assert [first for first, _ in messages] == list(range(0, 256, 3))
    assert [len(data) for _, data in messages] == [576] * 85 + [192]


@pytest.mark.parametrize("bit", range(4))
def test_threshold_adjust_is_reversed_on_the_chip(bit: int):
    matrix = PixelMatrix()
    matrix.threshold_adjust[3, 7] = 1 << bit
    codes = matrix.codes()
    assert codes[3, 7] == 1 << (4 - bit)
    assert np.count_nonzero(codes) == 1


def test_mask_is_bit_0_and_test_is_bit_5():
    matrix = PixelMatrix()
    matrix.mask[10, 20] = True
    matrix.test[20, 10] = True
    codes = matrix.codes()
    assert (codes[10, 20], codes[20, 10], int(codes.sum())) == (0x01, 0x20, 0x21)


def test_first_index_is_the_column():
    matrix = PixelMatrix()
    matrix.mask[4] = True
    messages = dict(matrix.upload())
    assert unpack(messages[3]).reshape(3, 256).sum(axis=1).tolist() == [0, 256, 0]


@pytest.mark.parametrize("n_columns", [1, 2, 3, 4])
def test_unpacked_upload_is_understood_too(n_columns: int):
    codes = random_codes(1)[:n_columns]
    assert np.array_equal(decode_upload(8, codes.tobytes()), codes)


@pytest.mark.parametrize(("first", "n_bytes"), [(0, 191), (0, 300), (254, 576), (256, 192), (253, 1024)])
def test_upload_that_is_no_whole_columns_is_refused(first: int, n_bytes: int):
    with pytest.raises(ValueError, match="columns"):
        decode_upload(first, bytes(n_bytes))


def test_values_outside_the_table_are_refused():
    with pytest.raises(ValueError, match="0 to 15"):
        PixelMatrix(threshold_adjust=np.full((256, 256), 16, dtype=np.uint8))
    with pytest.raises(ValueError, match="0 to 63"):
        PixelMatrix.from_codes(np.full((256, 256), 64))
    with pytest.raises(ValueError, match=r"\(256, 256\)"):
        PixelMatrix(mask=np.zeros((256, 255), dtype=bool))
    with pytest.raises(ValueError, match="256 columns"):
        matrix_from_columns([bytes(256)] * 255)


def test_adjust_that_went_out_of_range_is_refused_at_upload():
    matrix = PixelMatrix()
    matrix.threshold_adjust[0, 0] = 200
    with pytest.raises(ValueError, match="0 to 15"):
        list(matrix.upload())


def test_digest_names_the_content():
    matrix = PixelMatrix()
    before = matrix.digest()
    matrix.mask[0, 0] = True
    assert matrix.digest() != before
    matrix.mask[0, 0] = False
    assert matrix.digest() == before


@given(st.lists(st.booleans(), min_size=256, max_size=256))
def test_column_test_pulse_register_both_ways(columns: list[bool]):
    assert decode_ctpr(encode_ctpr(columns)).tolist() == columns


def test_column_0_is_the_last_byte_of_the_test_pulse_register():
    columns = np.zeros(256, dtype=bool)
    columns[[0, 255]] = True
    data = encode_ctpr(columns)
    assert (data[31], data[0]) == (0x01, 0x80)


# --- whatever comes over the wire -------------------------------------------------------------------------------------
@given(st.integers(0, 300), st.integers(0, 4).map(lambda n: 256 * n) | st.sampled_from([192, 576]), seeds)
def test_whole_columns_are_understood_where_they_fit_and_refused_elsewhere(first: int, n_bytes: int, seed: int):
    data = np.random.default_rng(seed).integers(0, 256, n_bytes, dtype=np.uint8).tobytes()
    n_columns = n_bytes // 192 if n_bytes in (192, 576) else n_bytes // 256
    if n_columns == 0 or first + n_columns > 256:
        with pytest.raises(ValueError, match="columns"):
            decode_upload(first, data)
    else:
        codes = decode_upload(first, data)
        assert codes.shape == (n_columns, 256)
        assert int(codes.max()) <= 63


@given(st.integers(-(2**40), 2**40), st.binary(max_size=1100))
def test_no_upload_raises_anything_but_a_value_error(first: int, data: bytes):
    with contextlib.suppress(ValueError):
        assert decode_upload(first, data).shape[1] == 256


@given(st.lists(st.binary(max_size=300), max_size=5) | st.just([bytes(256)] * 256) | st.just([b""] * 256))
def test_no_read_back_raises_anything_but_a_value_error(columns: list[bytes]):
    with contextlib.suppress(ValueError):
        assert matrix_from_columns(columns) == PixelMatrix()


@given(seeds)
def test_arrays_survive_the_codes(seed: int):
    rng = np.random.default_rng(seed)
    mask, test = rng.integers(0, 2, (2, 256, 256), dtype=np.uint8).astype(bool)
    adjust = rng.integers(0, 16, (256, 256), dtype=np.uint8)
    read = PixelMatrix.from_codes(PixelMatrix(mask, adjust, test).codes())
    assert np.array_equal(read.mask, mask)
    assert np.array_equal(read.threshold_adjust, adjust)
    assert np.array_equal(read.test, test)


@given(st.integers(1, 64).map(lambda n: 4 * n), seeds)
def test_packed_bytes_survive_unpacking(n: int, seed: int):
    data = np.random.default_rng(seed).integers(0, 256, n * 3 // 4, dtype=np.uint8).tobytes()
    assert pack(unpack(data)) == data
