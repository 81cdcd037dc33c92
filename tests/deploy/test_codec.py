"""Messages: what openpi's clients write, and what nobody should be able to do with them."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robopref.deploy import codec
from robopref.deploy.codec import MessageError, pack, unpack


def test_an_array_is_written_as_openpi_writes_it():
    got = msgpack.unpackb(pack({"state": np.array([[1, 2]], "<f4")}))
    assert got == {
        "state": {
            b"__ndarray__": True,
            b"data": b"\x00\x00\x80?\x00\x00\x00@",
            b"dtype": "<f4",
            b"shape": [1, 2],
        }
    }


def test_a_numpy_scalar_is_written_as_openpi_writes_it():
    assert msgpack.unpackb(pack(np.int16(-3))) == {b"__npgeneric__": True, b"data": -3, b"dtype": "<i2"}


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(
        st.one_of(*(st.just(np.dtype(d)) for d in ("?", "u1", "<i8", ">i4", "<f4", "<f8", "<f2"))),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_an_array_comes_back_as_it_was(array):
    again = unpack(pack({"x": array}))["x"]
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()
    assert not again.flags.writeable


def test_nested_maps_lists_texts_and_numbers_come_back():
    message = {"images": {"cam_high": np.zeros((2, 2, 3), np.uint8)}, "prompt": "fold", "n": [1, 2.5, None]}
    again = unpack(pack(message))
    assert again["prompt"] == "fold"
    assert again["n"] == [1, 2.5, None]
    assert again["images"]["cam_high"].shape == (2, 2, 3)


def array_map(**changes):
    record = {"__ndarray__": True, "data": b"\0" * 4, "dtype": "<f4", "shape": [1]}
    return msgpack.packb({k.encode(): v for k, v in {**record, **changes}.items()})


@pytest.mark.parametrize(
    "bad",
    [
        array_map(dtype="|O"),
        array_map(dtype="O"),
        array_map(dtype="<c8", data=b"\0" * 8),
        array_map(dtype="|V4"),
        array_map(dtype="<U1"),
        array_map(dtype="i4,f4"),
        array_map(dtype="float32" * 1000),
        array_map(dtype=None),
        array_map(dtype=7),
        array_map(shape=[2]),
        array_map(shape=[-1]),
        array_map(shape=[2**62, 4]),
        array_map(shape=[1] * 9),
        array_map(shape="1"),
        array_map(shape=[1.0]),
        array_map(shape=[True]),
        array_map(data="text"),
        array_map(data=None),
        msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}),
        msgpack.packb(msgpack.ExtType(5, b"pickle")),
        msgpack.packb({1: 2}),
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",  # a list of 4 billion items, none of them there
        b"\xc6\xff\xff\xff\xff",  # 4 GiB of bytes, likewise
        b"\x91" * 100_000,  # lists in lists
        array_map()[:-1],
        array_map() + b"\0",
    ],
    ids=lambda data: data[:40].hex(),
)
def test_what_is_malformed_is_refused_with_one_kind_of_error(bad):
    with pytest.raises(MessageError):
        unpack(bad)


def test_lists_and_maps_are_counted_since_an_empty_one_takes_64_times_its_byte(monkeypatch):
    monkeypatch.setattr(codec, "MOST_ITEMS", 10)
    for empty in (b"\x90", b"\x80"):
        assert len(unpack(b"\x93" + 3 * (b"\x92" + 2 * empty))) == 3  # ten of them
        with pytest.raises(MessageError, match="more than 10 lists and maps"):
            unpack(b"\x93" + 2 * (b"\x92" + 2 * empty) + b"\x93" + 3 * empty)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_refused(data):
    with contextlib.suppress(MessageError):
        unpack(data)


@pytest.mark.parametrize("bad", [object(), {1, 2}, np.array([object()]), np.array([1j]), 2**70])
def test_what_cannot_be_sent_is_refused(bad):
    with pytest.raises(MessageError, match="cannot be sent"):
        pack({"x": bad})
