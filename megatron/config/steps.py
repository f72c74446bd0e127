"""What a step of any training has."""

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron.setting_rules import NOT_NEGATIVE, POSITIVE, SEED, Settings, require


@dataclass(frozen=True, kw_only=True)
class StepConfig(Settings):
    """What any training has, pretraining and finetuning: batches, precision, engine, techniques."""

    micro_batch_size: Annotated[int, POSITIVE] = 4
    """Samples of one forward pass on one process; fewer where that many processes leave it fewer of the
    global batch."""
    global_batch_size: Annotated[int | None, POSITIVE] = None
    """Samples of one optimizer step. Not given: one micro-batch a process."""
    seed: Annotated[int, SEED] = 1234
    """Seed of initialization and dropout."""
    bf16: bool = False
    """Forward and backward pass in bfloat16; the optimizer updates fp32 weights."""
    fp16: bool = False
    """Forward and backward pass in float16 with loss scaling, as the JSON file's fp16 section says."""
    lr: Annotated[float, NOT_NEGATIVE] = 3e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.01
    """Decoupled weight decay of matrices; biases and normalization weights have none."""
    adam_eps: Annotated[float, POSITIVE] = 1e-8
    """Added to the denominator of Adam's update."""
    clip_grad: Annotated[float, NOT_NEGATIVE] = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""
    deepspeed: bool = False
    """Train with the DeepSpeed engine (ZeRO and the rest of its JSON file) instead of plain PyTorch."""
    fsdp: Literal[0, 2, 3] = 0
    """Spread weights, gradients and optimizer state over the processes with plain PyTorch (FSDP2), as
    zero_optimization.stage in the JSON file does: 3 gathers each layer for its forward and again for its backward
    pass, 2 once for both, which takes more memory and less traffic. 0: as the file says."""
    data_efficiency_curriculum_learning: bool | None = None
    """Draw training samples by the curriculum of the `data_efficiency` section. Not given: if `enabled`
    there."""
    random_ltd: bool | None = None
    """Drop tokens layerwise as the `data_efficiency` section says. Not given: if `enabled` there."""
    exit_duration_in_mins: Annotated[float | None, NOT_NEGATIVE] = None
    """Save and stop after this many minutes, what is loaded and compiled before the first step among them."""
    distributed_timeout_minutes: Annotated[float, POSITIVE] = 30.0
    """How long a process waits for one that does not answer before it stops with an error: longer
    than any save or evaluation. One that has ended is noticed at once, one that is stopped within a
    minute."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.batch_size % self.micro_batch_size == 0,
            "global_batch_size",
            self.global_batch_size,
            f"must be a multiple of --micro-batch-size ({self.micro_batch_size})",
        )
        require(
            not (self.fsdp and self.deepspeed),
            "fsdp",
            self.fsdp,
            "--deepspeed is given too, whose stage the JSON file says: choose one",
        )
        require(not (self.bf16 and self.fp16), "fp16", self.fp16, "--bf16 is given too: choose one")

    @property
    def batch_size(self) -> int:
        """Samples of one optimizer step."""
        return self.micro_batch_size if self.global_batch_size is None else self.global_batch_size
