import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron.conversion.weights import Rule, rules_of_layers, to_ours, to_theirs

LAYER = {"qkv": "q k v", "dense": ".T proj", "norm": "ln"}


def make(num_layers, sizes, columns):
    rules = list(
        rules_of_layers(LAYER, num_layers, ("layers.{i}.", "h.{i}."), {"qkv": tuple(sizes)})
    )
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for i in range(num_layers):
        weights[f"layers.{i}.qkv"] = torch.randn(sum(sizes), columns, generator=generator)
        weights[f"layers.{i}.dense"] = torch.randn(3, columns, generator=generator)
        weights[f"layers.{i}.norm"] = torch.randn(columns, generator=generator)
    return rules, weights


@given(st.integers(1, 12), st.lists(st.integers(1, 5), min_size=3, max_size=3), st.integers(1, 4))
def test_there_and_back_gives_the_same_bits(num_layers, sizes, columns):
    rules, weights = make(num_layers, sizes, columns)
    back = to_ours(to_theirs(weights, rules), rules)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_each_part_goes_where_its_name_says():
    rules, weights = make(2, (4, 2, 1), 3)
    theirs = to_theirs(weights, rules)
    assert len(theirs) == 10
    assert torch.equal(theirs["h.1.k"], weights["layers.1.qkv"][4:6])
    assert torch.equal(theirs["h.0.proj"], weights["layers.0.dense"].t())
    assert theirs["h.0.proj"].is_contiguous()
    assert torch.equal(theirs["h.1.ln"], weights["layers.1.norm"])


def test_wrong_weights_are_refused():
    rules, weights = make(1, (4, 2, 1), 3)
    with pytest.raises(ValueError, match=r"1 missing, such as layers.0.norm"):
        to_theirs({name: weights[name] for name in weights if "norm" not in name}, rules)
    with pytest.raises(ValueError, match="1 without a counterpart, such as surprise"):
        to_theirs(weights | {"surprise": torch.ones(1)}, rules)
    with pytest.raises(ValueError, match=r"layers.0.qkv has 6 rows, not 7"):
        to_theirs(weights | {"layers.0.qkv": torch.ones(6, 3)}, rules)
    with pytest.raises(ValueError, match="3 missing, such as h.0.k"):
        to_ours({"h.0.proj": torch.ones(3, 3), "h.0.ln": torch.ones(3)}, rules)


def test_rule_of_one_tensor():
    rule = Rule("a", ("b",))
    assert torch.equal(to_ours({"b": torch.ones(2)}, [rule])["a"], torch.ones(2))
