import json

import pytest

from megatron.reporting import format_seeds, plot_seeds, read_seeds, seed_figures


def write_run(folder, seed, test, quality_name="perplexity"):
    history = [
        {"steps": step, "layer_tokens": 10 * step, "corpus_tokens": 5 * step}
        | {"training_seconds": 1.0 * step, "validation": test + 1 / (step + 1)}
        for step in range(3)
    ]
    results = {"description": {"seed": seed}, "quality_name": quality_name, "test": test}
    results |= {"best_validation": test, "history": history, **history[-1]}
    place = folder / f"seed{seed}"
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps(results))


def test_table_figures_and_picture(tmp_path):
    for seed, test in ((1, 10.0), (2, 14.0)):
        write_run(tmp_path / "baseline", seed, test)
    write_run(tmp_path / "both", 1, 9.5)
    runs = {"base": read_seeds(tmp_path / "baseline"), "both": read_seeds(tmp_path / "both")}
    figures = seed_figures(runs)
    assert figures["base"]["test"] == {"mean": 12.0, "spread": pytest.approx(8**0.5)}
    table = format_seeds(runs, figures)
    assert "| base | 2 | 12.00 ± 2.83 | 12.33 ± 2.83 | 2 | 20 | 10 | 2 |" in table
    assert "| both | 1 | 9.50 | 9.83 | 2 | 20 | 10 | 2 |" in table
    plot_seeds(runs, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_different_qualities_are_not_compared(tmp_path):
    write_run(tmp_path / "a", 1, 10.0)
    write_run(tmp_path / "b", 1, 90.0, "val_acc")
    with pytest.raises(ValueError, match="compare runs of one example"):
        seed_figures({name: read_seeds(tmp_path / name) for name in "ab"})


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no finished run"):
        read_seeds(tmp_path)
