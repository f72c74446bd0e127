import re

import pytest

from megatron.recipes import cost_line, planned_cost, read_recipe
from megatron.recipes.cost import v100_hours
from megatron.recipes.toml_file import read_toml
from tests.megatron.recipes.recipe_files import SHIPPED


@pytest.mark.parametrize("name", SHIPPED.recipes)
def test_the_file_says_what_it_costs(name):
    file = read_toml(SHIPPED.recipes[name])
    recipe = read_recipe(SHIPPED, name)
    assert file.remark("Cost") == cost_line(recipe) + "."
    assert file.remark("Source")
    # The published hours of eight runs, of which only the first set the rate of a V100.
    hours = re.search(r"(\d+) hours on 64 V100", file.remark("Result"))
    if hours:
        assert v100_hours(planned_cost(recipe).flops) / 64 == pytest.approx(int(hours[1]), rel=0.01)


def test_published_hours_were_compared():
    texts = [read_toml(path).remark("Result") for path in SHIPPED.recipes.values()]
    assert sum("hours on 64 V100" in text for text in texts) == 8


def test_operations_of_bert_are_those_of_its_layers_and_its_masked_tokens():
    cost = planned_cost(read_recipe(SHIPPED, "bert_baseline_524b"))
    layers, hidden, length, vocabulary = 24, 1024, 512, 30592
    per_token = 72 * layers * hidden**2 * (1 + length / (6 * hidden))
    per_masked_token = 6 * hidden * (hidden + vocabulary)
    num_tokens = 10**6 * 1024 * 512
    assert cost.corpus_tokens == num_tokens
    assert cost.flops == pytest.approx(num_tokens * (per_token + 0.15 * per_masked_token), rel=1e-9)
