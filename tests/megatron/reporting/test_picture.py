import sys

import pytest

from megatron.reporting import RunLog, compare_runs, plot_report, read_log
from megatron.reporting.picture import (
    kept_length,
    line_styles,
    loss_limits,
    new_figure,
    pool_percent,
)

PNG_START = b"\x89PNG\r\n\x1a\n"


def test_picture_is_written(four_runs, tmp_path):
    pytest.importorskip("matplotlib")
    runs = {name: read_log(folder) for name, folder in four_runs.items()}
    plot_report(runs, compare_runs(runs), tmp_path / "report.png")
    content = (tmp_path / "report.png").read_bytes()
    assert content.startswith(PNG_START)
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert width > 1500
    assert height > 1000


def test_single_run_and_diverged_run_are_drawn(four_runs, tmp_path):
    pytest.importorskip("matplotlib")
    baseline = read_log(four_runs["baseline"])
    diverged = RunLog(
        start=baseline.start,
        train=baseline.train,
        valid=tuple({**point, "loss": None, "perplexity": None} for point in baseline.valid),
        end=None,
    )
    for runs in ({"baseline": baseline}, {"baseline": baseline, "diverged": diverged}):
        plot_report(runs, compare_runs(runs), tmp_path / "report.png")
        assert (tmp_path / "report.png").stat().st_size > 10_000


def test_each_run_has_a_look_of_its_own():
    styles = line_styles(["curriculum", "baseline", "random_ltd", "both"], "baseline")
    assert list(styles) == ["curriculum", "baseline", "random_ltd", "both"]
    assert len({style["color"] for style in styles.values()}) == 4
    widths = [
        styles[name]["linewidth"] for name in ("baseline", "curriculum", "random_ltd", "both")
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] >= 1.0


def test_loss_axis_shows_the_end_of_all_runs(four_runs):
    runs = {name: read_log(folder) for name, folder in four_runs.items()}
    lower, upper = loss_limits(runs)
    for log in runs.values():
        assert lower < log.valid[-1]["loss"] < upper
        assert upper < log.valid[0]["loss"]


def test_pacing_values_without_technique_are_full():
    start = {"train_samples_in_dataset": 200}
    plain = {"sequence_length": 64, "kept_length": None, "pool_size": None}
    assert kept_length(plain, start) == 64
    assert pool_percent(plain, start) == 100
    paced = {"sequence_length": 64, "kept_length": 96, "pool_size": 50}
    assert kept_length(paced, start) == 64
    assert pool_percent(paced, start) == 25


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"data-efficiency\[report\]"):
        new_figure()
