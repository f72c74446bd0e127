import pytest

from megatron.config import StepConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"global_batch_size": 10, "micro_batch_size": 4},
            r"--global-batch-size is 10: must be a multiple of --micro-batch-size \(4\)",
        ),
        ({"bf16": True, "fp16": True}, "--fp16 is True: --bf16 is given too"),
        ({"fsdp": 3, "deepspeed": True}, "--fsdp is 3: --deepspeed is given too"),
        ({"micro_batch_size": 0}, "--micro-batch-size is 0"),
    ],
)
def test_rules(values, message):
    with pytest.raises(ValueError, match=message):
        StepConfig(**values)


def test_a_micro_batch_is_the_batch_where_none_is_given():
    assert StepConfig(micro_batch_size=6).batch_size == 6
    assert StepConfig(micro_batch_size=6, global_batch_size=12).batch_size == 12
