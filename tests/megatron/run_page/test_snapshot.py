import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.run_page.snapshot import LOOK_FOR_RUNS_SECONDS, Runs
from tests.megatron.study.made_up_runs import four_runs, write_made_up_run


class Clock:
    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now


def add_steps(folder, steps, **more):
    with (folder / "log.jsonl").open("a") as file:
        for step in steps:
            record = {"kind": "train", "step": step, "loss": 4.0, "corpus_tokens": 100 * step}
            file.write(json.dumps(record | more) + "\n")


def test_four_runs_with_their_curves_and_figures(tmp_path):
    four_runs(tmp_path)
    found = Runs([tmp_path]).snapshot()
    json.dumps(found, allow_nan=False)
    assert [arm["name"] for arm in found["arms"]][0] == "baseline"
    assert len(found["runs"]) == len(found["arms"]) == 4
    for run in found["runs"]:
        assert run["state"] == "finished"
        assert run["facts"]["num_parameters"] == 3_446_784
        assert run["last_valid"] == pytest.approx(run["valid"]["value"][-1], abs=1e-4)
        assert run["train"]["step"][-1] == run["last"]["step"]
        assert run["plan"] == {"problem": "only pretraining is planned step by step"}
    assert all(arm["bands"] == {"valid": {}, "train": {}} for arm in found["arms"])


def test_seeds_have_bands_on_each_axis_around_their_curves(tmp_path):
    for seed in (1, 2, 3):
        write_made_up_run(tmp_path / "arm" / f"seed{seed}", seed=seed)
    [arm] = Runs([tmp_path]).snapshot()["arms"]
    axes = {"step", "corpus_tokens", "effective_tokens", "flops", "seconds"}
    for chart in ("valid", "train"):
        assert set(arm["bands"][chart]) == axes
        for band in arm["bands"][chart].values():
            assert len({len(values) for values in band.values()}) == 1
            assert band["x"] == sorted(band["x"])
            columns = zip(band["low"], band["mean"], band["high"], strict=True)
            assert all(low <= mean <= high for low, mean, high in columns)


def test_only_what_has_grown_is_made_anew(tmp_path):
    for seed in (1, 2):
        write_made_up_run(
            tmp_path / "arm" / f"seed{seed}", seed=seed, budget=300_000, finished=False
        )
    runs = Runs([tmp_path])
    first = runs.snapshot()
    again = runs.snapshot()
    assert again["runs"][0]["train"] is first["runs"][0]["train"]
    assert again["arms"][0]["bands"] is first["arms"][0]["bands"]
    last = first["runs"][0]["last"]["step"]
    add_steps(tmp_path / "arm" / "seed1", [last + 1])
    grown = runs.snapshot()
    assert grown["runs"][0]["last"]["step"] == last + 1
    assert grown["runs"][1]["train"] is first["runs"][1]["train"]
    assert grown["arms"][0]["bands"] is not first["arms"][0]["bands"]


def test_runs_that_begin_or_go_meanwhile_are_seen_after_a_while(tmp_path):
    write_made_up_run(tmp_path / "a", budget=300_000)
    clock = Clock()
    runs = Runs([tmp_path], clock=clock)
    write_made_up_run(tmp_path / "b", budget=300_000)
    assert [run["name"] for run in runs.snapshot()["runs"]] == ["a"]
    clock.now += LOOK_FOR_RUNS_SECONDS
    assert [run["name"] for run in runs.snapshot()["runs"]] == ["a", "b"]
    shutil.rmtree(tmp_path / "a")
    clock.now += LOOK_FOR_RUNS_SECONDS
    assert [run["name"] for run in runs.snapshot()["runs"]] == ["b"]
    assert runs.read_files() == [tmp_path / "b" / "log.jsonl"]


