import pytest

from megatron.config import TrainingConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give --train-iters"),
        ({"train_iters": 1, "lr_decay_iters": 5, "lr_decay_tokens": 5}, "give one of"),
        ({"train_iters": 1, "min_lr": 1.0}, "--min-lr is 1.0"),
        ({"train_iters": 1, "eval_interval": 0}, "--eval-interval is 0"),
    ],
)
def test_rules(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"deepspeed": True}, "--deepspeed is True: .* holds whole layers: take --fsdp"),
        ({"bf16": True, "bf16_weights": True}, "--bf16-weights is True: .* no float32 copy"),
        ({"compile": "layers"}, "--compile is 'layers': .* leave it out"),
        ({"optimizer_implementation": "apex"}, "--optimizer-implementation is 'apex': .*fused"),
    ],
)
def test_what_does_not_go_with_layers_that_processes_share(values, message):
    TrainingConfig(train_iters=1, **values)
    TrainingConfig(train_iters=1, tensor_model_parallel_size=2, fp16=True, fsdp=3, optimizer="muon")
    with pytest.raises(ValueError, match=message):
        TrainingConfig(train_iters=1, tensor_model_parallel_size=2, **values)
