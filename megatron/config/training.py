"""Duration, optimizer and learning rate of pretraining."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from megatron.config.steps import StepConfig
from megatron.setting_rules import (
    GPT_ONLY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_BELOW_ONE,
    require,
)

CompileMode = Literal["none", "model", "layers"]
CompileLengths = Literal["dynamic", "static"]
AttentionImplementation = Literal["auto", "math", "sdpa", "flash"]
OptimizerImplementation = Literal["auto", "fused", "foreach", "apex"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(StepConfig):
    """Batches, duration, optimizer and learning rate."""

    train_iters: Annotated[int | None, POSITIVE] = None
    """Stop after this many steps."""
    train_samples: Annotated[int | None, POSITIVE] = None
    """Stop once this many samples were consumed."""
    train_tokens: Annotated[int | None, POSITIVE] = None
    """Stop once this many tokens were consumed, by --token-counter."""
    rampup_batch_size: tuple[int, ...] = ()
    """START INCREMENT SAMPLES: begin with START samples a step, and come to --global-batch-size by INCREMENT at a time over the
    first SAMPLES samples. The JSON file's data_sampling.batch_size says more, such as a learning rate that goes with it."""
    token_counter: Literal["effective", "corpus", "loss"] = "effective"
    """What --train-tokens and the token-based learning rate count: effective (layer-averaged)
    tokens, corpus tokens given to the model, or tokens in the loss."""
    bf16_weights: bool = False
    """With --bf16: weights and residual stream in bfloat16 as well, which saves their casts and memory; the
    optimizer updates an fp32 copy, which is what checkpoints hold. DeepSpeed does so in any case."""
    tensor_model_parallel_size: Annotated[int, POSITIVE] = 1
    """Processes that share each layer, cut by heads, inner channels and words, and between layers the tokens of each
    row (tensor and sequence parallelism). The others, all processes divided by this, are data-parallel; --fsdp goes
    with it. Row lengths must be multiples of it; kept lengths are rounded up to one."""
    compile: CompileMode = "none"
    """Use torch.compile on nothing, on the whole model, or on each layer by itself; layers share their
    compiled code. On a GPU the loss is compiled with either. Sequence lengths and kept lengths may
    change. Needs a C++ compiler."""
    compile_lengths: CompileLengths = "dynamic"
    """What --compile makes code for: dynamic is one for all batch sizes and sequence lengths, static one
    for each, which is faster and worth its time where they are few. Kept lengths share their code either
    way."""
    min_lr: Annotated[float, NOT_NEGATIVE] = 0.0
    """Learning rate after the decay."""
    lr_decay_style: Literal["cosine", "linear", "constant", "inverse-square-root", "WSD"] = "cosine"
    """Shape of the decay after the warm-up; WSD (warm-up, stable, decay) keeps the rate until shortly before the end."""
    lr_decay_iters: Annotated[int | None, POSITIVE] = None
    """Steps until the minimum is reached. None of the three given: the whole training."""
    lr_decay_samples: Annotated[int | None, POSITIVE] = None
    """Samples until the minimum is reached."""
    lr_decay_tokens: Annotated[int | None, POSITIVE] = None
    """Tokens until the minimum is reached, by --token-counter."""
    lr_wsd_decay_style: Literal["exponential", "linear", "cosine", "minus_sqrt"] = "exponential"
    """Shape of WSD's decay at the end."""
    lr_wsd_decay_iters: Annotated[int | None, POSITIVE] = None
    """Steps of WSD's decay, the last of --lr-decay-iters. None of the three given: a tenth of the whole."""
    lr_wsd_decay_samples: Annotated[int | None, POSITIVE] = None
    """Samples of WSD's decay; must be in the unit of the decay."""
    lr_wsd_decay_tokens: Annotated[int | None, POSITIVE] = None
    """Tokens of WSD's decay; must be in the unit of the decay."""
    lr_warmup_iters: Annotated[int, NOT_NEGATIVE] = 0
    """Steps of linear warm-up. Where the decay counts tokens, these are the tokens of so many first steps."""
    lr_warmup_samples: Annotated[int, NOT_NEGATIVE] = 0
    """Samples of linear warm-up; must be in the unit of the decay."""
    lr_warmup_tokens: Annotated[int, NOT_NEGATIVE] = 0
    """Tokens of linear warm-up; must be in the unit of the decay."""
    selective_backprop: Annotated[float | None, SHARE, GPT_ONLY] = None
    """GPT: learn from this share of a micro-batch's rows alone, those of the highest loss. A negative control: all rows are
    computed, nothing is saved, and others found no gain (arXiv 2307.06440)."""
    ema_decay: Annotated[float | None, SHARE_BELOW_ONE] = None
    """Keep an exponential moving average of the weights, of which a step leaves this much to the next (0.999): evaluated and saved
    beside them, for a constant rate in the place of a decay."""
    ema_interval: Annotated[int, POSITIVE] = 1
    """Steps between updates of the average, each of which stands for all of them."""
    adam_beta1: Annotated[float, SHARE_BELOW_ONE] = 0.9
    """Decay of the gradient's running mean."""
    adam_beta2: Annotated[float, SHARE_BELOW_ONE] = 0.999
    """Decay of the squared gradient's running mean."""
    attention_implementation: AttentionImplementation = "auto"
    """Kernel of attention: flash (the package flash-attn: GPU, half precision, no padding mask), sdpa
    (PyTorch's own), math (plain matrix products), or auto: flash where it is installed and fits, else
    PyTorch's, and on CPUs a causal one in blocks for bfloat16."""
    optimizer: Literal["adam", "muon"] = "adam"
    """What updates the matrices of the layers: adam, which is AdamW, as everything else, or Muon (momentum 0.95, Nesterov's),
    its steps scaled to the size of AdamW's, so that --lr and --weight-decay hold for both."""
    optimizer_implementation: OptimizerImplementation = "auto"
    """Kernel of AdamW: fused (PyTorch's, one kernel for many weights), foreach (PyTorch's, one kernel
    an operation), apex (apex's FusedAdam), or auto, which is fused."""
    evaluate: bool = True
    """Measure the loss on the validation split."""
    eval_interval: Annotated[int, POSITIVE] = 1000
    """Steps between evaluations; there is one at the end as well."""
    eval_iters: Annotated[int, NOT_NEGATIVE] = 100
    """Global batches of an evaluation; 0 evaluates on the whole validation split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = (self.train_iters, self.train_samples, self.train_tokens)
        require(
            any(end is not None for end in ends),
            "train_iters",
            None,
            "give --train-iters, --train-samples or --train-tokens",
        )
        self._check_rampup()
        decays = (self.lr_decay_iters, self.lr_decay_samples, self.lr_decay_tokens)
        require(
            sum(decay is not None for decay in decays) <= 1,
            "lr_decay_iters",
            self.lr_decay_iters,
            "give one of --lr-decay-iters, --lr-decay-samples and --lr-decay-tokens",
        )
        for unit in ("iters", "samples", "tokens"):
            value = getattr(self, f"lr_wsd_decay_{unit}")
            require(
                value is None or self.lr_decay_style == "WSD",
                f"lr_wsd_decay_{unit}",
                value,
                f"--lr-decay-style is {self.lr_decay_style}: take WSD, or leave it out",
            )
        require(self.bf16 or not self.bf16_weights, "bf16_weights", True, "add --bf16")
        require(
            not (self.deepspeed and self.optimizer == "muon"),
            "optimizer",
            self.optimizer,
            "DeepSpeed's optimizers keep flat pieces, and Muon needs whole matrices: leave out --deepspeed",
        )
        if self.tensor_model_parallel_size > 1:
            for name, is_free, rule in self._beside_tensor_parallel():
                size = self.tensor_model_parallel_size
                value = getattr(self, name)
                require(is_free, name, value, f"--tensor-model-parallel-size is {size}, and {rule}")
        require(self.min_lr <= self.lr, "min_lr", self.min_lr, f"must be 0 to --lr ({self.lr})")

    def _check_rampup(self) -> None:
        """Raise ValueError for a ramp that does not come to the global batch."""
        ramp, name = self.rampup_batch_size, "rampup_batch_size"
        if not ramp:
            return
        require(
            isinstance(ramp, tuple | list)
            and len(ramp) == 3
            and all(type(number) is int and number > 0 for number in ramp),
            name,
            ramp,
            "must be positive whole numbers, START INCREMENT SAMPLES",
        )
        start, increment, _ = ramp
        end = self.batch_size
        require(
            self.global_batch_size is not None and start <= end and (end - start) % increment == 0,
            name,
            ramp,
            f"a whole number of INCREMENTs must lead from START to --global-batch-size ({end})",
        )

    def _beside_tensor_parallel(self) -> Iterator[tuple[str, bool, str]]:
        """Setting -> whether it goes with layers that processes share, and why not, and what does."""
        yield "deepspeed", not self.deepspeed, "DeepSpeed's engine holds whole layers: take --fsdp"
        yield (
            "bf16_weights",
            not self.bf16_weights,
            "no float32 copy of weights that are cut is kept: --bf16 alone computes in bfloat16",
        )
        yield (
            "compile",
            self.compile == "none",
            "code that waits for other processes within a layer is not compiled here: leave it out",
        )
        yield (
            "optimizer_implementation",
            self.optimizer_implementation != "apex",
            "apex knows no parts of weights: take fused",
        )
