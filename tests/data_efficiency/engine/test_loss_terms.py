"""The exact loss: shares add up to the mean over the global batch, however it is split."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.engine.loss_terms import LossTerms
from data_efficiency.engine.ranks import Ranks

# A micro-batch: its rows' (loss, terms).
micro_batches = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 9)), min_size=1, max_size=3)


class Heard(Ranks):
    """One of several processes, whose sums over all of them are known."""

    def __init__(self, sums, size):
        super().__init__(data_parallel_size=size)
        object.__setattr__(self, "_heard", sums)

    def sums(self, numbers):
        assert len(numbers) == len(self._heard)
        return self._heard


def terms_of(batch):
    return {"lm": sum(terms for _, terms in batch), "rows": len(batch)}


@given(st.lists(st.lists(micro_batches, min_size=1, max_size=2), min_size=1, max_size=3))
def test_shares_add_up_to_the_mean_over_the_global_batch(processes):
    everything = [row for process in processes for batch in process for row in batch]
    whole = terms_of(everything)
    total = torch.zeros(())
    for process in processes:
        ranks = Heard(list(whole.values()), len(processes))
        terms = LossTerms.count(ranks, process, terms_of)
        assert terms.total == whole
        assert terms.loss_tokens == whole["lm"]
        assert [dict(own) for own in terms.micro_batches] == [terms_of(batch) for batch in process]
        for batch in process:
            losses = {
                "rows": torch.tensor(2.0),
                "lm": torch.tensor(float(sum(a for a, _ in batch))),
            }
            # Processes are averaged over afterwards.
            total += terms.share(terms.ordered(losses), len(processes)) / len(processes)
    lm = float(sum(loss for loss, _ in everything))
    num_batches = sum(map(len, processes))
    means = terms.means([lm, 2.0 * num_batches])
    assert total.item() == pytest.approx(sum(means.values()), abs=1e-4)
    assert means == {"lm": lm / max(1, whole["lm"]), "rows": 2.0 * num_batches / whole["rows"]}


def test_one_loss_needs_no_name():
    terms = LossTerms.count(Ranks(), [3, 4], lambda batch: batch)
    assert terms.total == {"loss": 7}


def test_other_names_are_refused():
    terms = LossTerms.count(Ranks(), [1], lambda batch: {"lm": 4})
    with pytest.raises(ValueError, match=r"loss_sums gives \['sop'\], num_terms \['lm'\]"):
        terms.ordered({"sop": torch.ones(())})
    with pytest.raises(ValueError, match=r"\['lm'\] for one micro-batch and \['lm', 'sop'\]"):
        LossTerms.count(Ranks(), [0, 1], lambda batch: {"lm": 4} | ({"sop": 1} if batch else {}))


@pytest.mark.parametrize("count", [2.5, torch.tensor(0.5), -1])
def test_terms_that_are_no_number_of_them_are_refused(count):
    with pytest.raises(ValueError, match="for 'lm': must be a whole number of at least 0"):
        LossTerms.count(Ranks(), [0], lambda _: {"lm": count})
    assert LossTerms.count(Ranks(), [0], lambda _: torch.tensor(3.0)).total == {"loss": 3}


@pytest.mark.parametrize("loss", [torch.ones((), dtype=torch.bfloat16), torch.ones(2)])
def test_what_is_no_sum_in_single_precision_is_refused(loss):
    terms = LossTerms.count(Ranks(), [1], lambda _: 4)
    with pytest.raises(ValueError, match="'loss' is a .* must be a float32 scalar"):
        terms.ordered({"loss": loss})
