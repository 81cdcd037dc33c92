"""Messages between robot and policy server: msgpack, with NumPy arrays as openpi's clients write them.

An array is a map with the byte keys ``__ndarray__``, ``data`` (C order), ``dtype`` and ``shape``; a NumPy
scalar one with ``__npgeneric__``, ``data`` and ``dtype`` (openpi-client 0.1.2). Only numbers and truth values
are read: nothing is unpickled, and no size that a message states is believed before its bytes are there.

Needs Python 3.9, NumPy and msgpack; ``client.py`` and this file work in any folder.
"""

import math
from typing import Any

import msgpack
import numpy as np

KINDS = "biuf"  # truth values, integers, floats
MOST_ITEMS, MOST_DIMENSIONS = 100_000, 8  # in a list or map, and lists and maps in all; of an array


class MessageError(ValueError):
    """Bytes that are no message, or a message of what may not be sent."""


def pack(message: Any) -> bytes:
    """Write a message of dicts, lists, text, bytes, numbers and arrays.

    Raises:
        MessageError: It holds something else, or an array of objects, complex numbers or records.
    """
    try:
        return bytes(msgpack.packb(message, default=_plain) or b"")
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"This cannot be sent: {error}") from error


def unpack(data: bytes) -> Any:
    """Read a message; its arrays are views of ``data`` and cannot be written to.

    Raises:
        MessageError: The bytes are truncated or malformed, or an array's size, shape and type do not agree.
    """
    containers = 0

    def counted(container: Any) -> Any:
        nonlocal containers  # an empty list is one byte here and 64 in memory
        containers += 1
        if containers > MOST_ITEMS:
            raise MessageError(f"The message holds more than {MOST_ITEMS} lists and maps")
        return container

    try:
        return msgpack.unpackb(
            data,
            list_hook=counted,
            object_hook=lambda record: _arrays(counted(record)),
            ext_hook=_no_extension,
            max_array_len=MOST_ITEMS,
            max_map_len=MOST_ITEMS,
        )
    except MessageError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise MessageError(f"The message is truncated or not msgpack ({type(error).__name__})") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in KINDS:
            raise TypeError(f"an array of dtype {value.dtype}")
        if isinstance(value, np.ndarray):
            data, shape = value.tobytes(), value.shape
            return {b"__ndarray__": True, b"data": data, b"dtype": value.dtype.str, b"shape": shape}
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__}")


def _arrays(record: Any) -> Any:
    if b"__ndarray__" in record:
        data, shape = record.get(b"data"), record.get(b"shape")
        kind = _kind(record.get(b"dtype"))
        if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
            raise MessageError("An array in the message lacks its data or shape")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise MessageError(f"An array in the message has the shape {shape!r:.80}")
        if math.prod(shape) * kind.itemsize != len(data):
            raise MessageError(f"An array of {kind} and shape {shape} does not have {len(data)} bytes")
        return np.frombuffer(data, kind).reshape(shape)
    if b"__npgeneric__" in record:
        value = record.get(b"data")
        if not isinstance(value, (bool, int, float)):
            raise MessageError("A NumPy scalar in the message is no number")
        return _kind(record.get(b"dtype")).type(value)
    return record


def _kind(name: Any) -> np.dtype:
    try:
        kind = np.dtype(name) if isinstance(name, str) and len(name) <= 4 else None
    except TypeError:
        kind = None
    if kind is None or kind.kind not in KINDS:
        raise MessageError(f"An array in the message is of the dtype {name!r:.40}; numbers are expected")
    return kind


def _no_extension(code: int, data: bytes) -> Any:
    raise MessageError(f"The message holds an extension of type {code}")
