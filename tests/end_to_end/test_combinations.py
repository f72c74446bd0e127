"""What is chosen, cut and averaged beside what drops tokens, shards the model, or is a BERT: each pair runs, or is refused.

`combinations.json` is the table: a pair that is not in it as refused must train; docs/orders.md shows it.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import pretrain_bert
import pretrain_gpt
from data_efficiency import DifficultyIndex
from megatron.arguments import parse_run_config
from tests.end_to_end.bert_runs import SPLIT, VOCAB_SIZE
from tests.end_to_end.engine_runs import finish, log_lines, start
from tests.end_to_end.tiny_runs import SEQ_LENGTH, random_ltd_section, training_flags
from tests.json_sections import length_metric, metric, sorting_metric

TABLE = json.loads((Path(__file__).parent / "combinations.json").read_text())
COLUMNS = ("random_ltd", "fsdp", "zero", "bert")
NUM_STEPS = 6
SCRIPTS = {"gpt": pretrain_gpt, "bert": pretrain_bert}
STAGES = """
[[stages]]
share = 0.5
seq_length = 16
global_batch_size = 4
order = "shuffled"

[[stages]]
share = 0.5
order = "ascending"
lr_factor = 0.5

[data_efficiency.data_sampling.curriculum_learning]
curriculum_metrics.made_up = {{ clustering_type = "sorted", index_path = "{index}" }}
"""
OF_A_BERT = {"tokenizer_file": None, "split": SPLIT, "vocab_size": VOCAB_SIZE}
BLENDED = ("buckets", "mix")
# What a run without routes, on one process, says of each step too.
ALIKE = ("sequence_length", "difficulties", "pool_size", "consumed_samples", "corpus_tokens")


def learning_of(name, index):
    """The keys of `curriculum_learning` that a row is about."""
    sorted_by = {"made_up": sorting_metric(index)}
    window = length_metric(8, SEQ_LENGTH, steps=4)
    return {
        "pool": {"curriculum_metrics": {"made_up": metric(index, steps=4, window_size=40)}},
        "order": {
            "order": {"kind": "saw", "num_folds": 2, "num_buckets": 4},
            "curriculum_metrics": sorted_by,
        },
        "quadrants": {
            "order": {"kind": "sequence", "sequence": [2, 3, 0, 1]},
            "curriculum_metrics": {
                name: sorting_metric(index, num_bands=2) for name in ("made_up", "again")
            },
        },
        "buckets": {
            "order": {"num_buckets": 8, "pass_samples": 8 * NUM_STEPS},
            "curriculum_metrics": sorted_by,
        },
        "random_rank": {"random_rank": True, "curriculum_metrics": sorted_by},
        "attention_window": {"curriculum_metrics": {"attention_window": window}},
        "sliding_window": {"curriculum_metrics": {"sliding_window": window}},
        "constant_tokens": {
            "curriculum_metrics": {"seqlen_truncate": window | {"constant_tokens": True}}
        },
        "keep_end": {
            "curriculum_metrics": {"seqlen_truncate": window | {"keep_end_token": "auto"}}
        },
    }.get(name)


def section_of(name, index, *, drops):
    """The section of the JSON file."""
    learning = learning_of(name, index)
    sampling = {"curriculum_learning": {"enabled": True, **learning}} if learning else {}
    if name == "mix":
        sampling["mix"] = {"weights": [[0.7, 0.3], [0.2, 0.8]], "at_samples": [0, 24]}
    if name == "batch_size":
        stages = {"difficulty": [4, 8], "max_step": [3]}
        sampling["batch_size"] = {
            **{"min_value": 4, "max_value": 8, "counter": "steps", "lr_exponent": 0.5},
            **{"schedule_type": "fixed_discrete", "schedule_config": stages},
        }
    if name == "length_buckets":
        shares = {"token_shares": "uniform", "pass_steps": NUM_STEPS, "num_cycles": 2}
        sampling["length_buckets"] = {"odds": "grow_p2", **shares}
    if name == "feedback":
        policy = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 2, "delay_steps": 1}
        sampling["feedback"] = policy
    routing = {"random_ltd": random_ltd_section(total_steps=40)} if drops else {}
    return {"data_sampling": sampling, "data_routing": routing}


def flags_of(model, name, folder, workspace, *, drops=False, stage=None, **engine):
    """The command line of a row's run, with its files and its index in a folder."""
    folder.mkdir()
    corpus = str(workspace / ("sentences" if model == "bert" else "corpus_text_document"))
    words = ["0.7", corpus, "0.3", corpus] if name in BLENDED else [corpus]
    of_model = {"data_path": None, **(OF_A_BERT if model == "bert" else {})}
    plain = ["--data-path", *words, *training_flags(workspace, **of_model)]
    write_index(folder / "made_up", model, plain)
    content = {"data_efficiency": section_of(name, folder / "made_up", drops=drops)}
    content |= {} if stage is None else {"zero_optimization": {"stage": stage}}
    (folder / "config.json").write_text(json.dumps(content))
    stages = (f'architecture = "{model}"\n' + STAGES).format(index=folder / "made_up")
    (folder / "stages.toml").write_text(stages)
    flags = {
        "train_iters": NUM_STEPS,
        "micro_batch_size": 2,
        "save": folder / "run",
        "deepspeed_config": folder / "config.json",
        "eval_interval": NUM_STEPS,
        "data_efficiency_curriculum_learning": True if learning_of(name, folder) else None,
        "random_ltd": True if drops else None,
        "ema_decay": 0.9 if name == "average" else None,
        "selective_backprop": 0.5 if name == "selective_backprop" else None,
        "reset_attention_mask": True if name == "documents" else None,
        "shortest_piece": 8 if name == "length_buckets" else None,
        "config": folder / "stages.toml" if name == "stages" else None,
    }
    own = training_flags(workspace, **of_model, **flags, **engine)
    return ["--data-path", *words, *own]


