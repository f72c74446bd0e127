import shutil

import pytest
import torch

import pretrain_gpt
from megatron.optimizer import make_optimizer
from tests.megatron.tiny_pretraining import flags_of, make_run, settings, write_corpus


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_muon_has_the_matrices_of_the_layers_alone(prefix):
    run = make_run(settings(prefix))
    model = run.engine.module
    config = settings(prefix, "--optimizer", "muon", "--lr", "0.01").training
    optimizer = make_optimizer(model, config)
    by_muon, *by_adamw = optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].split(".", 3)[3] for p in by_muon["params"]} == {
        f"{name}.weight"
        for name in (
            *("self_attention.query_key_value", "self_attention.dense"),
            *("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        )
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.01, 0.0]
    matrix = model.layers[0].self_attention.dense.weight
    before = matrix.detach().clone()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for group in optimizer.param_groups:
        group["lr"] = 0.02  # as the schedule sets it
    optimizer.step()
    # Nearly orthogonal: singular values about 0.2 sqrt(32), those of the gradient from 0 to 11.
    values = torch.linalg.svdvals((before * (1 - 0.02 * 0.01) - matrix).detach() / 0.02)
    assert 0.3 < float(values.min()) / (0.2 * 32**0.5) < float(values.max()) / (0.2 * 32**0.5) < 1.3
    assert {frozenset(state) for state in optimizer.state.values()} == {
        frozenset({"momentum_buffer"}),
        frozenset({"step", "exp_avg", "exp_avg_sq"}),
    }
    assert by_adamw[0]["params"][0] is model.language_model.word_embeddings.weight


def train(prefix, folder, *flags):
    more = ("--save", str(folder), "--save-interval", "3", "--lr", "0.01", "--no-evaluate")
    return pretrain_gpt.main(flags_of(prefix, *more, *flags))


def test_a_resumed_run_is_the_same_to_the_bit_and_another_optimizer_is_refused(
    prefix, tmp_path, capsys
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(prefix, whole, "--optimizer", "muon") == 0
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "global_step6")
    (parts / "latest").write_text("global_step3\n")
    assert train(prefix, parts, "--load", str(parts)) == 1
    assert "another optimizer saved it" in capsys.readouterr().err
    assert train(prefix, parts, "--load", str(parts), "--optimizer", "muon") == 0
    files = sorted(path.name for path in (whole / "global_step6").glob("*.safetensors"))
    assert len(files) == 2
    for name in files:
        found, wanted = (run / "global_step6" / name for run in (parts, whole))
        assert found.read_bytes() == wanted.read_bytes()


def test_deepspeed_is_refused(prefix, tmp_path, capsys):
    assert train(prefix, tmp_path / "run", "--optimizer", "muon", "--deepspeed") == 1
    assert (
        "--optimizer is 'muon': DeepSpeed's optimizers keep flat pieces" in capsys.readouterr().err
    )
