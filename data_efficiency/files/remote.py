"""Files on storage that fsspec reaches by URL: S3, Google Cloud, Azure, HTTP, memory and others.

`location` says of a text whether it is a local path or such a place; everything else takes either. A file there
appears complete or not at all, there are no folders but by their files, and nobody can lock anything.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:::[^/]*)?://")
_BROKEN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")
_LOCAL_URLS = ("file://", "local://")
_MEMORY = "memory"
_EXTRA_OF_KIND = {"s3": "s3", "s3a": "s3"}


class RemotePath:
    """A file or folder by its URL, with what this library needs of `pathlib.Path`.

    Nothing but the URL is kept, so that it is the same in a process that was forked or that got it sent.

    Example:
        >>> index = RemotePath("s3://bucket/difficulty/") / "seqlen"
        >>> str(index), index.name, str(index.parent)
        ('s3://bucket/difficulty/seqlen', 'seqlen', 's3://bucket/difficulty')
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"RemotePath({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        """What the file or folder lies in."""
        return RemotePath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        """Another file or folder beside this one."""
        return self.parent / name

    @property
    def is_of_one_process(self) -> bool:
        """Whether other processes see nothing of what is written here."""
        return self.url.partition("://")[0].split("::")[-1] == _MEMORY

    def exists(self) -> bool:
        """Whether there is a file of this name, or one below it."""
        with self._storage() as (storage, path):
            return bool(storage.exists(path))

    def is_file(self) -> bool:
        """Whether there is a file of this name."""
        with self._storage() as (storage, path):
            return bool(storage.isfile(path))

    def is_dir(self) -> bool:
        """Whether there is a file below this name."""
        with self._storage() as (storage, path):
            return bool(storage.isdir(path))

    def num_bytes(self) -> int:
        """Size of the file."""
        with self._storage() as (storage, path):
            return int(storage.size(path))

    def read_bytes(self, first: int | None = None, last: int | None = None) -> bytes:
        """The bytes first..last-1 of the file, all where none are named."""
        with self._storage() as (storage, path):
            return bytes(storage.cat_file(path, start=first, end=last))

    def read_text(self) -> str:
        """The file's text, in UTF-8."""
        return self.read_bytes().decode()

    @contextmanager
    def open(self, mode: str = "rb") -> Iterator[IO[bytes]]:
        """The file to read from, a block at a time."""
        with self._storage() as (storage, path):
            file = storage.open(path, mode)
        with file:
            yield file

    def put(self, file: Path) -> None:
        """Put a copy of a local file here: others see what was there before, or all of it."""
        with self._storage() as (storage, path):
            storage.put_file(str(file), path)

    def fetch(self, file: Path) -> None:
        """Write the file's bytes into a local one."""
        with self._storage() as (storage, path):
            storage.get_file(path, str(file))

    def files(self) -> "list[RemotePath]":
        """The files below this folder, at any depth, sorted by name."""
        return [self / name for name in self.names()]

    def names(self) -> list[str]:
        """What `files` are called from here on."""
        with self._storage() as (storage, path):
            found = storage.find(path) if storage.exists(path) else []
            return sorted(str(name)[len(path.rstrip("/")) + 1 :] for name in found)

    def versions(self) -> dict[str, str]:
        """What the storage says of each file below this folder (size, checksum, date): name -> its words."""
        with self._storage() as (storage, path):
            return {name: storage.ukey(f"{path.rstrip('/')}/{name}") for name in self.names()}

    def glob(self, pattern: str) -> "list[RemotePath]":
        """The files below this folder whose names from here on fit a pattern; a `*` spans no slash."""
        depth = pattern.count("/")
        return [
            self / name
            for name in self.names()
            if name.count("/") == depth and fnmatchcase(name, pattern)
        ]

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file."""
        with self._storage() as (storage, path):
            try:
                storage.rm_file(path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove_all(self) -> None:
        """Remove every file below this folder."""
        with self._storage() as (storage, path):
            if storage.exists(path):
                storage.rm(path, recursive=True)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there with its first file."""

    @contextmanager
    def _storage(self) -> Iterator[tuple[Any, str]]:
        """The storage and the path on it; within the block, what goes wrong names the URL and what to do.

        Raises:
            ModuleNotFoundError: if the storage's package is not installed.
            ValueError: if there is no storage of the kind.
            FileNotFoundError: if the file is not there.
            OSError: for anything else, such as missing credentials.
        """
        kind = self.url.partition("://")[0]
        try:
            import fsspec  # noqa: PLC0415  an extra

            # Other processes write too: what was listed a moment ago says nothing.
            storage, path = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            extra = _EXTRA_OF_KIND.get(kind, "storage")
            raise ModuleNotFoundError(
                f"{self.url}: {kind}:// needs a package ({error}): pip install 'data-efficiency[{extra}]', or "
                "the package that it names"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{self.url}: fsspec knows no storage of the kind {kind}:// ({error}); a local path has no ://"
            ) from error
        except Exception as error:
            raise self._unreachable(error) from error
        try:
            yield storage, path
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.url}: no such file") from None
        except (OSError, ImportError, MemoryError) as error:
            if self.url in str(error) or not isinstance(error, OSError):
                raise
            raise self._unreachable(error) from error
        except Exception as error:
            if isinstance(error, ValueError) and self.url in str(error):
                raise
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> OSError:
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        return kind(
            f"{self.url}: cannot be reached ({type(error).__name__}: {error}); credentials, endpoint and other "
            "options are those of the storage's own package: its variables in the environment, or FSSPEC_... "
            "(docs/analysis.md)"
        )


