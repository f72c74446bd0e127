from dataclasses import asdict

import pytest

from megatron.finetuning.sweep import SweepRun, is_done, table, write_sweep_run
from megatron.finetuning.training import FinetuningConfig

SETTINGS = asdict(FinetuningConfig())
RUN = SweepRun(task="RTE", learning_rate=2e-5, seed=1234)


def test_a_finished_run_is_known_by_its_file_and_settings(tmp_path):
    assert not is_done(RUN, tmp_path, SETTINGS)
    # As before there were groups of equal length: not grouped.
    written = {name: value for name, value in SETTINGS.items() if name != "group_by_length"}
    write_sweep_run(RUN, tmp_path, written, {"epochs": [], "seconds": 1.0})
    assert (tmp_path / "RTE" / "lr2e-05_seed1234.json").is_file()
    assert is_done(RUN, tmp_path, SETTINGS)
    assert not is_done(RUN._replace(seed=1235), tmp_path, SETTINGS)
    with pytest.raises(
        ValueError, match=r"of another run: its epochs is 3, here 4; name another folder"
    ):
        is_done(RUN, tmp_path, SETTINGS | {"epochs": 4})


def record(task, rate, seed, **scores):
    epochs = [{"dev": {"accuracy": 99.0}}, {name: {"metric": v} for name, v in scores.items()}]
    return {"task": task, "learning_rate": rate, "seed": seed, "epochs": epochs}


def test_table_has_medians_of_the_last_epoch():
    records = [record("RTE", 2e-5, seed, dev=score) for seed, score in enumerate((60, 70, 65))]
    records += [record("RTE", 3e-5, 0, dev=68.0)]
    records += [record("MNLI", 2e-5, 0, dev_matched=80.0, dev_mismatched=81.0)]
    assert table(records).splitlines() == [
        "| learning rate | RTE (metric) | MNLI-matched (metric) | MNLI-mismatched (metric) | mean |",
        "|---|---|---|---|---|",
        "| 2e-05 | 65.00 ± 5.00 (n=3) | 80.00 (n=1) | 81.00 (n=1) | 75.33 |",
        "| 3e-05 | 68.00 (n=1) | - | - | - |",
        "| best by dev | 68.00 (n=1) | 80.00 (n=1) | 81.00 (n=1) | 76.33 |",
    ]
    assert table([]) == "no finished runs"
