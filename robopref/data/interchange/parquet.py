"""Reading Parquet files of others: what is missing or strange becomes a sentence."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robopref.errors import DataError


def names(file: Path) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        DataError: It is missing, truncated, or no Parquet file.
    """
    try:
        return pq.read_schema(file).names
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error


def table(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of a file; all by default.

    Raises:
        DataError: It is missing, truncated, no Parquet file, or lacks a column.
    """
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            missing = sorted(set(columns or ()) - set(opened.schema_arrow.names))
            if missing:
                raise DataError(f"{file} has no column {', '.join(missing)}.")
            return opened.read(list(columns) if columns is not None else None)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error


def numbers(rows: pa.Table, name: str, where: str) -> np.ndarray:
    """Return a column of numbers, or of lists of them, as an array: one row a step.

    Raises:
        DataError: It holds something else, has gaps, or its lists are not equally long.
    """
    column = rows[name].combine_chunks()
    kind = column.type
    while pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        column = column.flatten()
        kind = column.type
    if column.null_count or not (
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    ):
        raise DataError(f"{where}: '{name}' must be numbers without gaps, got {rows[name].type}.")
    width, rest = divmod(len(column), max(len(rows), 1))
    if rest:
        raise DataError(f"{where}: the rows of '{name}' must be equally long.")
    return column.to_numpy(zero_copy_only=False).reshape(len(rows), width)


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} is missing, truncated, or no Parquet file ({error}).")
