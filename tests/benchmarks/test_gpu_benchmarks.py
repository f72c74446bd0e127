"""What measures on a GPU is tried on the CPU with tiny shapes: that it runs, and what it tells."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_random_ltd, gpu_throughput, gpu_timing, pretrain_throughput
from benchmarks.gpu_contestants import SHAPES, OurSteps, Variant, make_plain
from benchmarks.gpu_throughput import PEERS, VARIANTS, chosen
from benchmarks.gpu_timing import Budget, Timing, time_steps
from benchmarks.train_throughput import main as train_throughput
from megatron.model import output_loss

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
TINY = SHAPES["tiny"]


def gradients(variant: Variant) -> dict[str, torch.Tensor]:
    """Of one step, by weight; the step's own update takes none."""
    contestant = OurSteps(TINY, variant, CPU)
    contestant._loss().backward()
    return {name: weight.grad.float() for name, weight in contestant.model.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "whole"},
        {"weights": "bf16"},
        {"residual": "bf16"},
        {"chunk_logits": 2**12},
        {"attention": "flash"},
    ],
    ids=str,
)
def test_variants_compute_the_same_gradient_within_half_precision(changes):
    expected = gradients(Variant())
    for name, found in gradients(replace(Variant(), **changes)).items():
        assert (found - expected[name]).norm() < 0.05 * expected[name].norm(), name


@pytest.mark.parametrize(
    "changes",
    [{}, {"weights": "bf16"}, {"optimizer": "foreach"}, {"clip": "waiting"}, {"clip": "on device"}],
    ids=str,
)
def test_each_variant_learns(changes):
    contestant = OurSteps(TINY, replace(Variant(), **changes), CPU)
    with torch.no_grad():
        before = contestant._loss().item()
    for _ in range(20):
        contestant.step()
    with torch.no_grad():
        assert contestant._loss().item() < before - 0.02


def test_a_master_copy_keeps_what_bfloat16_would_lose():
    contestant = OurSteps(TINY, replace(Variant(), weights="bf16"), CPU)
    contestant.step()
    for master, weight in zip(contestant.masters, contestant.model.parameters(), strict=True):
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, master.to(torch.bfloat16))
    assert any((master != master.to(torch.bfloat16)).any() for master in contestant.masters)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_the_plain_script_is_the_same_function():
    """As the peer's own test says, ours is GPT-2: weights of the one give the other's loss."""
    ours = OurSteps(TINY, Variant(), CPU)
    plain = make_plain(TINY, CPU)
    model = plain.loss._orig_mod
    names = {
        "norm_1": "input_layernorm",
        "norm_2": "post_attention_layernorm",
        "join": "self_attention.dense",
        "heads": "self_attention.query_key_value",
        "widen": "mlp.dense_h_to_4h",
        "narrow": "mlp.dense_4h_to_h",
    }
    source = ours.model.state_dict()
    target = {
        "words.weight": source["language_model.word_embeddings.weight"],
        "output.weight": source["language_model.word_embeddings.weight"],
        "positions.weight": source["language_model.position_embeddings.weight"],
    }
    for kind in ("weight", "bias"):
        target[f"norm.{kind}"] = source[f"language_model.final_layernorm.{kind}"]
        for number in range(TINY.num_layers):
            for theirs, mine in names.items():
                name = f"language_model.layers.{number}.{mine}.{kind}"
                target[f"blocks.{number}.{theirs}.{kind}"] = source[name]
    model.load_state_dict(target)
    expected = ours.model(ours.tokens, labels=ours.labels) / ours.labels.numel()
    torch.testing.assert_close(model(ours.tokens, ours.labels), expected)


def test_the_chunk_size_is_put_back():
    usual = output_loss.ACCELERATOR_CHUNK_LOGITS
    OurSteps(TINY, Variant(chunk_logits=2**10), CPU).step()
    assert usual == output_loss.ACCELERATOR_CHUNK_LOGITS


def test_steps_are_counted_after_the_warm_up():
    calls = []
    timing = time_steps(lambda: calls.append(0), CPU, num_steps=5, num_warmup_steps=2)
    assert len(calls) == 7
    assert len(timing.seconds) == 5
    assert timing.peak_bytes > 0


def test_median_and_spread():
    timing = Timing(seconds=(1.0, 2.0, 3.0, 4.0, 10.0), warmup_seconds=0.0, peak_bytes=0)
    assert timing.median == 3.0
    assert timing.spread == pytest.approx(5.5 / 3)


