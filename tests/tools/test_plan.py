import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from data_efficiency import DifficultyIndex
from data_efficiency.accounting import StepShape
from data_efficiency.plan_memory import Way, layer_numbers, memory_of
from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.optional_kernels import choose_attention
from megatron.run_state import model_shape, numbers_outside_layers
from tests.data_efficiency.test_plan import config, length_metric
from tests.json_sections import metric, random_ltd
from tests.megatron.small_models import MODERN
from tools import plan, study

GLUE = Path(plan.__file__).parents[1] / "examples_deepspeed/data_efficiency/bert/finetune/glue.toml"
MODEL_FLAGS = ["--num-layers", "4", "--hidden-size", "8", "--num-attention-heads", "2"]
RUN_FLAGS = [*MODEL_FLAGS, "--seq-length", "32", "--train-steps", "20"]


@pytest.fixture
def path(tmp_path):
    content = config({"voc": metric(), "seqlen_truncate": length_metric()}, random_ltd())
    (tmp_path / "config.json").write_text(json.dumps(content))
    return tmp_path / "config.json"


def test_table_saving_and_warnings(path, capsys):
    flags = [str(path), *RUN_FLAGS, "--num-samples", "950", "--rows", "3", "--lr-decay", "5=steps"]
    assert plan.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", lines[0].strip())[:5] == [
        "step",
        "voc",
        "seqlen_truncate",
        "pool",
        "% of data",
    ]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "10", "20"]
    first = lines[1].split()
    assert first[1:3] == ["35", "6"]
    assert lines[4] == ""
    assert lines[5].split() == ["20", "steps", "this", "plan", "baseline", "saved"]
    assert lines[-3].startswith("warning: the learning rate outruns the curriculum")


def test_what_follows_from_the_data_alone_is_said(capsys):
    flags = ["--config", "gpt_baseline_300b", "--num-samples", "1000", "--eod-mask-loss"]
    assert plan.main(flags) == 0
    assert "\n--eod-mask-loss: how many documents end is not planned" in capsys.readouterr().out
    assert plan.main([*flags[:-1], "--reset-attention-mask"]) == 0
    assert "\n--reset-attention-mask: how long documents are is not" in capsys.readouterr().out


def test_indexes_from_the_command_line(path, tmp_path, capsys):
    DifficultyIndex.write(
        tmp_path / "voc", np.arange(800), metric="voc", dataset_identity={"name": "x"}
    )
    assert plan.main([str(path), *RUN_FLAGS, "--index", f"voc={tmp_path / 'voc'}"]) == 0
    assert "800" in capsys.readouterr().out
    assert plan.main([str(path), *RUN_FLAGS, "--index", "vocab=x"]) == 1
    assert (
        "must be METRIC=FOLDER with one of the metrics that select samples: voc"
        in capsys.readouterr().err
    )


def test_picture(path, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plan.png"
    flags = [str(path), *RUN_FLAGS, "--num-samples", "950", "--picture", str(picture)]
    assert plan.main(flags) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr-decay", "5=epochs", "--num-samples", "9"], "AMOUNT=UNIT"),
        (
            ["--num-samples", "950", "--global-batch-size", "8"],
            "train_batch_size is 16 in the JSON",
        ),
        (["--num-samples", "950", "--vocab-size", "0"], "--vocab-size is 0"),
        ([], "nowhere"),
    ],
)
def test_bad_input_is_one_line(path, refused, flags, message):
    assert message in refused(plan.main, [path, *RUN_FLAGS, *flags])


def test_a_run_file_is_planned_as_a_study_plans_it(tmp_path, capsys):
    text = '[study]\nbase = "base.toml"\n[arms.baseline]\n[arms.small.training]\nlr = 1e-4\n'
    (tmp_path / "study.toml").write_text(text)
    base = '[data]\ndata_path = ["x"]\nseq_length = 64\n[training]\ntrain_tokens = 4096\n'
    (tmp_path / "base.toml").write_text(base)
    assert study.main(["plan", str(tmp_path / "study.toml")]) == 0
    _, _, row, *_ = capsys.readouterr().out.splitlines()
    steps, corpus, layers, flops = row.split(" | ")[4:8]
    flags = ["--config", str(tmp_path / "base.toml"), "--num-samples", "100", "--rows", "2"]
    assert plan.main([*flags, "--lr", "1e-4"]) == 0
    *table, last, _, _ = capsys.readouterr().out.splitlines()
    assert last == (
        f"whole run: {steps} steps, {corpus} corpus tokens, {layers} layer tokens, {flops} FLOPs"
    )
    assert any(line.split()[:3] == ["corpus", "tokens", corpus] for line in table)
    assert any(line.split()[:3] == ["model", "FLOPs", flops] for line in table)


def test_a_shipped_recipe_needs_no_data_to_be_planned(capsys, refused):
    assert (
        plan.main(["--config", "gpt_cl_ltd_300b", "--num-samples", "100000000", "--rows", "2"]) == 0
    )
    assert "whole run: 377,232 steps, 340G corpus tokens" in capsys.readouterr().out
    assert "is of a" not in refused(plan.main, ["--config", "gpt_cl_ltd_300"])
    glue = ["--config", str(GLUE), "--task", "x"]
    assert "nothing can be planned" in refused(plan.main, glue)


def test_what_was_measured_to_pay_is_where_the_plan_says(path, capsys):
    assert plan.main([str(path), *RUN_FLAGS, "--num-samples", "950"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(plan.GUIDE)
    assert (Path(plan.__file__).parents[1] / plan.GUIDE).is_file()


def kept_for_backward(config, precision, num_rows, length):
    """Bytes of all tensors that a GPT's forward pass leaves for its backward pass, weights apart."""
    torch.manual_seed(0)
    model = GPTModel(config)
    choose_attention(model, "sdpa")
    if precision == "half_weights":
        model.to(torch.bfloat16)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens = torch.randint(0, config.vocab_size, (num_rows, length))
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"),
    ):
        model(tokens, labels=tokens)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "half", "half_weights"])
