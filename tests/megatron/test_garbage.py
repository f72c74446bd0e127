import gc
import weakref

import pretrain_gpt
from megatron import garbage, training
from megatron.garbage import collect_after, collecting_by_hand
from tests.megatron.tiny_pretraining import flags_of, write_corpus


class Circle:
    def __init__(self):
        self.itself = self


def test_garbage_goes_when_it_is_time():
    with collecting_by_hand():
        assert not gc.isenabled()
        circle = weakref.ref(Circle())
        collect_after(garbage.COLLECT_STEPS - 1)
        assert circle() is not None
        collect_after(garbage.COLLECT_STEPS)
        assert circle() is None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_run_collects_between_its_steps_alone(tmp_path, monkeypatch):
    enabled, steps = [], []
    loss_sums = training.Run.loss_sums
    monkeypatch.setattr(
        training.Run,
        "loss_sums",
        lambda run, batch: enabled.append(gc.isenabled()) or loss_sums(run, batch),
    )
    monkeypatch.setattr(garbage, "collect_after", steps.append)
    flags = ("--no-evaluate", "--save", str(tmp_path / "run"))
    assert pretrain_gpt.main(flags_of(write_corpus(tmp_path), *flags)) == 0
    assert steps == [1, 2, 3, 4, 5, 6]
    assert set(enabled) == {False}
