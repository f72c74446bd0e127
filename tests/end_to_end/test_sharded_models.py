"""FSDP2 trains our models as one process does: GPTs and a BERT, curriculum and random-LTD, 20 steps.

Sums in another order are all that may differ: stage 0 on as many processes, DDP, is within the same bounds.
"""

import json

import pytest
from safetensors.torch import load_file

from tests.end_to_end import bert_runs
from tests.end_to_end.engine_runs import NUM_STEPS, finish, flags_of, log_lines, start

pytestmark = pytest.mark.timeout(1800)
SIZES = [2, pytest.param(4, marks=pytest.mark.full)]
STAGES = [3, *(pytest.param(stage, marks=pytest.mark.full) for stage in (2, 0))]
MODERN = {
    "use_rotary_position_embeddings": True,
    "normalization": "rmsnorm",
    "swiglu": True,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "disable_bias_linear": True,
    "untie_embeddings_and_output_weights": True,
}
MODELS = {"learned": {}, "modern": MODERN, "bert": {}}
PRECISIONS = {
    "fp32": {},
    "bf16": {"bf16": True},
    "bf16_weights": {"bf16": True, "bf16_weights": True},
    "recomputed": {"recompute_activations": True},
    "muon": {"optimizer": "muon"},
}
# Muon's iteration is in bfloat16, too.
TOLERANCE = {"bf16": 1e-3, "bf16_weights": 1e-3, "muon": 2e-4}
QUICK = [("modern", "fp32"), ("bert", "fp32")]
RUNS = [*QUICK, ("learned", "fp32"), *(("modern", one) for one in PRECISIONS if one != "fp32")]
COUNTERS = ("corpus_tokens", "loss_tokens", "layer_tokens", "flops", "consumed_samples")


@pytest.fixture(scope="module")
def trained(workspace, bert_workspace, write_config, tmp_path_factory):
    """(processes, stage, run) -> the folder of it and others on so many processes; stage 0: all weights on each."""
    base, done = tmp_path_factory.mktemp("sharded_models"), {}
    bert_config = bert_runs.write_config(
        bert_workspace / "sharded.json", bert_runs.composed_metrics(bert_workspace)
    )

    def flags(model, precision, size, stage, folder):
        settings = MODELS[model] | PRECISIONS[precision] | ({"fsdp": stage} if stage else {})
        if model != "bert":
            return flags_of(workspace, write_config(), folder, size, **settings)
        saving = {"save": folder, "train_iters": NUM_STEPS, "micro_batch_size": 2}
        return bert_runs.bert_flags(bert_workspace, bert_config, **saving, **settings)

    def train(size, stage, run):
        chosen = QUICK if run in QUICK else RUNS[len(QUICK) :]
        key = size, stage, len(chosen)
        if key in done:
            return done[key]
        folder = base / "_".join(map(str, key))
        runs = []
        for model, precision in chosen:
            script = bert_runs.SCRIPT if model == "bert" else "pretrain_gpt.py"
            save = folder / f"{model}_{precision}"
            save.mkdir(parents=True)
            runs.append([script, flags(model, precision, size, stage, save)])
        (folder / "runs.json").write_text(json.dumps(runs))
        finish(start([str(folder / "runs.json")], size, "tests/end_to_end/many_runs.py"))
        done[key] = folder
        return folder

    return train


def gap_of_losses(folder, expected, run, expected_run=None):
    left, right = (
        [line["loss"] for line in log_lines(each) if line["kind"] in ("train", "valid")]
        for each in (folder / run, expected / (expected_run or run))
    )
    assert len(left) == len(right) > NUM_STEPS
    return max(abs(one - other) for one, other in zip(left, right, strict=True))


def gap_of_gradients(folder, expected, run):
    left, right = (load_file(each / run / "gradients.safetensors") for each in (folder, expected))
    assert {name: one.shape for name, one in left.items()} == {
        name: one.shape for name, one in right.items()
    }
    return max(float((one - right[name]).abs().max()) for name, one in left.items())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("model", "precision"),
    [*QUICK, *(pytest.param(*run, marks=pytest.mark.full) for run in RUNS[len(QUICK) :])],
)
def test_it_trains_as_one_process(trained, size, stage, model, precision):
    run = f"{model}_{precision}"
    found, expected = (trained(*way, (model, precision)) for way in ((size, stage), (1, 0)))
    assert gap_of_losses(found, expected, run) <= TOLERANCE.get(precision, 2e-6)
    assert gap_of_gradients(found, expected, run) <= (1e-3 if "bf16" in precision else 1e-6)
    left, right = (
        [line for line in log_lines(each / run) if line["kind"] == "train"]
        for each in (found, expected)
    )
    assert len({line["sequence_length"] for line in right}) > 2
    assert len({line["kept_length"] for line in right}) > 2
    for one, other in zip(left, right, strict=True):
        assert {name: one[name] for name in COUNTERS} == {name: other[name] for name in COUNTERS}
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)


def test_a_checkpoint_names_the_users_class(trained):
    checkpoint = trained(2, 3, ("bert", "fp32")) / "bert_fp32" / f"global_step{NUM_STEPS}"
    assert json.loads((checkpoint / "state.json").read_text())["architecture"] == "BertModel"
