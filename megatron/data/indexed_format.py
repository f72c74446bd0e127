"""The on-disk layout of token corpora: Megatron's `PREFIX.bin` and `PREFIX.idx`.

`.bin` holds the token ids of all sequences back to back. `.idx` is little-endian:

    offset   size   content
    0        9      "MMIDIDX" and two zero bytes
    9        8      version, 1
    17       1      code of the integer type
    18       8      N, number of sequences
    26       8      M, number of entries of the document index (documents + 1)
    34       4 N    tokens of each sequence, int32
    34+4N    8 N    byte offset of each sequence in .bin, int64
    34+12N   8 M    first sequence of each document, int64; starts with 0, ends with N

A sidecar `PREFIX.meta.json`, which this project writes and no reader needs, says where the tokens
come from.
"""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPE_OF_CODE = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in enumerate(
        ("uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16"), start=1
    )
}
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}
# DeepSpeed writes the same header with other codes; nothing but the size of .bin tells them apart.
DEEPSPEED_DTYPE_OF_CODE = {6: "uint16", 7: "uint32", 8: "uint64", 9: "uint32", 10: "uint64"}
MAX_SEQUENCE_TOKENS = 2**31 - 1


def dtype_for_vocabulary(vocab_size: int) -> np.dtype[Any]:
    """uint16 where the vocabulary has fewer than 65,500 entries, else int32 (Megatron's rule).

    >>> dtype_for_vocabulary(50257)
    dtype('uint16')
    """
    return np.dtype("uint16" if vocab_size < 65500 else "int32")


def path_of(prefix: str | os.PathLike[str], ending: str) -> Path:
    """Path of one of the files of a corpus; `ending` is "bin", "idx" or "meta.json"."""
    return Path(f"{os.fspath(prefix)}.{ending}")
