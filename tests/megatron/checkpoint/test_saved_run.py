import os

import pytest
import torch

from data_efficiency import Ranks, initialize
from data_efficiency.engine.whole_tensor import gather_all
from megatron.checkpoint.saved_run import SavedRun, refuse_other_settings


class Tied(torch.nn.Module):
    """Two maps that share a weight, and a dropout that draws anew in each step."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, rows):
        hidden = torch.nn.functional.dropout(self.first(rows), 0.5, self.training)
        return self.second(hidden).square()


def make_engine(seed):
    torch.manual_seed(seed)
    return initialize(
        model=Tied(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        config={"train_batch_size": 2},
    )[0]


def train(engine, saved, num_steps):
    for _ in range(num_steps):
        engine.train_step(
            [torch.ones(2, 4)], lambda rows: engine(rows).sum(), len, shape=lambda rows: (2, 4)
        )
        saved.save_when_due(engine, {"steps": engine.counters.steps})


def saved_in(folder, **settings):
    return SavedRun(folder=folder / "run", interval=2, settings=settings)


def states(engine):
    return gather_all([*engine.whole_weights(), *engine.whole_optimizer_state()])


def test_goes_on_where_the_last_checkpoint_was_written(tmp_path):
    whole, saved = make_engine(0), saved_in(tmp_path, seed=1)
    assert saved.resume(whole) is None
    train(whole, saved, 5)
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == [
        "global_step4",
        "latest",
    ]
    other = make_engine(1)
    assert saved_in(tmp_path, seed=1).resume(other) == {"steps": 4}
    train(other, saved_in(tmp_path, seed=1), 1)
    expected = states(whole)
    for name, tensor in states(other).items():
        assert torch.equal(tensor, expected[name]), name
    assert other.counters == whole.counters


def test_a_run_of_other_settings_keeps_its_weights(tmp_path):
    train(make_engine(0), saved_in(tmp_path, seed=1), 2)
    engine = make_engine(1)
    before = states(engine)
    with pytest.raises(ValueError, match="its seed is 1, here 2; name another folder, or remove"):
        saved_in(tmp_path, seed=2).resume(engine)
    assert all(torch.equal(tensor, before[name]) for name, tensor in states(engine).items())


def test_what_is_done_leaves_nothing_but_what_others_put_there(tmp_path):
    saved = saved_in(tmp_path)
    train(make_engine(0), saved, 2)
    saved.remove()
    assert not list(tmp_path.iterdir())
    train(make_engine(0), saved, 2)
    (tmp_path / "run" / "results.json").write_text("{}")
    saved.remove()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["results.json"]


def test_nobody_else_saves_there_meanwhile(tmp_path):
    with saved_in(tmp_path).held(Ranks()):
        train(make_engine(0), saved_in(tmp_path), 2)
        with (
            pytest.raises(
                BlockingIOError, match=rf"process {os.getpid()} on .* is at work on .*run"
            ),
            saved_in(tmp_path).held(Ranks()),
        ):
            pass
    with saved_in(tmp_path).held(Ranks()):
        saved_in(tmp_path).remove()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_setting_that_one_side_has_alone_is_a_difference(tmp_path):
    refuse_other_settings(tmp_path, {"a": 1}, {"a": 1, "b": None})
    with pytest.raises(ValueError, match="its b is 2, here None"):
        refuse_other_settings(tmp_path, {"a": 1, "b": 2}, {"a": 1})
