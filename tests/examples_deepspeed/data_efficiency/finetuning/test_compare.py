import json

import pytest

from examples_deepspeed.data_efficiency.finetuning import compare


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


def test_table_json_and_picture(tmp_path, capsys):
    for seed, test in ((1, 10.0), (2, 14.0)):
        write_run(tmp_path / "baseline", seed, test)
    write_run(tmp_path / "both", 1, 9.5)
    out = tmp_path / "out"
    compare.main([f"base={tmp_path}/baseline", f"both={tmp_path}/both", "--output", str(out)])
    table = capsys.readouterr().out
    assert "| base | 2 | 12.00 ± 2.83 | 12.33 ± 2.83 | 2 | 20 | 10 | 2 |" in table
    assert "| both | 1 | 9.50 | 9.83 | 2 | 20 | 10 | 2 |" in table
    figures = json.loads((out / "comparison.json").read_text())
    assert figures["base"]["test"] == {"mean": 12.0, "spread": pytest.approx(8**0.5)}
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_different_examples_are_not_compared(tmp_path):
    write_run(tmp_path / "a", 1, 10.0)
    write_run(tmp_path / "b", 1, 90.0, "val_acc")
    with pytest.raises(ValueError, match="compare runs of one example"):
        compare.main([f"a={tmp_path}/a", f"b={tmp_path}/b", "--output", str(tmp_path / "out")])


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no finished run"):
        compare.main([f"a={tmp_path}", "--output", str(tmp_path / "out")])
