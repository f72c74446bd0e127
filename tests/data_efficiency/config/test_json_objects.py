from dataclasses import MISSING, dataclass

import pytest

from data_efficiency.config.json_objects import JSON_OBJECTS, json_keys
from data_efficiency.config.random_ltd import KEPT_LENGTH_NAMES
from data_efficiency.schedule import DiscreteSchedule, RootSchedule


@dataclass
class Mute:
    """Keys."""

    number: int


def test_every_key_of_every_object_is_documented():
    for _, keys, names in JSON_OBJECTS:
        assert all(key.doc for key in json_keys(keys, names))


def test_keys_are_called_as_the_file_writes_them():
    assert [key.key for key in json_keys(DiscreteSchedule, {})] == ["difficulty", "max_step"]
    kept = list(json_keys(RootSchedule, KEPT_LENGTH_NAMES))
    assert [key.key for key in kept] == ["require_steps", "seq_per_step"]
    assert {key.default for key in kept} == {MISSING}


def test_a_key_without_a_word():
    with pytest.raises(ValueError, match="Mute.number has no docstring below it"):
        list(json_keys(Mute, {}))
