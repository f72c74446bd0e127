import numpy as np
import pytest

from megatron.data.indexed_format import (
    CODE_OF_DTYPE,
    DTYPE_OF_CODE,
    dtype_for_vocabulary,
    path_of,
)


def test_dtype_codes_are_the_published_ones() -> None:
    names = {code: dtype.name for code, dtype in DTYPE_OF_CODE.items()}
    assert names == {
        1: "uint8",
        2: "int8",
        3: "int16",
        4: "int32",
        5: "int64",
        6: "float64",
        7: "float32",
        8: "uint16",
    }
    assert CODE_OF_DTYPE[np.dtype(np.uint16)] == 8


@pytest.mark.parametrize(
    ("vocab_size", "name"), [(257, "uint16"), (65499, "uint16"), (65500, "int32")]
)
def test_dtype_follows_the_vocabulary(vocab_size: int, name: str) -> None:
    assert dtype_for_vocabulary(vocab_size).name == name


def test_path_keeps_dots_of_the_prefix() -> None:
    assert str(path_of("a/b.v1", "bin")) == "a/b.v1.bin"
