"""Each leaf that differs is named once, with both values."""

import pytest

from data_efficiency.differences import differing_fields, differing_leaves


@pytest.mark.parametrize(
    ("expected", "found", "texts"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
        ({"a": {"b": 1}}, {"a": 1}, ["a: expected {'b': 1}, found 1"]),
        (
            {"b": 1, "a": {"c": [1]}},
            {"a": {}},
            ["a.c: expected [1], found None", "b: expected 1, found None"],
        ),
    ],
)
def test_texts(expected, found, texts):
    assert differing_fields(expected, found) == texts


def test_field_begins_with_the_name_that_is_given():
    assert list(differing_leaves({"x": 1}, {"x": 2}, "seed")) == [("seed.x", 1, 2)]
