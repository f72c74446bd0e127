"""Processes that share each layer and each row train our models as one process does: GPTs and a BERT, curriculum and
random-LTD, 20 steps, alone and on a mesh with FSDP2 or with replicas.

Sums in another order are all that may differ.
"""

import json

import pytest
from safetensors.torch import load_file

from data_efficiency.config import read_json
from data_efficiency.engine.tensor_parallel import RowOrders
from megatron.config import ModelConfig, TrainingConfig
from megatron.model.bert_model import BertModel
from megatron.model.gpt_model import GPTModel
from megatron.model.tensor_parallel import tensor_parallel
from megatron.optimizer import make_optimizer
from tests.end_to_end import bert_runs
from tests.end_to_end.engine_runs import (
    NUM_STEPS,
    assert_equal_runs,
    finish,
    flags_of,
    log_lines,
    start,
)
from tests.end_to_end.test_documents import DOCUMENTS
from tests.end_to_end.test_plan import assert_planned_is_logged
from tests.end_to_end.test_sharded_models import COUNTERS, MODELS, gap_of_losses

pytestmark = pytest.mark.timeout(1800)
WAYS = [(2, 2, 0), (4, 2, 2), (4, 2, 3), (4, 2, 0)]
"""Processes, those that share each layer, stage of FSDP2 (0: replicas)."""
RUNS = {
    "learned": {},
    "modern": {},
    "bert": {},
    "bert_after": {"normalization_position": "after", "gelu": "exact"},
    "modern_bf16": {"bf16": True},
    "modern_fp16": {"fp16": True},
    "modern_recomputed": {"recompute_activations": True},
    "learned_documents": DOCUMENTS,
    "modern_muon": {"optimizer": "muon"},
}
TOLERANCE = {"modern_bf16": 1e-3, "modern_fp16": 1e-3, "modern_muon": 2e-4}
"""Of losses; elsewhere 2e-6."""
ALONE = 1, 1, 0


def gap_of_checkpoints(folder, expected, kind):
    """The largest difference of any number; names, shapes and types are equal."""
    left, right = (
        load_file(each / f"global_step{NUM_STEPS}" / f"{kind}.safetensors")
        for each in (folder, expected)
    )
    assert {name: (one.shape, one.dtype) for name, one in left.items()} == {
        name: (one.shape, one.dtype) for name, one in right.items()
    }
    return max(float((one - right[name]).abs().max()) for name, one in left.items())


def test_two_processes_that_share_each_layer_train_as_one(
    workspace, write_config, one_process, tmp_path
):
    flags = {"micro_batch_size": 4, "tensor_model_parallel_size": 2}
    finish(start(flags_of(workspace, write_config(), tmp_path, **flags), 2))
    assert_equal_runs(tmp_path, one_process)
    assert (
        gap_of_losses(tmp_path.parent, one_process.parent, tmp_path.name, one_process.name) < 2e-6
    )
    assert gap_of_checkpoints(tmp_path, one_process, "model") < 1e-5


