"""What a command writes is not what it reads."""

import os
from collections.abc import Iterable
from pathlib import Path

StrPath = str | os.PathLike[str]


def refuse_writing_over(outputs: Iterable[StrPath], inputs: Iterable[StrPath | None]) -> None:
    """Raise ValueError if an output is one of the inputs, by whatever name or link, or lies inside one."""
    given = [Path(path) for path in inputs if path is not None]
    for output in map(Path, outputs):
        for path in given:
            if _is_same(output, path):
                raise ValueError(
                    f"{output} would be written over the input {path}: give another output"
                )
            if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
                raise ValueError(
                    f"{output} would be written into the input folder {path}, and read as input the "
                    "next time: give an output outside it"
                )


def _is_same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return first.resolve() == second.resolve()
