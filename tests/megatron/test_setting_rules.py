import math
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from megatron.config import CONFIG_GROUPS, DataConfig, TrainingConfig

NEEDED = {DataConfig: {"data_path": ("x",)}, TrainingConfig: {"train_iters": 1}}
FIELDS = [
    (config_class, field.name, get_type_hints(config_class)[field.name])
    for config_class in CONFIG_GROUPS
    for field in fields(config_class)
]
NUMBERS = [field for field in FIELDS if {int, float} & {field[2], *get_args(field[2])}]
TEXTS = [field for field in FIELDS if str in {field[2], *get_args(field[2])}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5])
@pytest.mark.parametrize(("config_class", "name", "_"), NUMBERS)
def test_every_number_has_its_range(config_class, name, _, value):
    value = 2**64 if value == -5 and "seed" in name else value
    flag = "--" + name.replace("_", "-")
    with pytest.raises(ValueError, match=rf"{flag} is .*: must be (positive|at least|from)"):
        config_class(**NEEDED.get(config_class, {}) | {name: value})


@pytest.mark.parametrize("text", ["", " "])
@pytest.mark.parametrize(("config_class", "name", "hint"), TEXTS)
def test_no_text_is_empty(config_class, name, hint, text):
    value = ("0.5", text) if hint == tuple[str, ...] else text
    with pytest.raises(
        ValueError, match=f"--{name.replace('_', '-')} is '{text}': must not be empty"
    ):
        config_class(**NEEDED.get(config_class, {}) | {name: value})