@pytest.mark.parametrize(
    "start",
    [
        {},
        {"losses": 5},
        {"losses": []},
        {"measures": [{"name": "accuracy"}], "settings": 3},
        {"measures": 7, "data_efficiency": [1], "train_samples_in_dataset": "many"},
        {"settings": {"training": {"lr": "x", "train_iters": 5}, "model": {"num_layers": -1}}},
    ],
)
def test_logs_of_other_forms_show_what_they_have(tmp_path, start):
    (tmp_path / "log.jsonl").write_text(json.dumps({"kind": "start", **start}) + "\n")
    add_steps(tmp_path, [1, 2, 3])
    add_steps(tmp_path, [4], loss=None, seconds="x", difficulties={"m": None})
    [run] = Runs([tmp_path]).snapshot()["runs"]
    assert run["train"]["loss"] == [4.0, 4.0, 4.0, None]
    assert run["last"]["step"] == 4


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
START_KEYS = (
    *("settings", "losses", "measures", "num_layers", "sequence_length", "global_batch_size"),
    *("train_samples_in_dataset", "data_efficiency", "num_parameters"),
)
GROUPS = st.fixed_dictionaries(
    {},
    optional={
        "architecture": ODD,
        "model": st.dictionaries(st.sampled_from(["num_layers", "hidden_size"]), ODD) | ODD,
        "training": st.dictionaries(
            st.sampled_from(
                ["train_iters", "train_tokens", "token_counter", "lr", "micro_batch_size"]
            ),
            ODD,
        )
        | ODD,
        "data": ODD,
    },
)
METRICS = st.dictionaries(st.text(max_size=3), ODD | st.fixed_dictionaries({"index_path": ODD}))
SECTION = st.fixed_dictionaries(
    {
        "data_sampling": st.fixed_dictionaries(
            {"curriculum_learning": st.fixed_dictionaries({"curriculum_metrics": METRICS})}
        )
    }
)
RECORD = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["train", "valid", "sample", "end", "resume", "other"]),
        "step": st.integers(-3, 9),
    },
    optional=dict.fromkeys(
        (
            *("loss", "seconds", "texts", "difficulties", "reason", "corpus_tokens", "flops"),
            *("pool_size", "kept_length", "layer_tokens", "consumed_samples"),
        ),
        ODD,
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    start=st.dictionaries(st.sampled_from(START_KEYS), ODD),
    groups=GROUPS | st.none(),
    section=SECTION | st.none(),
    records=st.lists(RECORD, max_size=8),
)
def test_no_log_whatever_it_says_keeps_others_from_being_shown(
    tmp_path_factory, start, groups, section, records
):
    folder = tmp_path_factory.mktemp("runs")
    own = {"settings": groups} if groups is not None else {}
    own |= {"data_efficiency": section} if section is not None else {}
    for seed, lines in ((1, [{"kind": "start"} | start | own, *records]), (2, records)):
        run = folder / f"seed{seed}"
        run.mkdir()
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = Runs([folder])
    for _ in range(2):
        found = runs.snapshot()
        json.dumps(found, allow_nan=False)
        assert [run["name"] for run in found["runs"]] == ["seed1", "seed2"]


def test_a_run_without_a_line_is_shown_as_waiting(tmp_path):
    (tmp_path / "log.jsonl").touch()
    found = Runs([tmp_path]).snapshot()
    assert [run["state"] for run in found["runs"]] == ["waiting"]
    json.dumps(found, allow_nan=False)


def test_a_classification_is_judged_by_its_own_measure(tmp_path):
    measures = [{"name": "accuracy", "unit": "", "higher_is_better": True, "curve": "validation"}]
    records = [
        {"kind": "start", "measures": measures},
        {"kind": "valid", "step": 1, "validation": 0.5},
        {"kind": "valid", "step": 2, "validation": 0.6, "accuracy": 0.75},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    [run] = Runs([tmp_path]).snapshot()["runs"]
    assert run["measure"]["name"] == "accuracy"
    assert run["valid"]["value"] == [0.5, 0.75]


def test_only_what_lies_in_what_was_given_may_be_read(tmp_path):
    for name in ("runs", "data", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "secret")
    runs = Runs([tmp_path / "runs"], [tmp_path / "data"])
    assert runs.may_read(tmp_path / "runs" / "x" / "y.bin")
    assert runs.may_read(tmp_path / "data")
    assert not runs.may_read(tmp_path / "secret" / "x")
    assert not runs.may_read(tmp_path / "runs" / ".." / "secret")
    assert not runs.may_read(tmp_path / "runs" / "link" / "x")
    assert not runs.may_read(tmp_path / "runs2")
