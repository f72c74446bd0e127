import pytest
import torch

from data_efficiency import initialize
from megatron.checkpoint.engine_state import agreed_checkpoint, load_engine, save_engine
from megatron.checkpoint.files import read_state


def make_engine():
    return initialize(
        model=torch.nn.Linear(2, 1, bias=False),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        config={"train_batch_size": 1},
    )[0]


def save_steps(folder, num_steps):
    engine = make_engine()
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
