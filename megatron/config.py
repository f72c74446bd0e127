"""Frozen settings of a training run, one keyword-only dataclass a topic.

Each field carries its docstring below it: meaning, unit, legal range. The fields are the keys of a run
file (`[model] hidden_size`) and the flags of the command line (`--hidden-size`), and
`tools/generate_docs.py` turns them into docs/config.md, so this file is the one place where a setting is
described. `None` means "not used" and is never filled in later: derived values are properties.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, get_args

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

Architecture = Literal["gpt", "bert"]

AttentionImplementation = Literal["auto", "math", "sdpa", "flash"]
CompileMode = Literal["none", "model", "layers"]
CompileLengths = Literal["dynamic", "static"]
OptimizerImplementation = Literal["auto", "fused", "foreach", "apex"]
TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]
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
class FilesConfig(Settings):
    """What a run is read from; flags override what a run file says."""

    config: str | None = None
    """Run file (.toml), or the name of a shipped one; `--config list` names them."""
    model: str | None = None
    """Name, or .toml file, of another model than the run file's; `gpt_125m` for example."""
    deepspeed_config: str | None = None
    """JSON file in DeepSpeed's form. What it says of a setting, no flag may contradict."""
    scale_down: bool = False
    """The same shape so small that a CPU runs it in seconds; flags count after it."""
    print_json: bool = False
    """Print the JSON object that the engine gets, and train nothing."""
    print_analysis: bool = False
    """Print the flags of `tools/analyze_data.py run`, a line for each difficulty index that is needed and not
    there, and train nothing."""


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
    difficulty: str = "difficulty"
    """Folder of the difficulty indexes: a metric's `index_path` of "auto" is the folder of the metric's
    name below it."""
    num_workers: Annotated[int, NOT_NEGATIVE] = 0
    """Processes that read training batches ahead."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """Batches, duration, optimizer and learning rate."""

    micro_batch_size: Annotated[int, POSITIVE] = 4
    """Samples of one forward pass on one process; fewer where that many processes leave it fewer of the
    global batch."""
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
    """Steps of linear warm-up. Where the decay counts tokens, these are the tokens of so many first steps."""
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
    data_efficiency_curriculum_learning: bool | None = None
    """Draw training samples by the curriculum of the `data_efficiency` section. Not given: if `enabled`
    there."""
    random_ltd: bool | None = None
    """Drop tokens layerwise as the `data_efficiency` section says. Not given: if `enabled` there."""
    evaluate: bool = True
    """Measure the loss on the validation split."""
    eval_interval: Annotated[int, POSITIVE] = 1000
    """Steps between evaluations; there is one at the end as well."""
    eval_iters: Annotated[int, NOT_NEGATIVE] = 100
    """Global batches of an evaluation; 0 evaluates on the whole validation split."""
    exit_duration_in_mins: Annotated[float | None, NOT_NEGATIVE] = None
    """Save and stop after this many minutes."""
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
    """Folder of the run: log, checkpoints, and run.toml, the run file that repeats it. Not given: a folder
    below runs/ with the name of the run file or, without one, of the script."""
    save_interval: Annotated[int | None, POSITIVE] = None
    """Steps between checkpoints; there is one at the end as well."""
    num_checkpoints: Annotated[int | None, POSITIVE] = None
    """Instead of --save-interval: checkpoints over as many steps as whole samples fill the budget in."""
    keep_last: Annotated[int, NOT_NEGATIVE] = 2
    """Newest checkpoints to keep; 0 keeps all."""
    load: str | None = None
    """Folder of a run to continue. Not given: with a run file --save, if there is a run in it."""
    allow_missing_checkpoint: bool = False
    """Start afresh where --load names a folder without a checkpoint, which is an error otherwise."""
    override: tuple[GuardedSetting, ...] = ()
    """Continue although these differ from the checkpoint's run, which is an error otherwise."""


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(Settings):
    """What is printed and recorded."""

    log_interval: Annotated[int, POSITIVE] = 10
    """Steps between lines on the console and in log.jsonl."""
    trackers: tuple[TrackerName, ...] = ()
    """What shows the run beside log.jsonl: tensorboard (events in the run's folder), wandb, trackio, mlflow.
    Each is an extra of its name, TensorBoard's is report; WANDB_MODE=offline and the like count as there."""
    tracker_project: str = "data-efficiency"
    """Project that wandb and trackio keep the run under, and experiment of mlflow."""
    sample_prompts: tuple[str, ...] = ()
    """GPT: beginnings that the model continues while it is trained, into console, log and trackers; or one
    file with a prompt a line. Needs the tokenizer. The training stays as it is, to the bit."""
    sample_interval: Annotated[int, POSITIVE] = 1000
    """Steps between such texts; there are some at the end as well."""
    sample_tokens: Annotated[int, POSITIVE] = 50
    """Tokens of each text, at most; they are drawn at temperature 0.8 from --seed."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run; only entry scripts and `training.py` see it whole."""

    architecture: Architecture = "gpt"
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig
    data_efficiency: Mapping[str, Any] = field(default_factory=dict)
    """The section of DeepSpeed's JSON file, without the keys that are settings above."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Other sections of that file, likewise; fp16 and bf16 count in their precision only."""
    deepspeed: Mapping[str, Any] = field(default_factory=dict)
    """Sections that count with --deepspeed only."""

    def __post_init__(self) -> None:
        require(
            self.data.seq_length <= self.model.max_position_embeddings,
            "seq_length",
            self.data.seq_length,
            f"must not exceed --max-position-embeddings ({self.model.max_position_embeddings})",
        )
        require(
            self.architecture == "gpt" or not self.logging.sample_prompts,
            "sample_prompts",
            list(self.logging.sample_prompts),
            "a BERT writes no texts; it belongs to pretrain_gpt.py",
        )
        for one in fields(self.data):
            if self.architecture == "gpt" and BERT_ONLY in DataConfig.marks.get(one.name, ()):
                value = getattr(self.data, one.name)
                require(value == one.default, one.name, value, ONLY_FOR_BERT)

    @property
    def num_whole_steps(self) -> int:
        """Steps in which whole samples fill the nearest budget."""
        training = self.training
        samples = [] if training.train_samples is None else [training.train_samples]
        if training.train_tokens is not None:
            samples.append(-(-training.train_tokens // self.data.seq_length))
        steps = [-(-number // training.batch_size) for number in samples]
        return min(steps if training.train_iters is None else [*steps, training.train_iters])

    @property
    def save_interval(self) -> int | None:
        """Steps between checkpoints; None: one at the end."""
        saving = self.checkpoint
        if saving.save_interval is not None or saving.num_checkpoints is None:
            return saving.save_interval
        return max(1, self.num_whole_steps // saving.num_checkpoints)


CONFIG_GROUPS: tuple[type, ...] = (
    ModelConfig,
    DataConfig,
    TrainingConfig,
    CheckpointConfig,
    LoggingConfig,
)
SECTIONS = ("data_efficiency", "engine", "deepspeed")
"""Fields of a run that hold parts of DeepSpeed's JSON file."""


def without_none(hint: Any) -> Any:
    """The type besides None in an optional type."""
    if isinstance(hint, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def group_name(config_class: type) -> str:
    """What a group of settings is called in `RunConfig` and in a run file.

    Example:
        >>> group_name(ModelConfig)
        'model'
    """
    return config_class.__name__.removesuffix("Config").lower()
