import pytest
import torch
from safetensors.torch import load_file, save_file

from data_efficiency import initialize
from data_efficiency.files.result_folder import file_entry, read_manifest, write_manifest
from megatron.checkpoint.engine_state import agreed_checkpoint, load_engine, save_engine
from megatron.checkpoint.files import read_state


def make_engine(optimizer=torch.optim.SGD):
    return initialize(
        model=torch.nn.Linear(2, 1),
        optimizer=lambda parameters: optimizer(parameters, lr=0.1),
        config={"train_batch_size": 1},
    )[0]


def save_steps(folder, num_steps, **settings):
    engine = make_engine(**settings)
    for _ in range(num_steps):
        engine.train_step(
            [torch.ones(1, 2)], lambda rows: engine(rows).sum(), len, shape=lambda rows: (1, 2)
        )
        save_engine(engine, folder, {"mine": engine.counters.steps}, keep_last=0)
    return engine


def test_an_engine_goes_on(tmp_path):
    engine, other = save_steps(tmp_path, 2), make_engine()
    found = agreed_checkpoint(other, tmp_path, moves_damaged=False, say=print)
    state = read_state(found)
    assert state["mine"] == 2
    load_engine(other, found, state["engine"])
    assert torch.equal(other.module.weight, engine.module.weight)
    assert other.counters == engine.counters


STATE = {
    f"{name}.{kind}" for name in ("weight", "bias") for kind in ("exp_avg", "exp_avg_sq", "step")
}


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (set(), "holds 0 tensors, but 6 were saved"),
        ({name for name in STATE if name.startswith("weight")}, "holds 3 tensors, but 6"),
        (STATE - {"bias.exp_avg"}, "holds 5 tensors, but 6"),
        (STATE - {"bias.exp_avg"} | {"weight.other"}, "the optimizer's state of "),
        (STATE - {"bias.exp_avg"} | {"other.exp_avg"}, "another model: it has other"),
        (STATE, None),
    ],
)
def test_an_optimizers_file_without_some_of_its_tensors_is_refused(tmp_path, kept, message):
    save_steps(tmp_path, 1, optimizer=torch.optim.AdamW)
    checkpoint = tmp_path / "global_step1"
    manifest = read_manifest(checkpoint, "checkpoint", 1)
    file = checkpoint / "optimizer.safetensors"
    tensors = {name: torch.ones(1) for name in kept} | load_file(file)
    save_file({name: tensors[name] for name in kept}, file)
    manifest["files"][file.name] = file_entry(file)
    write_manifest(checkpoint, manifest)
    other = make_engine(torch.optim.AdamW)
    if message is None:
        load_engine(other, checkpoint, read_state(checkpoint)["engine"])
        return
    with pytest.raises(ValueError, match=message):
        load_engine(other, checkpoint, read_state(checkpoint)["engine"])


def test_nothing_there(tmp_path):
    assert agreed_checkpoint(make_engine(), tmp_path, moves_damaged=True, say=print) is None


@pytest.mark.parametrize("moves_damaged", [False, True])
def test_a_damaged_one_is_passed_over(tmp_path, moves_damaged):
    engine = save_steps(tmp_path, 2)
    (tmp_path / "global_step2" / "state.json").write_text("{}")
    said = []
    found = agreed_checkpoint(engine, tmp_path, moves_damaged=moves_damaged, say=said.append)
    assert found.name == "global_step1"
    assert said[0].startswith("warning: ")
    assert (tmp_path / "global_step2").exists() != moves_damaged
    assert len(said) == 1 + moves_damaged
