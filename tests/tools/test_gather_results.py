import json

from tools.gather_results import main


def write(path, tasks, shots=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"format": "evaluation", "version": 1, "checkpoint": "c", "num_fewshot": shots}
    path.write_text(json.dumps(record | {"tasks": {t: {"acc": v} for t, v in tasks.items()}}))


def test_table_and_numbers(tmp_path, capsys):
    write(tmp_path / "base" / "0shot" / "a.json", {"local_copa": 0.5})
    write(tmp_path / "base" / "0shot" / "b.json", {"rte": 0.7})
    write(tmp_path / "base" / "10shot" / "a.json", {"copa": 0.6}, shots=10)
    write(tmp_path / "both.json", {"copa": 0.9, "rte": 0.8})
    runs = ["--run", f"base={tmp_path / 'base'}", "--run", f"both={tmp_path / 'both.json'}"]
    assert main([*runs, "--output", str(tmp_path / "out" / "table.json")]) == 0
    said = capsys.readouterr().out
    assert "| base | 60.0 | 50.0 | 70.0 |" in said
    assert "| both | 85.0 | 90.0 | 80.0 |" in said
    assert "### 10 examples" in said
    numbers = json.loads((tmp_path / "out" / "table.json").read_text())
    assert numbers[0] == {"model": "base", "num_fewshot": 0, "seeds": [{"copa": 50.0, "rte": 70.0}]}


def test_results_are_found_among_the_other_files_of_a_run(tmp_path, capsys):
    """`evaluate_runs.py` may write into a study's folder, and leaves its table beside what it evaluated."""
    run = tmp_path / "runs" / "lr=1e-3"
    write(run / "0shot" / "copa.json", {"copa": 0.5})
    (run / "job.json").write_text('{"state": "finished"}')
    (run / "table.json").write_text("[]")
    assert main(["--run", f"lr=1e-3={run}"]) == 0
    assert "| lr=1e-3 | 50.0 | 50.0 |" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "other.json").write_text("[]")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.json").write_text('{"format": "evalu')
    for run, message in (
        ("nothing", "write NAME=PATH"),
        (f"a={tmp_path / 'gone'}", "no result of tools/evaluate_gpt.py in"),
        (f"a={tmp_path / 'empty'}", "no result of tools/evaluate_gpt.py in"),
        (f"a={tmp_path / 'others'}", "no result of tools/evaluate_gpt.py in"),
        (f"a={tmp_path / 'other.json'}", "is not a result"),
        (f"a={tmp_path / 'damaged'}", "a.json is not valid JSON"),
    ):
        assert message in refused(main, ["--run", run])
