import pytest
import torch

from data_efficiency import Counters
from data_efficiency.engine.whole_tensor import whole_tensors
from megatron.weight_average import WeightAverage
from tests.megatron.tiny_pretraining import make_run, settings, write_corpus


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(settings(write_corpus(tmp_path_factory.mktemp("corpus"))))


def take_steps(run, num_steps, average, seen):
    """Steps of random weights instead of trained ones; `seen` gets a copy of each."""
    for step in range(1, num_steps + 1):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for weight in run.engine.module.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))
        run.engine.counters = Counters(steps=step)
        seen.append({name: value.clone() for name, value in weights_of(run).items()})
        average.update(run.engine)


def weights_of(run):
    return {tensor.name: tensor.gather() for tensor in run.engine.whole_weights()}


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_shares_fall_by_the_decay_a_step_and_sum_to_one(run, decay, interval):
    average, seen = WeightAverage(decay, interval), []
    take_steps(run, 6, average, seen)
    taken = seen[interval - 1 :: interval]
    shares = [decay ** (interval * age) for age in reversed(range(len(taken)))]
    for tensor in average.whole():
        by_hand = sum(
            share * one[tensor.name].double() for share, one in zip(shares, taken, strict=True)
        )
        expected = (by_hand / sum(shares)).float()
        torch.testing.assert_close(tensor.gather(), expected, atol=1e-6, rtol=1e-5)
        assert tensor.dtype == torch.float32
    assert average.num_updates == len(taken)


def test_the_engine_has_the_average_within_the_block_and_its_own_after_it(run):
    average, seen = WeightAverage(0.9), []
    take_steps(run, 3, average, seen)
    inside = {}

    def fail_inside():
        with average.in_place(run.engine):
            inside.update({name: value.clone() for name, value in weights_of(run).items()})
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    for tensor in average.whole():
        assert torch.equal(inside[tensor.name], tensor.gather())
        assert not torch.equal(inside[tensor.name], seen[-1][tensor.name])
        assert torch.equal(weights_of(run)[tensor.name], seen[-1][tensor.name])


def test_before_the_first_update_the_weights_stand_for_their_average(run):
    average = WeightAverage(0.9, interval=10)
    own = weights_of(run)
    with average.in_place(run.engine):
        assert all(torch.equal(own[name], value) for name, value in weights_of(run).items())
    assert average.whole() == []


def test_a_saved_average_goes_on_as_if_never_stopped_and_fits_its_model_only(run):
    whole, seen = WeightAverage(0.9), []
    take_steps(run, 5, whole, seen)
    first, second = WeightAverage(0.9), WeightAverage(0.9)
    take_steps(run, 3, first, seen)
    saved = {tensor.name: tensor.gather() for tensor in first.whole()}
    second.load(run.engine, saved, first.num_updates)
    for step in (4, 5):
        run.engine.module.load_state_dict(seen[step - 1])
        run.engine.counters = Counters(steps=step)
        second.update(run.engine)
    for left, right in zip(whole.whole(), second.whole(), strict=True):
        assert torch.equal(left.gather(), right.gather())
    name = next(iter(saved))
    for other in ({**saved, name: saved[name][:-1]}, {**saved, "more": saved[name]}):
        with pytest.raises(ValueError, match=f"of another model: (more|{name})"):
            second.load(run.engine, other, 3)


def test_what_is_no_float_is_the_newest():
    class Engine:
        ranks = type("Ranks", (), {"is_first": True, "world": 1})
        counters = Counters(steps=1)
        tensors: dict[str, torch.Tensor]

        def whole_weights(self):
            return whole_tensors(self.tensors)

    average = WeightAverage(0.5)
    for count in (1, 2):
        Engine.tensors = {"count": torch.tensor(count), "half": torch.tensor(1.0).bfloat16()}
        average.update(Engine())
    found = {tensor.name: tensor.gather() for tensor in average.whole()}
    assert found["count"] == 2
    assert found["half"].dtype == torch.float32