@pytest.mark.full
def test_rounded_lengths_are_planned_logged_and_kept_at_a_resume(
    workspace, composed_config, tmp_path
):
    """Odd kept lengths are asked for; two processes share even ones, and one process would keep others."""
    content = read_json(composed_config)
    content |= {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    schedule = content["data_efficiency"]["data_routing"]["random_ltd"]["random_ltd_schedule"]
    schedule |= {
        "min_value": 3,
        "max_value": 31,
        "schedule_config": {"require_steps": 14, "seq_per_step": 3},
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps(content))
    flags = flags_of(workspace, config, tmp_path / "run", micro_batch_size=4)
    finish(start([*flags, "--tensor-model-parallel-size", "2"], 2))
    planned = content | {"tensor_parallel": {"autotp_size": 2}}
    plan = assert_planned_is_logged(planned, tmp_path / "run")
    kept = {stretch.shape.kept_length for stretch in plan.stretches}
    assert len(kept) > 4
    assert {length % 2 for length in kept} == {0}
    said = finish(start([*flags, "--load", str(tmp_path / "run")]), status=1)
    assert "random_ltd.row_shares is None here and 2 there" in said


@pytest.fixture(scope="module")
def trained(workspace, bert_workspace, write_config, tmp_path_factory):
    """(processes, those that share each layer, stage) -> the folder with a folder for each run."""
    base, done = tmp_path_factory.mktemp("tensor_parallel"), {}
    metrics = bert_runs.composed_metrics(bert_workspace)
    for metric in metrics.values():
        metric["length_multiple"] = 2
    bert_config = bert_runs.write_config(bert_workspace / "shared.json", metrics)

    def flags(run, size, share, stage, folder):
        model = run.split("_")[0]
        settings = MODELS[model] | RUNS[run] | ({"fsdp": stage} if stage else {})
        settings |= {"tensor_model_parallel_size": share} if share > 1 else {}
        if model != "bert":
            settings |= {"micro_batch_size": 4 * share // size}
            return flags_of(workspace, write_config(), folder, **settings)
        saving = {"save": folder, "train_iters": NUM_STEPS, "micro_batch_size": 2}
        return bert_runs.bert_flags(bert_workspace, bert_config, **saving, **settings)

    def train(way):
        if way in done:
            return done[way]
        folder, runs = base / "_".join(map(str, way)), []
        for run in RUNS:
            script = bert_runs.SCRIPT if run.startswith("bert") else "pretrain_gpt.py"
            (folder / run).mkdir(parents=True)
            runs.append([script, flags(run, *way, folder / run)])
        (folder / "runs.json").write_text(json.dumps(runs))
        finish(start([str(folder / "runs.json")], way[0], "tests/end_to_end/many_runs.py"))
        done[way] = folder
        return folder

    return train


def gap_of_gradients(folder, expected, share):
    """The largest difference of any number of the first step's gradients."""
    state = json.loads((expected / f"global_step{NUM_STEPS}" / "state.json").read_text())
    classes = {one.__name__: one for one in (GPTModel, BertModel)}
    model = classes[state["architecture"]](ModelConfig(**state["model"]))
    orders = RowOrders(tensor_parallel(model).fused, share)
    names = {id(weight): name for name, weight in model.named_parameters()}
    chosen = state["settings"]["training"]["optimizer"]
    optimizer = make_optimizer(model, TrainingConfig(train_iters=1, optimizer=chosen))
    in_order = [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]
    left, right = (load_file(each / "gradients.safetensors") for each in (folder, expected))
    assert len(left) == len(right) == len(in_order)
    # What is several matrices in one has its rows in the order of the processes.
    return max(
        float((orders.restored(name, left[str(number)]) - right[str(number)]).abs().max())
        for number, name in enumerate(in_order)
    )


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("run", RUNS)
def test_a_mesh_trains_as_one_process(trained, way, run):
    found, expected = trained(way), trained(ALONE)
    is_half = "16" in run
    assert gap_of_losses(found, expected, run) <= TOLERANCE.get(run, 2e-6)
    gap = gap_of_gradients(found / run, expected / run, way[1])
    assert gap <= (1e-3 if is_half else 1e-6)
    left, right = (
        [line for line in log_lines(each / run) if line["kind"] == "train"]
        for each in (found, expected)
    )
    assert len({line["sequence_length"] for line in right}) > 2
    assert len({line["kept_length"] for line in right}) > 2
    for one, other in zip(left, right, strict=True):
        # Of pairs among kept tokens of documents each micro-batch has a share, in whole numbers.
        assert one["flops"] == pytest.approx(
            other["flops"], rel=1e-5 if "documents" in run else 0.0, abs=0.0
        )
        counts = [name for name in COUNTERS if name != "flops"]
        assert {name: one[name] for name in counts} == {name: other[name] for name in counts}
        assert one["skipped_steps"] == other["skipped_steps"]
        rounding = 1e-2 if is_half else 1e-3 if run in TOLERANCE else 1e-5
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=rounding)
    for kind in ("model", "optimizer"):
        gap = gap_of_checkpoints(found / run, expected / run, kind)
        assert gap < (5e-3 if run in TOLERANCE else 5e-5), kind
