"""Frozen settings of a training run, one keyword-only dataclass a topic.

Each field carries its docstring below it: meaning, unit, legal range. `megatron/arguments.py` turns
the fields into command-line flags (`hidden_size` becomes `--hidden-size`) and
`tools/generate_docs.py` into docs/config.md, so this file is the one place where a setting is
described. `None` means "not used" and is never filled in later: derived values are properties.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_args

from megatron.setting_rules import (
    BERT_ONLY,
    NOT_NEGATIVE,
    ONLY_FOR_BERT,
    POSITIVE,
    SEED,
    SHARE,
    SHARE_BELOW_ONE,
    Settings,
    require,
)

AttentionImplementation = Literal["auto", "math", "sdpa", "flash"]
CompileMode = Literal["none", "model", "layers"]
CompileLengths = Literal["dynamic", "static"]
OptimizerImplementation = Literal["auto", "fused", "foreach", "apex"]
GuardedSetting = Literal[
    "data",
    "tokenizer",
    "masking",
    "split",
    "seq_length",
    "global_batch_size",
    "seed",
    "difficulty_index",
    "curriculum",
    "random_ltd",
    "clock",
]
GUARDED_SETTINGS: tuple[GuardedSetting, ...] = get_args(GuardedSetting)
"""What a run and the checkpoint it continues from must agree on."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Shape and numerics of the transformer."""

    num_layers: Annotated[int, POSITIVE] = 12
    """Transformer layers."""
    hidden_size: Annotated[int, POSITIVE] = 768
    """Width of the residual stream. A multiple of the number of attention heads."""
    num_attention_heads: Annotated[int, POSITIVE] = 12
    """Query heads of each attention."""
    num_key_value_heads: Annotated[int | None, POSITIVE] = None
    """Key and value heads (grouped-query attention). Not given: as many as query heads."""
    ffn_hidden_size: Annotated[int | None, POSITIVE] = None
    """Inner width of the feed-forward part. Not given: 4 x hidden size, with SwiGLU 8/3 x hidden
    size rounded down to a multiple of 64."""
    vocab_size: Annotated[int, POSITIVE] = 50257
    """Entries of the tokenizer's vocabulary."""
    make_vocab_size_divisible_by: Annotated[int, POSITIVE] = 128
    """The embedding is padded up to a multiple of this."""
    max_position_embeddings: Annotated[int, POSITIVE] = 1024
    """Longest sequence the model accepts, in tokens."""
    num_token_types: Annotated[int, NOT_NEGATIVE] = 0
    """Kinds of tokens with an embedding each, added to the word's: 2 for BERT's two segments, 0 for
    none."""
    use_rotary_position_embeddings: bool = False
    """Rotary position embeddings instead of learned ones."""
    rotary_position_embeddings_theta: Annotated[float, POSITIVE] = 10000.0
    """Base of the rotary frequencies."""
    normalization: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalization before attention, before the feed-forward part and at the end."""
    normalization_position: Literal["before", "after"] = "before"
    """Normalize what attention and feed-forward read (with one more at the end), or each sum that they
    add to and the embeddings, as the original BERT does. GPT has the first only."""
    layernorm_epsilon: Annotated[float, POSITIVE] = 1e-5
    """Added to the variance in the normalization."""
    swiglu: bool = False
    """SwiGLU feed-forward instead of GELU."""
    gelu: Literal["tanh", "exact"] = "tanh"
    """GELU by GPT-2's approximation with tanh, or by the error function as BERT does."""
    disable_bias_linear: bool = False
    """No bias in the linear layers."""
    untie_embeddings_and_output_weights: bool = False
    """An output matrix of its own instead of the transposed embedding."""
    attention_dropout: Annotated[float, SHARE_BELOW_ONE] = 0.0
    """Probability of dropping an attention weight, 0 <= p < 1."""
    hidden_dropout: Annotated[float, SHARE_BELOW_ONE] = 0.0
    """Probability of dropping an activation before a residual addition, 0 <= p < 1."""
    init_method_std: Annotated[float, POSITIVE] = 0.02
    """Standard deviation of the normal initialization; output projections use it divided by
    sqrt(2 x layers)."""
    recompute_activations: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size",
            self.hidden_size,
            f"must be a multiple of --num-attention-heads ({self.num_attention_heads})",
        )
        require(
            self.num_attention_heads % self.kv_heads == 0,
            "num_key_value_heads",
            self.num_key_value_heads,
            f"must divide --num-attention-heads ({self.num_attention_heads})",
        )
        require(
            not self.use_rotary_position_embeddings or self.head_size % 2 == 0,
            "hidden_size",
            self.hidden_size,
            "rotary embeddings need an even number of channels in a head",
        )

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return (
            self.num_attention_heads
            if self.num_key_value_heads is None
            else self.num_key_value_heads
        )

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def ffn_size(self) -> int:
        """Inner width of the feed-forward part."""
        if self.ffn_hidden_size is not None:
            return self.ffn_hidden_size
        if self.swiglu:
            return max(64, self.hidden_size * 8 // 3 // 64 * 64)
        return 4 * self.hidden_size

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding matrix."""
        multiple = self.make_vocab_size_divisible_by
        return -(-self.vocab_size // multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """Corpus, tokenizer and how samples are read."""

    data_path: tuple[str, ...]
    """Corpus made by tools/preprocess_data.py: its path without .bin and .idx. Several corpora are
    blended by weight: W1 PATH1 W2 PATH2."""
    split: str = "969,30,1"
    """Proportions of training, validation and test documents."""
    seq_length: Annotated[int, POSITIVE] = 1024
    """Tokens of a sample."""
    tokenizer_file: str | None = None
    """tokenizer.json of the corpus."""
    vocab_file: str | None = None
    """vocab.json of a GPT-2 tokenizer, instead of --tokenizer-file."""
    merge_file: str | None = None
    """merges.txt of a GPT-2 tokenizer, together with --vocab-file."""
    mask_prob: Annotated[float, SHARE, BERT_ONLY] = 0.15
    """BERT: share of a sample's tokens to be guessed, 0 to 1."""
    mask_whole_words: Annotated[bool, BERT_ONLY] = False
    """BERT: mask all tokens of a word or none of them, as the published runs do. Needs the tokenizer
    (--vocab-file or --tokenizer-file), which tells which tokens continue a word."""
    short_seq_prob: Annotated[float, SHARE, BERT_ONLY] = 0.1
    """BERT: probability of a sample that is made shorter than the sequence, 0 to 1."""
    sample_seed: Annotated[int, SEED, BERT_ONLY] = 1234
    """BERT: seed of which sentences form a sample, and of the masks in evaluation. Runs that share a
    difficulty index must share it, whatever their --seed."""
    num_workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read training batches ahead. Not given: as many as the JSON file's
    `data_sampling.num_workers`, or none."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """Batches, duration, optimizer and learning rate."""

    micro_batch_size: Annotated[int, POSITIVE] = 4
    """Samples of one forward pass on one process."""
    global_batch_size: Annotated[int | None, POSITIVE] = None
    """Samples of one optimizer step. Not given: one micro-batch a process."""
    train_iters: Annotated[int | None, POSITIVE] = None
    """Stop after this many steps."""
    train_samples: Annotated[int | None, POSITIVE] = None
    """Stop once this many samples were consumed."""
    train_tokens: Annotated[int | None, POSITIVE] = None
    """Stop once this many tokens were consumed, by --token-counter."""
    token_counter: Literal["effective", "corpus", "loss"] = "effective"
    """What --train-tokens and the token-based learning rate count: effective (layer-averaged)
    tokens, corpus tokens given to the model, or tokens in the loss."""
    seed: Annotated[int, SEED] = 1234
    """Seed of initialization and dropout."""
    bf16: bool = False
    """Forward and backward pass in bfloat16; the optimizer updates fp32 weights."""
    fp16: bool = False
    """Forward and backward pass in float16 with loss scaling, as the JSON file's fp16 section says."""
    compile: CompileMode = "none"
    """Use torch.compile on nothing, on the whole model, or on each layer by itself; layers share their
    compiled code. On a GPU the loss is compiled with either. Sequence lengths and kept lengths may
    change. Needs a C++ compiler."""
    compile_lengths: CompileLengths = "dynamic"
    """What --compile makes code for: dynamic is one for all batch sizes and sequence lengths, static one
    for each, which is faster and worth its time where they are few. Kept lengths share their code either
    way."""
    lr: Annotated[float, NOT_NEGATIVE] = 3e-4
    """Peak learning rate."""
    min_lr: Annotated[float, NOT_NEGATIVE] = 0.0
    """Learning rate after the decay."""
    lr_decay_style: Literal["cosine", "linear", "constant", "inverse-square-root"] = "cosine"
    """Shape of the decay after the warm-up."""
    lr_decay_iters: Annotated[int | None, POSITIVE] = None
    """Steps until the minimum is reached. None of the three given: the whole training."""
    lr_decay_samples: Annotated[int | None, POSITIVE] = None
    """Samples until the minimum is reached."""
    lr_decay_tokens: Annotated[int | None, POSITIVE] = None
    """Tokens until the minimum is reached, by --token-counter."""
    lr_warmup_iters: Annotated[int, NOT_NEGATIVE] = 0
    """Steps of linear warm-up; must be in the unit of the decay."""
    lr_warmup_samples: Annotated[int, NOT_NEGATIVE] = 0
    """Samples of linear warm-up; must be in the unit of the decay."""
    lr_warmup_tokens: Annotated[int, NOT_NEGATIVE] = 0
    """Tokens of linear warm-up; must be in the unit of the decay."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.01
    """Decoupled weight decay of matrices; biases and normalization weights have none."""
    adam_beta1: Annotated[float, SHARE_BELOW_ONE] = 0.9
    """Decay of the gradient's running mean."""
    adam_beta2: Annotated[float, SHARE_BELOW_ONE] = 0.999
    """Decay of the squared gradient's running mean."""
    adam_eps: Annotated[float, POSITIVE] = 1e-8
    """Added to the denominator of Adam's update."""
    attention_implementation: AttentionImplementation = "auto"
    """Kernel of attention: flash (the package flash-attn: GPU, half precision, no padding mask), sdpa
    (PyTorch's own), math (plain matrix products), or auto: flash where it is installed and fits, else
    PyTorch's, and on CPUs a causal one in blocks for bfloat16."""
    optimizer_implementation: OptimizerImplementation = "auto"
    """Kernel of AdamW: fused (PyTorch's, one kernel for many weights), foreach (PyTorch's, one kernel
    an operation), apex (apex's FusedAdam), or auto, which is fused."""
    clip_grad: Annotated[float, NOT_NEGATIVE] = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""
    deepspeed: bool = False
    """Train with the DeepSpeed engine (ZeRO and the rest of its JSON file) instead of plain PyTorch."""
    deepspeed_config: str | None = None
    """JSON file in DeepSpeed's form with the `data_efficiency` section."""
    data_efficiency_curriculum_learning: bool = False
    """Draw training samples by the curriculum of the JSON file; must agree with the file."""
    random_ltd: bool = False
    """Drop tokens layerwise as the JSON file says; must agree with the file."""
    eval_interval: Annotated[int, POSITIVE] = 1000
    """Steps between evaluations; there is one at the end as well."""
    eval_iters: Annotated[int, NOT_NEGATIVE] = 100
    """Global batches of an evaluation; 0 evaluates on the whole validation split."""
    exit_duration_in_mins: Annotated[float | None, POSITIVE] = None
    """Save and stop after this many minutes."""
    distributed_timeout_minutes: Annotated[float, POSITIVE] = 30.0
    """How long a process waits for one that does not answer before it stops with an error: longer
    than any save or evaluation. A process that has ended is noticed at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.batch_size % self.micro_batch_size == 0,
            "global_batch_size",
            self.global_batch_size,
            f"must be a multiple of --micro-batch-size ({self.micro_batch_size})",
        )
        require(not (self.bf16 and self.fp16), "fp16", self.fp16, "--bf16 is given too: choose one")
        ends = (self.train_iters, self.train_samples, self.train_tokens)
        require(
            any(end is not None for end in ends),
            "train_iters",
            None,
            "give --train-iters, --train-samples or --train-tokens",
        )
        decays = (self.lr_decay_iters, self.lr_decay_samples, self.lr_decay_tokens)
        require(
            sum(decay is not None for decay in decays) <= 1,
            "lr_decay_iters",
            self.lr_decay_iters,
            "give one of --lr-decay-iters, --lr-decay-samples and --lr-decay-tokens",
        )
        require(self.min_lr <= self.lr, "min_lr", self.min_lr, f"must be 0 to --lr ({self.lr})")

    @property
    def batch_size(self) -> int:
        """Samples of one optimizer step."""
        return self.micro_batch_size if self.global_batch_size is None else self.global_batch_size


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Settings):
    """Where checkpoints are written and read."""

    save: str | None = None
    """Folder of the run: log and checkpoints."""
    save_interval: Annotated[int | None, POSITIVE] = None
    """Steps between checkpoints; there is one at the end as well."""
    keep_last: Annotated[int, NOT_NEGATIVE] = 2
    """Newest checkpoints to keep; 0 keeps all."""
    load: str | None = None
    """Folder of a run to continue."""
    allow_missing_checkpoint: bool = False
    """Start afresh where --load names a folder without a checkpoint, which is an error otherwise."""
    override: tuple[GuardedSetting, ...] = ()
    """Continue although these differ from the checkpoint's run, which is an error otherwise."""


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(Settings):
    """What is printed and recorded."""

    log_interval: Annotated[int, POSITIVE] = 10
    """Steps between lines on the console and in log.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard events into the run's folder."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run; only entry scripts and `training.py` see it whole."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig

    def __post_init__(self) -> None:
        require(
            self.data.seq_length <= self.model.max_position_embeddings,
            "seq_length",
            self.data.seq_length,
            f"must not exceed --max-position-embeddings ({self.model.max_position_embeddings})",
        )
        for field in fields(self.data):
            if BERT_ONLY in DataConfig.marks.get(field.name, ()) and not self.model.num_token_types:
                value = getattr(self.data, field.name)
                require(value == field.default, field.name, value, ONLY_FOR_BERT)


CONFIG_GROUPS: tuple[type, ...] = (
    ModelConfig,
    DataConfig,
    TrainingConfig,
    CheckpointConfig,
    LoggingConfig,
)
