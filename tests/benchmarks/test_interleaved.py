import os
import time

import pytest

from benchmarks.interleaved import StepTime, contestants, paired_ratio, take_turns


class Recorder:
    """Notes in a file who steps when; takes memory on its second step."""

    def __init__(self, path, name, num_bytes):
        self.path, self.name, self.num_bytes, self.num_steps = path, name, num_bytes, 0

    def step(self):
        self.num_steps += 1
        with self.path.open("a") as file:
            file.write(self.name)
        held = b"x" * self.num_bytes if self.num_steps == 2 else b""
        time.sleep(0.02 + 0 * len(held))

    def describe(self):
        return self.num_steps


class Reads:
    """Knows a variable of its process."""

    def step(self):
        pass

    def describe(self):
        return os.environ.get("OF_THE_FIRST")


def failing(path):
    raise ValueError(f"nothing to do in {path}")


def test_turns_alternate_and_each_process_has_its_own_peak(tmp_path):
    path, lines = tmp_path / "turns", []
    makers = [(Recorder, (path, "a", 0)), (Recorder, (path, "b", 200 << 20))]
    with contestants(*makers) as (first, second):
        take_turns([first, second], num_rounds=3, progress=lines.append)
        assert path.read_text() == "baabbaab"
        assert first.describe() == second.describe() == 4
        assert len(first.times) == len(lines) - 1 == 3
        assert all(taken.wall_seconds >= 0.02 > taken.cpu_seconds for taken in first.times)
        assert first.peak_memory().growth_bytes < 100 << 20 < second.peak_memory().growth_bytes
        first.times = [StepTime(wall, 1.0) for wall in (1.0, 2.0, 3.0)]
        second.times = [StepTime(2.0, 1.0) for _ in range(3)]
        assert second.median("wall_seconds") == 2.0
        assert paired_ratio(second, first, "wall_seconds") == 1.0
        assert paired_ratio(first, second, "cpu_seconds") == 1.0


def test_a_process_that_fails_is_reported(tmp_path):
    with (
        contestants((failing, (tmp_path,))) as (only,),
        pytest.raises((RuntimeError, BrokenPipeError, ConnectionResetError)),
    ):
        only.step()


def test_each_process_has_its_environment():
    with contestants((Reads, ()), (Reads, ()), environments=[{"OF_THE_FIRST": "1"}]) as made:
        assert [one.describe() for one in made] == ["1", None]
    assert "OF_THE_FIRST" not in os.environ
