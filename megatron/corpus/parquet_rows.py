"""Text columns of Parquet files, read in small batches. The only file that knows pyarrow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BATCH_ROWS = 64


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Raise an error unless the file can be read and has these columns, of text; reads only its end.

    Raises:
        ModuleNotFoundError: if pyarrow is not installed.
        ValueError: if the file is damaged, or a column is missing or of another type.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        for name in names:
            if name not in schema.names:
                raise ValueError(f"{path}: no column {name!r}; it has {sorted(schema.names)}")
            kind = schema.field(name).type
            if str(getattr(kind, "value_type", kind)) not in ("string", "large_string"):
                raise ValueError(f"{path}: column {name!r} must be of strings, not of {kind}")


def read_texts(path: Path, names: Sequence[str]) -> Iterator[tuple[list[tuple[Any, ...]], float]]:
    """(some rows, share of the file that is read) in the order of the file.

    A row is the values of the columns in the order of `names`; None where there is none.
    """
    check_columns(path, names)
    with _opened(path) as file:
        num_rows = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(names), use_threads=False):
            num_rows += batch.num_rows
            columns = [batch.column(name).to_pylist() for name in names]
            yield list(zip(*columns, strict=True)), num_rows / file.metadata.num_rows


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file, whose damages end in errors that name it."""
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path}: Parquet files need pyarrow: pip install 'data-efficiency[parquet]'"
        ) from None
    try:
        # Pages of a column pass through a buffer, so that no row group is held whole.
        with parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            yield file
    except (ArrowException, UnicodeDecodeError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: damaged or not a Parquet file ({reason})") from None
