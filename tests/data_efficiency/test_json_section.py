import math

import pytest

from data_efficiency.json_section import ConfigError, Section


@pytest.mark.parametrize(
    ("content", "ask", "message"),
    [
        ({"a": "x"}, lambda s: s.integer("a"), "top.a is 'x': must be a whole number"),
        ({"a": True}, lambda s: s.integer("a"), "must be a whole number"),
        ({"a": 0}, lambda s: s.integer("a", at_least=1), "top.a is 0: must be at least 1"),
        ({"a": 1}, lambda s: s.boolean("a", False), "must be true or false"),
        ({"a": -1.0}, lambda s: s.number("a", 0.0, at_least=0.0), "must be a finite number >= 0"),
        (
            {"a": 1e30},
            lambda s: s.integer("a"),
            "top.a is 1000000.*: must be a whole number below 2",
        ),
        ({"a": 10**9999}, lambda s: s.integer("a"), "top.a is a number beyond all bounds: must be"),
        ({"a": math.nan}, lambda s: s.number("a", 0.0, at_least=0.0), "is nan: must be a finite"),
        ({"a": math.inf}, lambda s: s.number("a", 0.0, at_least=0.0), "is inf: must be a finite"),
        (
            {"a": "auto"},
            lambda s: s.number("a", at_least=0.0),
            "a is 'auto': must be a finite number",
        ),
        ({}, lambda s: s.number("a", at_least=0.0), "top.a is missing"),
        ({"a": [2**63]}, lambda s: s.integers("a"), "must be a list of whole numbers below 2"),
        ({"a": [1, "b"]}, lambda s: s.integers("a"), "must be a list of whole numbers"),
        ({"a": 1}, lambda s: s.optional_string("a"), "must be a text or null"),
        ({"a": "vlue"}, lambda s: s.choice("a", ("value", "other")), "did you mean 'value'"),
        ({"a": 1}, lambda s: s.section("a"), "top.a must be a JSON object"),
        ({"seeed": 1}, lambda s: s.integer("seed"), "top.seed is missing; did you mean it by 'see"),
    ],
)
def test_wrong_values_name_key_value_and_rule(content, ask, message):
    with pytest.raises(ConfigError, match=message):
        ask(Section(content, "top"))


def test_values_that_are_understood():
    section = Section({"a": 3, "b": 1e3, "c": [1, 2], "d": None, "e": "auto", "f": 0.5}, "")
    assert section.integer("a") == 3
    assert section.integer("b") == 1000
    assert section.integers("c") == (1, 2)
    assert section.optional_string("d") is None
    assert section.optional_int("e") is None
    assert section.number("f", 0.0, at_least=0.0) == 0.5
    assert section.integer("absent", 7) == 7
    section.close()


def test_close_names_the_nearest_known_key():
    section = Section({"gradient_cliping": 1.0}, "")
    section.number("gradient_clipping", 0.0, at_least=0.0)
    with pytest.raises(
        ConfigError, match="gradient_cliping is not a known key.*'gradient_clipping'"
    ):
        section.close()
