"""Memory maps that are read through once, without holding what was read."""

import mmap

import numpy as np

BYTES_BETWEEN_RELEASES = 2**25


class MappedMemory:
    """Gives pages back to the system as a walk through a memory map goes on.

    Pages of a file count as memory of the process that read them until something else needs the
    room. The file's content stays in the system's cache; read again, a page comes from there.
    """

    def __init__(self) -> None:
        self.num_bytes = 0

    def has_read(self, array: np.ndarray) -> None:
        """Count an array as read, and now and then give back the pages of its map.

        An array that is no view on a read-only memory map is left alone.
        """
        self.num_bytes += array.nbytes
        if self.num_bytes >= BYTES_BETWEEN_RELEASES:
            self.num_bytes = 0
            release_pages(array)


def release_pages(array: np.ndarray) -> None:
    """Give back all pages of the read-only memory map that an array is a view on."""
    base: object = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    # Changes made to a private writable map would be lost with its pages.
    if base is not None and hasattr(base, "madvise") and memoryview(base).readonly:
        base.madvise(mmap.MADV_DONTNEED)
