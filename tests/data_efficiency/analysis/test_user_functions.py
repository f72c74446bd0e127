"""Functions by name, and whether they changed."""

import sys
from functools import partial

import numpy as np
import pytest

from data_efficiency.analysis.user_functions import import_function, source_fingerprint


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of the user's, as the working directory."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "difficulty.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_package", "own_package.difficulty"):
        sys.modules.pop(name, None)


def test_function_is_found_below_the_working_directory(project):
    assert import_function("own_package.difficulty:twice")(4) == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_package.difficulty", "names no function: package.module:function is needed"),
        ("own_package.difficulty:", "names no function"),
        (":twice", "names no function"),
        ("own_package.nothing:twice", "No module named 'own_package.nothing'; give the module as"),
        ("own_package.difficulty:thrice", "difficulty.py has no function thrice"),
    ],
)
def test_names_that_are_wrong(project, name, message):
    with pytest.raises(ValueError, match=message):
        import_function(name)


class Callable:
    def __call__(self, x):
        return x


def test_source_is_what_is_recognised():
    def first(x):
        return x + 1

    def second(x):
        return x + 2

    fingerprints = [source_fingerprint(f) for f in (first, second, Callable(), np.abs, abs)]
    assert len(set(fingerprints)) == 5
    assert source_fingerprint(partial(partial(first, 1), 2)) == fingerprints[0]
    assert source_fingerprint(Callable()) == fingerprints[2]