Location = Path | RemotePath
Place = str | os.PathLike[str] | RemotePath
"""What `location` takes."""


def location(place: Place) -> Location:
    """Where a text points to: a local path (file:// too), or by its URL a place on other storage.

    Raises:
        ValueError: for a URL that has gone through a `Path`, which takes one of its slashes.

    Example:
        >>> location("s3://bucket/corpus"), location("file:///data/corpus").name
        (RemotePath('s3://bucket/corpus'), 'corpus')
    """
    if isinstance(place, RemotePath):
        return place
    text = os.fspath(place)
    if not isinstance(place, str) and _BROKEN_URL.match(text) and not os.path.exists(text):
        raise ValueError(f"{text} was a URL before it was a Path: give it as a text")
    for local in _LOCAL_URLS:
        if text.startswith(local):
            return Path(text.removeprefix(local))
    return RemotePath(text) if _URL.match(text) else Path(text)


class RemoteNumbers:
    """Numbers of one type in a file on other storage, of which only what is asked for is read.

    A slice reads nothing yet; `numpy.asarray` of it does, its range of the file alone.

    Args:
        first, last: the numbers meant; `last` None: all that are there.
    """

    def __init__(
        self,
        path: RemotePath,
        dtype: np.dtype[Any],
        first: int = 0,
        last: int | None = None,
    ) -> None:
        self.path, self.dtype, self.first = path, dtype, first
        self.last = path.num_bytes() // dtype.itemsize if last is None else last

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return len(self) * self.dtype.itemsize

    def view(self, dtype: Any) -> "RemoteNumbers":
        """The same bytes as numbers of another type."""
        other = np.dtype(dtype)
        edges = (edge * self.dtype.itemsize // other.itemsize for edge in (self.first, self.last))
        return RemoteNumbers(self.path, other, *edges)

    def __getitem__(self, part: Any) -> "RemoteNumbers":
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise ValueError(
                f"{self.path} is read in runs of numbers, for analysis; to train on it, copy it to a disk"
            )
        first, last, _ = part.indices(len(self))
        return RemoteNumbers(
            self.path, self.dtype, self.first + first, self.first + max(first, last)
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if not len(self):
            return np.empty(0, self.dtype if dtype is None else dtype)
        size = self.dtype.itemsize
        content = self.path.read_bytes(self.first * size, self.last * size)
        if len(content) != self.nbytes:
            raise ValueError(f"{self.path} became shorter while it was read")
        numbers = np.frombuffer(content, self.dtype)
        return numbers if dtype is None else numbers.astype(dtype)
