import pytest

from data_efficiency import ConfigError
from megatron.nested_keys import copied, merged, put, value_at


def test_sections_are_laid_over_each_other():
    content = merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}, "d": {"e": 5}})
    assert content == {"a": {"b": 4, "c": 2}, "d": {"e": 5}}
    put(content, "a.f.g", 6)
    assert (value_at(content, "a.f.g"), value_at(content, "a.b.g")) == (6, None)
    with pytest.raises(ConfigError, match="b is 4: must be an object"):
        put(content, "a.b.g", 6)


def test_a_copy_is_nobody_elses():
    content = {"a": [{"b": 1}]}
    copy = copied(content)
    copy["a"][0]["b"] = 2
    assert content == {"a": [{"b": 1}]}
