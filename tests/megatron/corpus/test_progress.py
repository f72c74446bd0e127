import io

import pytest

from megatron.corpus import progress
from megatron.corpus.progress import ByteProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with ByteProgress("reading", 4000) as shown:
        shown.update(1000, "7 tokens")
        shown.update(4000, "9 tokens")
        text = progress.sys.stderr.getvalue()
    assert "reading:" in text
    assert "4.00k/4.00k" in progress.sys.stderr.getvalue()
    assert "9 tokens" in progress.sys.stderr.getvalue()


def test_log_gets_a_line_each_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 110.0, 131.0, 140.0, 165.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with ByteProgress("reading", 4_000_000) as shown:
        for num_bytes_done in (5, 1_000_000, 1_500_000, 2_000_000):
            shown.update(num_bytes_done, "7 tokens")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 25% (1.00MB of 4.00MB), 01:33 left, 7 tokens",
        "reading: 50% (2.00MB of 4.00MB), 01:05 left, 7 tokens",
    ]


def test_unknown_size_is_told_as_bytes_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 131.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with ByteProgress("reading", 0) as shown:
        shown.update(1_000_000, "7 tokens")
    assert capsys.readouterr().err == "reading: 1.00MB, 7 tokens\n"
