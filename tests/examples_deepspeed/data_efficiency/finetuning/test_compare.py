from examples_deepspeed.data_efficiency.finetuning import compare
from tests.megatron.reporting.test_seed_comparison import write_run


def test_table_figures_and_picture_are_written(tmp_path, capsys):
    write_run(tmp_path / "baseline", 1, 10.0)
    out = tmp_path / "out"
    compare.main([f"base={tmp_path}/baseline", "--output", str(out)])
    assert capsys.readouterr().out == (out / "comparison.md").read_text()
    names = {path.name for path in out.iterdir()}
    assert names == {"comparison.md", "comparison.json", "comparison.png"}