@pytest.mark.parametrize("modern", [{}, MODERN])
@pytest.mark.parametrize("sizes", [(4, 64, 128, 2), (6, 128, 256, 4), (3, 256, 64, 8)])
def test_planned_activations_are_what_autograd_keeps(sizes, modern, precision):
    """Within 5 per cent, whether layers are recomputed or not; what is in memory for a moment apart."""
    num_layers, hidden_size, length, num_rows = sizes
    for recomputes in (False, True):
        config = ModelConfig(
            num_layers=num_layers,
            hidden_size=hidden_size,
            num_attention_heads=4,
            vocab_size=1024,
            max_position_embeddings=512,
            recompute_activations=recomputes,
            **modern,
        )
        shape, step = model_shape(config), StepShape(num_rows=num_rows, sequence_length=length)
        settings = {"precision": precision, "num_processes": 1}

        def planned(layers, shape=shape, step=step, settings=settings, recomputes=recomputes):
            way = Way(stage=0, recomputes=recomputes)
            model = dataclasses.replace(shape, num_layers=layers)
            return memory_of(model, step, way, **settings).activations

        tokens = num_rows * length
        moment = logits = tokens * 1024 * (8 if precision == "fp32" else 6)
        if recomputes:
            # Or the layer that is recomputed, where it takes more: none is at the end of the forward pass.
            whole = Way(stage=0, recomputes=False)
            without = memory_of(
                dataclasses.replace(shape, num_layers=0), step, whole, **settings
            ).activations
            moment += planned(0) - without
            assert moment >= logits
        found = kept_for_backward(config, precision, num_rows, length)
        assert planned(num_layers) - moment == pytest.approx(found, rel=0.05)
        weights = sum(weight.numel() for weight in GPTModel(config).parameters())
        numbers = num_layers * layer_numbers(shape) + numbers_outside_layers(config)
        assert numbers == pytest.approx(weights, rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", ["fp32", "half"])
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("modern", [{}, MODERN])
def test_planned_memory_is_the_peak_of_a_gpu(modern, recomputes, precision):
    """Of the second step of two micro-batches: weights, gradients, optimizer and activations at once."""
    config = ModelConfig(
        num_layers=8,
        hidden_size=768,
        num_attention_heads=12,
        vocab_size=8192,
        max_position_embeddings=1024,
        recompute_activations=recomputes,
        **modern,
    )
    before = torch.cuda.memory_allocated()
    model = GPTModel(config).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(0, config.vocab_size, (16, 1024), device="cuda")
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "half"):
                loss = model(tokens, labels=tokens)
            loss.backward()
            del loss
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    planned = memory_of(
        model_shape(config),
        StepShape(num_rows=16, sequence_length=1024),
        Way(stage=0, recomputes=recomputes),
        precision=precision,
        num_processes=1,
        outside=numbers_outside_layers(config),
    )
    ratio = (torch.cuda.max_memory_allocated() - before) / planned.total
    print(f"measured / planned: {ratio:.3f}")
    # In float32 PyTorch has no fused attention for grouped keys and keeps all scores, which nobody plans for.
    most = 1.7 if modern and precision == "fp32" else 1.1
    least = 0.9 if not (modern or recomputes) else 0.6
    assert least < ratio < most


def test_memory_of_a_recipe(capsys):
    flags = ["--config", "gpt_cl_ltd_300b", "--num-samples", "1000000", "--rows", "2"]
    flags += ["--data-parallel-size", "64"]
    assert plan.main([*flags, "--device-memory", "20e9"]) == 0
    assert "the first that fits 20G: FSDP2, stage 2, layers recomputed" in capsys.readouterr().out


def test_meshes_are_planned_for_a_model_that_can_be_cut(capsys):
    flags = ["--config", "gpt_cl_ltd_300b", "--num-samples", "1000000", "--rows", "2"]
    flags += ["--data-parallel-size", "8", "--device-memory", "8.95e9"]
    assert plan.main(flags) == 0
    assert (
        "the first that fits 8.95G: TP 2 x FSDP2, stage 2, layers recomputed"
        in capsys.readouterr().out
    )
    # Half a head is none.
    assert plan.main([*flags, "--num-key-value-heads", "1"]) == 0
    found = capsys.readouterr().out
    assert "FSDP2" in found
    assert "TP" not in found


def test_a_run_with_tensor_parallelism_is_planned_as_it_runs(capsys):
    """Kept lengths are those that two processes share evenly, and each process more has its mesh."""
    flags = ["--config", "gpt_cl_ltd_300b", "--num-samples", "1000000", "--rows", "2"]
    flags += ["--no-deepspeed", "--no-fp16", "--bf16", "--tensor-model-parallel-size", "2"]
    assert plan.main([*flags, "--device-memory", "80e9"]) == 0
    found = capsys.readouterr().out
    assert "TP 2, layers recomputed" in found
    assert "FSDP2, stage 2" in found
    assert "TP 4" not in found


@pytest.mark.parametrize("bytes_of_it", ["-5", "nan"])
def test_a_device_has_some_memory(refused, bytes_of_it):
    flags = ["--config", "gpt_cl_ltd_300b", "--num-samples", "1000000", "--rows", "2"]
    found = refused(plan.main, [*flags, "--device-memory", bytes_of_it])
    assert f"--device-memory is {bytes_of_it}: must be a number of bytes above 0" in found