def test_what_the_time_does_not_suffice_for_is_said(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(gpu_timing.time, "monotonic", lambda: now[0])
    budget = Budget(100.0)
    assert budget.allows("first", "short", 20.0)
    now[0] += 40.0
    assert not budget.allows("long", "long", 70.0)
    assert budget.allows("second", "short", 20.0)
    now[0] += 40.0
    assert not budget.allows("third, which would take 40 s too", "short", 20.0)
    assert budget.left_out == ["long", "third, which would take 40 s too"]


def test_contestants_are_found_by_name_and_group():
    assert chosen("final") == ["best", *PEERS]
    assert chosen("eager; layers;eager") == ["eager", "layers"]
    assert set(chosen("all")) == {*VARIANTS, *PEERS}
    with pytest.raises(ValueError, match="--contestants has 'fastest': one of final; variants"):
        chosen("fastest")


def test_without_transformers_its_models_are_left_out(monkeypatch):
    monkeypatch.setattr(gpu_throughput.importlib.util, "find_spec", lambda name: None)
    assert chosen("final") == ["best", "plain script"]


def test_one_contestant_that_fails_does_not_cost_the_others(monkeypatch, tmp_path, capsys):
    def failing(shape, device):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(PEERS, "plain script", failing)
    out = tmp_path / "results" / "out.jsonl"
    flags = ["--device", "cpu", "--shape", "tiny", "--steps", "1", "--out", str(out)]
    assert train_throughput([*flags, "--contestants", "plain script;eager"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    errors = [line.get("error") for line in lines if "contestant" in line]
    assert errors == ["RuntimeError: no such kernel", None, "RuntimeError: no such kernel"]
    assert lines[-1] == {"left_out": []}
    assert "no such kernel" in capsys.readouterr().out.splitlines()[-1]
    assert train_throughput([*flags, "--contestants", "plain script"]) == 1


def test_one_that_does_not_fit_gets_half_the_rows(monkeypatch):
    def hungry(shape, device):
        if shape.num_rows > 1:
            raise torch.cuda.OutOfMemoryError
        return OurSteps(shape, Variant(), device)

    monkeypatch.setitem(PEERS, "plain script", hungry)
    options = gpu_throughput.argparse.Namespace(steps=1, profile=True)
    found = gpu_throughput.measure("plain script", TINY, CPU, options)
    assert found["rows"] == 1
    assert 0 < len(found["kernel_milliseconds"]) <= 25


def test_break_even_is_where_the_line_meets_the_plain_time():
    rows = [{"kept_percent": kept, "step_seconds": 1 + kept / 100} for kept in (25, 50, 75)]
    plain = {"kept_percent": None, "step_seconds": 1.9}
    assert gpu_random_ltd.break_even_percent([plain, *rows]) == 90.0
    same = [row | {"step_seconds": 1.0} for row in rows]
    assert gpu_random_ltd.break_even_percent([plain, *same]) is None


def test_kept_lengths_are_dynamic_unless_told_otherwise():
    for told in (False, True):
        steps = gpu_random_ltd.DroppingSteps(TINY, Variant(), CPU, 50, compile_kept_lengths=told)
        steps.step()
        positions = steps.router.positions
        assert positions.shape[2] == TINY.sequence_length // 2
        assert hasattr(positions, "_dynamo_weak_dynamic_indices") != told


def test_speed_is_that_of_the_last_quarter_of_the_steps():
    records = [
        {
            "kind": "train",
            "tokens_per_second": number,
            "step_seconds": 1 / number,
            "sequence_length": 16 if number < 5 else 32,
            "loss": 2.0,
        }
        for number in range(1, 9)
    ]
    found = pretrain_throughput.figures("plain", [{"kind": "start"}, *records])
    assert found["tokens_per_second"] == 8
    assert found["slowest_step_by_length"] == {16: 1.0, 32: 0.2}


@pytest.mark.full
def test_one_script_measures_everything(tmp_path):
    script = ["bash", str(ROOT / "benchmarks" / "on_gpu.sh"), str(tmp_path / "results")]
    environment = os.environ | {"TINY": "1", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "results").glob("*.jsonl")
    }
    assert found.keys() == {"throughput", "tiny", "random_ltd", "pretrain"}
    for lines in found.values():
        assert lines[-1] == {"left_out": []}
        assert not any("error" in line for line in lines)
    assert [line["run"] for line in found["pretrain"][1:-1]] == list(pretrain_throughput.RUNS)
    assert found["pretrain"][3]["of_plain"] > 0


def test_an_unknown_part_is_refused(tmp_path):
    script = ["bash", str(ROOT / "benchmarks" / "on_gpu.sh"), str(tmp_path), "speed"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no part is called speed" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_timed_by_its_events():
    device = torch.device("cuda")
    left = torch.randn(2048, 2048, device=device)
    timing = time_steps(lambda: torch.mm(left, left), device, num_steps=5)
    assert 2 * 2048**3 / timing.median < 2e15
    assert timing.peak_bytes >= 2 * left.nbytes
    assert gpu_timing.describe_machine(device, matrix_size=1024)["copy_gb_per_second"] > 0
