"""Steps that float16 may skip, and those that nothing can cure."""

import math

import pytest

from data_efficiency import NonFiniteError
from data_efficiency.engine.overflows import Overflows
from data_efficiency.engine.step import MAX_SKIPPED_UPDATES
from data_efficiency.json_section import Section


def overflows(**float16):
    return Overflows(Section(float16, "fp16"))


def test_only_float16_may_recover():
    with pytest.raises(NonFiniteError, match="step 3: the loss 'lm' is nan"):
        overflows().refuse(3, {"lm": math.nan}, None)
    with pytest.raises(NonFiniteError, match="the gradient's norm is inf"):
        overflows(enabled=False, loss_scale=128).refuse(3, {}, math.inf)
    overflows(enabled=True).refuse(3, {"lm": math.nan}, math.inf)


def test_a_constant_scale_ends_the_training_after_many_in_a_row():
    constant, falling = overflows(enabled=True, loss_scale=64.0), overflows(enabled=True)
    skips = [True] * (MAX_SKIPPED_UPDATES - 1)
    for step, skipped in enumerate([*skips, False, *skips], start=1):
        constant.note_update(step, skipped=skipped)
    with pytest.raises(NonFiniteError, match=f"step 20: .* {MAX_SKIPPED_UPDATES} steps in a row"):
        constant.note_update(20, skipped=True)
    for step in range(1, 3 * MAX_SKIPPED_UPDATES):
        falling.note_update(step, skipped=True)
