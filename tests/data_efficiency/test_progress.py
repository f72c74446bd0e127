"""A bar on a terminal, a line every half minute elsewhere."""

import pytest

from data_efficiency import progress
from data_efficiency.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """The time; tests let it pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_of_samples_go_where_they_are_wanted(clock):
    lines = []
    with Progress("vocab_rarity", 1000, unit="samples", say=lines.append) as shown:
        for number in range(1, 8):
            clock[0] += 10
            shown.update(50 * number, "50 tokens/s")
    assert lines == [
        "vocab_rarity: 15% (150 samples of 1,000 samples), 02:50 left, 5 samples/s, 50 tokens/s",
        "vocab_rarity: 30% (300 samples of 1,000 samples), 02:20 left, 5 samples/s, 50 tokens/s",
    ]


@pytest.mark.parametrize(
    ("total", "line"),
    [
        (4_000_000, "reading: 25% (1.00MB of 4.00MB), 01:33 left, 32.3kB/s, 7 tokens\n"),
        (0, "reading: 1.00MB, 32.3kB/s, 7 tokens\n"),
    ],
)
def test_bytes_are_told_on_stderr(clock, capsys, total, line):
    with Progress("reading", total) as shown:
        clock[0] += 31
        shown.update(1_000_000, "7 tokens")
    assert capsys.readouterr().err == line


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("reading", 4000) as shown:
        shown.update(1000, "7 tokens")
        shown.update(4000, "9 tokens")
    text = capsys.readouterr().err
    assert "reading: 100%" in text
    assert "4.00k/4.00k" in text
    assert "9 tokens" in text
