import re
from dataclasses import replace

import pytest

from megatron.nested_keys import merged
from megatron.recipes import SHIPPED, cost_line, planned_cost
from megatron.recipes.catalogue import leading_comment, remark
from megatron.recipes.cost import v100_hours
from tests.megatron.recipes.recipe_files import read


@pytest.mark.parametrize("name", SHIPPED.recipes)
def test_the_file_says_what_it_costs(name):
    comment = leading_comment(SHIPPED.recipes[name])
    config = read(name)
    assert remark(comment, "Cost") == cost_line(config) + "."
    assert remark(comment, "Source")
    # The published hours of eight runs, of which only the first set the rate of a V100.
    hours = re.search(r"(\d+) hours on 64 V100", remark(comment, "Result"))
    if hours:
        assert v100_hours(planned_cost(config).flops) / 64 == pytest.approx(int(hours[1]), rel=0.01)


def test_published_hours_were_compared():
    texts = [remark(leading_comment(path), "Result") for path in SHIPPED.recipes.values()]
    assert sum("hours on 64 V100" in text for text in texts) == 8


def test_operations_of_bert_are_those_of_its_layers_and_its_masked_tokens():
    cost = planned_cost(read("bert_baseline_524b"))
    layers, hidden, length, vocabulary = 24, 1024, 512, 30592
    per_token = 72 * layers * hidden**2 * (1 + length / (6 * hidden))
    per_masked_token = 6 * hidden * (hidden + vocabulary)
    num_tokens = 10**6 * 1024 * 512
    assert cost.corpus_tokens == num_tokens
    assert cost.flops == pytest.approx(num_tokens * (per_token + 0.15 * per_masked_token), rel=1e-9)


@pytest.mark.parametrize("counter", ["effective", "corpus", "loss"])
def test_a_budget_is_of_the_tokens_that_are_counted(counter):
    config = read("gpt_cl_ltd_300b")
    training = replace(config.training, token_counter=counter, train_tokens=10**10)
    cost = planned_cost(replace(config, training=training))
    filled = {
        "effective": cost.layer_tokens // config.model.num_layers,
        "corpus": cost.corpus_tokens,
        "loss": cost.loss_tokens,
    }[counter]
    one_step = config.training.batch_size * config.data.seq_length
    assert 10**10 <= filled < 10**10 + one_step


def test_a_budget_of_samples_ends_sooner_where_rows_are_made_of_several():
    config = read("gpt_baseline_300b")
    batch = config.training.batch_size
    training = replace(config.training, train_tokens=None, train_samples=100 * batch)
    plain = replace(config, training=training)
    bags = {
        "data_routing": {"token_superposition": {"enabled": True, "bag_size": 4, "num_steps": 9}}
    }
    superposed = replace(plain, data_efficiency=merged(config.data_efficiency, bags))
    assert (planned_cost(plain).steps, planned_cost(superposed).steps) == (100, 73)
    assert planned_cost(superposed).corpus_tokens == planned_cost(plain).corpus_tokens
