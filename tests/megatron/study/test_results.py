import json

import pytest

from megatron.evaluation import results as evaluation
from megatron.study.results import (
    Measure,
    comparable_times,
    read_arm,
    read_result,
    read_results,
    results_as_json,
)
from tests.megatron.study.made_up_runs import write_made_up_run
from tests.megatron.study.simulated import a_result


def write_finetuning_run(folder, seed, test, name="perplexity"):
    """A run's log as `megatron.finetuning.run` writes it."""
    place = folder / f"seed{seed}"
    place.mkdir(parents=True)
    measures = [
        {"name": f"test {name}", "curve": f"validation {name}"},
        {"name": f"validation {name}"},
    ]
    both = {"unit": "", "higher_is_better": name == "accuracy"}
    settings = {"training": {"seed": seed, "lr": 1e-3}}
    lines = [
        {"kind": "start", "settings": settings, "measures": [one | both for one in measures]}
        | {"num_parameters": 9, "train_samples_in_dataset": 8, "sequence_length": 4}
        | {"data": {"sha256": "a"}, "weights": "w", "environment": {"device": "cpu"}}
    ]
    for step in (0, 1, 2, 2):
        costs = {"corpus_tokens": 5 * step, "effective_tokens": 5.0 * step, "flops": 0}
        costs |= {"seconds": 1.0 * step, "waited": 0.0}
        lines.append({"kind": "valid", "step": step, f"validation {name}": test + 1 - step} | costs)
    lines[-1][f"test {name}"] = test
    lines.append({"kind": "end", "reason": "the budget", "step": 2})
    (place / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def test_a_finetuning_run_is_judged_on_its_test_part(tmp_path):
    write_finetuning_run(tmp_path, 1, 10.0)
    write_finetuning_run(tmp_path, 2, 14.0)
    first, second = read_arm(tmp_path, "base").results
    assert (first.seed, first.value, second.value) == (1, 10.0, 14.0)
    assert first.measure == Measure(name="test perplexity", unit="", higher_is_better=False)
    assert first.others == {"validation perplexity": 9.0}
    assert first.costs == {"corpus_tokens": 10, "effective_tokens": 10.0, "seconds": 2.0}
    assert [(point["corpus_tokens"], point["value"]) for point in first.curve] == [
        (5, 10.0),
        (10, 10.0),
    ]
    assert first.facts["settings"] == {"training": {"seed": 1, "lr": 1e-3}}
    assert first.facts["data"] == {"sha256": "a"}


def test_of_an_accuracy_more_is_better(tmp_path):
    write_finetuning_run(tmp_path, 1, 90.0, "accuracy")
    [found] = read_arm(tmp_path, "base").results
    assert found.measure.higher_is_better


def test_a_measure_can_be_named(tmp_path):
    folder = write_finetuning_run(tmp_path, 1, 10.0)
    found = read_result(folder, arm="base", measure="validation perplexity")
    assert (found.measure.name, found.value) == ("validation perplexity", 9.0)
    assert found.others == {"test perplexity": 10.0}
    with pytest.raises(
        ValueError, match="not measured by 'loss': its measures are test perplexity, v"
    ):
        read_result(folder, arm="base", measure="loss")
    gpt = write_made_up_run(tmp_path / "gpt")
    found = read_result(gpt, arm="gpt", measure="validation perplexity")
    assert found.value == found.curve[-1]["value"] > 10
    assert list(found.others) == ["validation loss"]


def test_evaluations_of_the_last_checkpoint_are_further_measures(tmp_path, monkeypatch):
    folder = write_finetuning_run(tmp_path, 1, 10.0)
    record = {"format": "evaluation", "version": 1, "checkpoint": "c", "num_fewshot": 0}
    record |= {"identity": "now", "tasks": {"copa": {"acc": 0.5}}}
    for shots, identity in (("0shot", "now"), ("5shot", "before")):
        (folder / shots).mkdir()
        changed = record | {"identity": identity, "num_fewshot": int(shots[0])}
        (folder / shots / "copa.json").write_text(json.dumps(changed))
    monkeypatch.setattr(evaluation, "checkpoint_in", lambda _: folder)
    monkeypatch.setattr(evaluation, "identity_of_checkpoint", lambda _: "now")
    [found] = read_arm(folder, "base").results
    assert found.others == {"validation perplexity": 9.0, "copa (0-shot)": 50.0}
    # A page is the same from a run and from what is kept of it.
    kept = tmp_path / "results.jsonl"
    kept.write_text(results_as_json([found]))
    assert [*found.others] == [*read_results(kept)[0].others]


def test_what_changed_where_a_run_went_on_is_a_list_and_the_rest_is_not(tmp_path):
    folder = write_finetuning_run(tmp_path, 1, 10.0)
    log = folder / "log.jsonl"
    first, *others = log.read_text().splitlines()
    environment = {"device": "cpu", "git_commit": "a", "num_threads": 2, "versions": {"torch": "2"}}
    first = json.dumps({**json.loads(first), "environment": environment})
    again = [
        json.dumps(
            {"kind": "resume", "step": step, "environment": {**environment, "git_commit": one}}
        )
        for step, one in enumerate(("a", "b", "b"))
    ]
    log.write_text("\n".join([first, *again, *others]) + "\n")
    [found] = read_arm(folder, "a").results
    assert found.facts["environment"] == {**environment, "git_commit": ["a", "b"]}
    assert found.timed_on == ("cpu", None, None, 2)
    elsewhere = json.dumps(
        {"kind": "resume", "step": 1, "environment": {**environment, "num_threads": 1}}
    )
    log.write_text("\n".join([first, elsewhere, *others]) + "\n")
    [found] = read_arm(folder, "a").results
    assert found.timed_on is None
    assert comparable_times([found]) == []


def test_the_machine_with_most_undisturbed_runs_gives_the_seconds():
    places = [("a", 0.0), ("b", 0.0), ("b", 0.0), ("a", 0.9), ("a", 0.5), ("a", None)]
    runs = [
        a_result("baseline", seed, 4.0, waited=waited, environment={"device_name": place})
        for seed, (place, waited) in enumerate(places)
    ]
    assert [one.seed for one in comparable_times(runs)] == [1, 2]


def test_a_pretraining_run_of_two_losses_is_judged_by_the_first(tmp_path):
    [found] = read_arm(
        write_made_up_run(tmp_path / "bert", sentence_loss=0.6, seed=7), "bert"
    ).results
    assert found.measure.name == "validation masked_lm loss"
    assert found.seed == 7
    assert found.others == {"validation sentence loss": 0.6}
    assert found.value == found.curve[-1]["value"]
    assert found.costs["effective_tokens"] >= 1_300_000


def test_pacing_is_thinned_out_and_says_what_layers_see(tmp_path):
    folder = write_made_up_run(tmp_path / "a", curriculum=True, random_ltd=True)
    [found] = read_arm(folder, "a").results
    assert 50 <= len(found.pacing) <= 100
    assert all(point["kept_length"] <= point["sequence_length"] for point in found.pacing)
    assert found.pacing[0]["pool_percent"] < 50


def test_a_run_without_evaluation_has_nothing_to_say(tmp_path):
    folder = write_made_up_run(tmp_path / "a", budget=10_000)
    log = folder / "log.jsonl"
    lines = [line for line in log.read_text().splitlines() if '"kind": "valid"' not in line]
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="has no evaluation"):
        read_arm(folder, "a")
    with pytest.raises(FileNotFoundError, match=r"holds no log\.jsonl"):
        read_arm(tmp_path, "a")


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (None, "its log has no end: it goes on, or was killed"),
        ({"kind": "end", "reason": "signal SIGTERM"}, "stopped: signal SIGTERM"),
        ({"kind": "end", "reason": "--train-iters (9)"}, None),
        ({"kind": "end"}, None),
    ],
)
def test_a_run_counts_when_it_has_come_to_its_end(end, why, tmp_path):
    folder = write_made_up_run(tmp_path / "a", seed=4, finished=False)
    with (folder / "log.jsonl").open("a") as log:
        log.write("" if end is None else json.dumps(end) + "\n")
    found = read_arm(folder, "a")
    assert found.unfinished == ({} if why is None else {4: why})
    assert len(found.results) == (why is None)


def test_a_seed_counts_once(tmp_path):
    for name in ("seed1", "seed1_again"):
        write_made_up_run(tmp_path / name, seed=1)
    with pytest.raises(ValueError, match="two runs of seed 1: a run counts once"):
        read_arm(tmp_path, "a")
