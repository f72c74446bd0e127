"""Log lines where there is no terminal."""

import logging

from data_efficiency.analysis import progress as progress_module
from data_efficiency.analysis.progress import Progress


def test_a_line_every_half_minute(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    with Progress("vocab_rarity", 1000) as progress:
        for _ in range(10):
            now[0] += 10
            progress.update(50, 500)
    assert [record.message for record in caplog.records] == [
        "vocab_rarity: 150 of 1,000 samples, 5 samples/s, 50 tokens/s, 02:50 left",
        "vocab_rarity: 300 of 1,000 samples, 5 samples/s, 50 tokens/s, 02:20 left",
        "vocab_rarity: 450 of 1,000 samples, 5 samples/s, 50 tokens/s, 01:50 left",
    ]


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("vocab_rarity", 1000) as progress:
        progress.update(1000, 50_000)
    shown = capsys.readouterr().err
    assert "vocab_rarity: 100%" in shown
    assert "tokens/s" in shown
    assert Progress("x", 10).line(1.0).startswith("x: 0 of 10 samples, 0 samples/s, ")
