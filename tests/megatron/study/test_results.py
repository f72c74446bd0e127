import json

import pytest

from megatron.study.results import read_arm
from tests.megatron.study.made_up_runs import write_made_up_run


def write_finetuning_run(folder, seed, test, quality_name="perplexity"):
    history = [
        {"steps": step, "layer_tokens": 10 * step, "corpus_tokens": 5 * step}
        | {"training_seconds": 1.0 * step, "validation": test + 1 / (step + 1)}
        for step in range(3)
    ]
    results = {"description": {"seed": seed, "lr": 1e-3, "data_identity": {"sha256": "a"}}}
    results |= {"quality_name": quality_name, "test": test, "num_layers": 2}
    results |= {"history": history, **history[-1]}
    place = folder / f"seed{seed}"
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps(results))


def test_a_finetuning_run_is_judged_on_its_test_part(tmp_path):
    write_finetuning_run(tmp_path, 1, 10.0)
    write_finetuning_run(tmp_path, 2, 14.0)
    first, second = read_arm(tmp_path, "base")
    assert (first.seed, first.value, second.value) == (1, 10.0, 14.0)
    assert first.measure.name == "test perplexity"
    assert not first.measure.higher_is_better
    assert first.costs == {"corpus_tokens": 10, "effective_tokens": 10.0, "seconds": 2.0}
    assert [point["corpus_tokens"] for point in first.curve] == [5, 10]
    assert first.facts == {
        "settings": {"training": {"seed": 1, "lr": 1e-3}},
        "data": {"sha256": "a"},
    }


def test_of_an_accuracy_more_is_better(tmp_path):
    write_finetuning_run(tmp_path, 1, 90.0, "val_acc")
    [found] = read_arm(tmp_path, "base")
    assert found.measure.higher_is_better


def test_a_pretraining_run_of_two_losses_is_judged_by_the_first(tmp_path):
    [found] = read_arm(write_made_up_run(tmp_path / "bert", sentence_loss=0.6, seed=7), "bert")
    assert found.measure.name == "validation masked_lm loss"
    assert found.seed == 7
    assert found.others == {"sentence loss": 0.6}
    assert found.value == found.curve[-1]["value"]
    assert found.costs["effective_tokens"] >= 1_300_000


def test_pacing_is_thinned_out_and_says_what_layers_see(tmp_path):
    folder = write_made_up_run(tmp_path / "a", curriculum=True, random_ltd=True)
    [found] = read_arm(folder, "a")
    assert 50 <= len(found.pacing) <= 100
    assert all(point["kept_length"] <= point["sequence_length"] for point in found.pacing)
    assert found.pacing[0]["pool_percent"] < 50


def test_a_run_without_evaluation_has_nothing_to_say(tmp_path):
    folder = write_made_up_run(tmp_path / "a", budget=10_000, finished=False)
    log = folder / "log.jsonl"
    lines = [line for line in log.read_text().splitlines() if '"kind": "valid"' not in line]
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="has no evaluation"):
        read_arm(folder, "a")
    with pytest.raises(FileNotFoundError, match=r"holds no log\.jsonl"):
        read_arm(tmp_path, "a")
