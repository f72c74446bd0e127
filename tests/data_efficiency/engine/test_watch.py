"""Two processes that watch each other; one of them stands still, or leaves, or is slow."""

import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest

from data_efficiency.engine import watch


class TwoRanks(SimpleNamespace):
    """The part of `Ranks` that a watch needs: rows are exchanged by files."""

    world = 2

    def table(self, row):
        (self.folder / f"{self.rank}.new").write_text(" ".join(map(str, row)))
        (self.folder / f"{self.rank}.new").rename(self.folder / str(self.rank))
        while not (self.folder / str(1 - self.rank)).exists():
            time.sleep(0.01)
        return np.array([(self.folder / str(r)).read_text().split() for r in (0, 1)], np.int64)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A function of seconds that the second process watches -> (what the first one says, the second)."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(watch, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 0.6)
    said, children = [], []
    monkeypatch.setattr(watch._Watch, "_end", lambda self, _: said.append(self._watched))

    def start(seconds):
        child = os.fork()
        if child == 0:
            with watch.watching_processes(TwoRanks(rank=1, folder=tmp_path)):
                time.sleep(seconds)
            time.sleep(60)
            os._exit(0)
        children.append(child)
        return said, child

    yield start
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def watched(folder, seconds):
    with watch.watching_processes(TwoRanks(rank=0, folder=folder)):
        time.sleep(seconds)


def test_one_that_stands_still_is_named(tmp_path, pair):
    said, child = pair(60)
    with watch.watching_processes(TwoRanks(rank=0, folder=tmp_path)):
        time.sleep(0.5)
        assert said == []
        os.kill(child, signal.SIGSTOP)
        time.sleep(1.2)
    assert set(said) == {1}


def test_one_that_beats_or_has_left_is_not(tmp_path, pair):
    said, _ = pair(0.5)
    watched(tmp_path, 2)
    assert said == []


def test_alone_there_is_nobody_to_watch(monkeypatch):
    monkeypatch.setattr(watch, "_Watch", None)
    with watch.watching_processes(SimpleNamespace(world=1)):
        pass