def write_index(path, model, flags):
    """An index of random values over the samples of a run."""
    config = parse_run_config("", flags, architecture=model)
    dataset, _ = SCRIPTS[model].TASK.make_datasets(config)
    values = np.random.default_rng(0).random(len(dataset))
    DifficultyIndex.write(path, values, metric="made_up", dataset_identity=dataset.identity)


def lines_of(folder, kind="train"):
    return [line for line in log_lines(folder / "run") if line["kind"] == kind]


@pytest.fixture(scope="module")
def plain(workspace, tmp_path_factory):
    """Makes, once, a row's run on one process without anything beside it."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("plain") / name
            assert pretrain_gpt.main(flags_of("gpt", name, folder, workspace)) == 0
            made[name] = folder
        return made[name]

    return run


@pytest.mark.full
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", TABLE)
def test_each_pair_runs_or_is_refused(
    workspace, bert_workspace, plain, tmp_path, capsys, name, column
):
    folder, told = tmp_path / "a", TABLE[name].get(column)
    if column == "bert":
        flags = flags_of("bert", name, folder, bert_workspace)
        status = pretrain_bert.main(flags)
    elif column == "random_ltd":
        status = pretrain_gpt.main(flags_of("gpt", name, folder, workspace, drops=True))
    else:
        engine = {"fsdp": 3} if column == "fsdp" else {"deepspeed": True, "stage": 2}
        flags = flags_of("gpt", name, folder, workspace, **engine)
        output = finish(start(flags, 2), status=0 if told is None else 1)
        status = 0 if told is None else 1
    if told is not None:
        assert status == 1
        assert told in (capsys.readouterr().err if column in ("bert", "random_ltd") else output)
        return
    assert status == 0
    found = lines_of(folder)
    assert len(found) == (NUM_STEPS if name != "stages" else len(found))
    if column == "bert":
        assert all(np.isfinite(line["loss"]) for line in found)
        return
    expected = lines_of(plain(name))
    keys = [key for key in ALIKE if not (name == "feedback" and column == "random_ltd")]
    assert [[one.get(key) for key in keys] for one in found] == [
        [one.get(key) for key in keys] for one in expected
    ]
    if column == "random_ltd":
        assert all(one["kept_length"] < SEQ_LENGTH for one in found)
        assert [one["layer_tokens"] for one in found] != [one["layer_tokens"] for one in expected]
        return
    for one, other in zip(found, expected, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["flops"] == other["flops"]
    if name == "average":
        [one], [other] = (lines_of(each, "valid") for each in (folder, plain(name)))
        assert one["average_loss"] == pytest.approx(other["average_loss"], rel=1e-4)
        assert one["average_loss"] != one["loss"]
