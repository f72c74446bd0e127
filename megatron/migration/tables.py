"""Flags of Megatron-DeepSpeed that are not ours: what each becomes here, or why there is none like it.

These tables are what the commands read and what docs/migration.md is made of, so they cannot disagree.
A flag that takes a value ends in "=", one that takes several in "=*".

Source: `arguments.py`, `analyze_data.py`, `preprocess_data.py` and the evaluation of
microsoft/Megatron-DeepSpeed (December 2024), and the command lines of its examples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_ONE_STACK = "a model is one stack of layers"
_NO_VARIANT = "the model has no such variant"
_NO_EXPERTS = "layers have no experts"
_SPLIT = (
    "a model is not split so over processes",
    "--tensor-model-parallel-size, or zero_optimization.stage 2 or 3 in the JSON file",
)
_JSON = "the JSON file says it"
_RECOMPUTED = "each layer is recomputed in the backward pass"
_SHUFFLED = "samples are shuffled anew for each pass over the data"
_WHOLE = "a checkpoint holds all of a run, and a run goes on with all of it"
LEAVE_OUT = "leave it out"


class Fate(NamedTuple):
    """What becomes of one flag."""

    num_values: int | None
    """None for one or more."""
    becomes: str = ""
    """Ours, with "{}" for the value; nothing where there is none."""
    holds_with: str | None = None
    """The values with which it holds here anyway, spaces between them; None for any."""
    reason: str = ""
    instead: str = ""


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What becomes of the flags of one of their commands; flags of one entry have spaces between them."""

    becomes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Flags -> ours, with "{}" for the value, and why."""
    holds: Mapping[str, str] = field(default_factory=dict)
    """Flags -> why they hold here anyway."""
    holds_with: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    """Flags -> the values with which they do, why, and what to do about others."""
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Flags -> why, and what to do instead."""

    def entries(self) -> Iterator[tuple[str, Fate]]:
        """Flags of one entry, as the tables have them, and their fate but for the number of values."""
        for flags, (ours, reason) in self.becomes.items():
            yield flags, Fate(0, becomes=ours, reason=reason)
        for flags, reason in self.holds.items():
            yield flags, Fate(0, reason=reason)
        for flags, (values, reason, instead) in self.holds_with.items():
            yield flags, Fate(0, holds_with=values, reason=reason, instead=instead)
        for flags, (reason, instead) in self.refused.items():
            yield flags, Fate(0, holds_with="", reason=reason, instead=instead)

    def fates(self) -> Iterator[tuple[str, Fate]]:
        """Each flag by itself."""
        for flags, fate in self.entries():
            for text in flags.split():
                flag, takes, many = text.partition("=")
                yield flag, fate._replace(num_values=None if many else len(takes))


PRETRAINING = Migration(
    becomes={
        "--encoder-num-layers=": ("--num-layers {}", _ONE_STACK),
        "--encoder-seq-length=": ("--seq-length {}", _ONE_STACK),
        "--openai-gelu": ("--gelu tanh", "the same approximation"),
        "--use-flash-attn --use-flash-attn-v1 --use-flash-attn-v2 --use-flash-attn-triton"
        " --use-flash-attn-builder": ("--attention-implementation flash", "the package flash-attn"),
        "--override-opt_param-scheduler": (
            "--override clock",
            "the command line's learning rate counts, its clock too",
        ),
        "--checkpoint-activations --deepspeed-activation-checkpointing": (
            "--recompute-activations",
            _RECOMPUTED,
        ),
        "--ds_fused_adam": ("--optimizer-implementation fused", "one kernel for many weights"),
        "--tensorboard-dir=": ("--trackers tensorboard", "events lie in the folder of --save"),
    },
    holds={
        "--no-query-key-layer-scaling": "nothing is scaled by the layer's number",
        "--attention-softmax-in-fp32": "the kernels sum in float32",
        "--no-masked-softmax-fusion --no-bias-gelu-fusion --no-bias-dropout-fusion"
        " --no-persist-layer-norm --disable-mem-efficient-ln --no-gradient-accumulation-fusion"
        " --no-async-tensor-model-parallel-allreduce"
        " --no-contiguous-buffers-in-local-ddp": "there is no such kernel to switch off",
        "--data-cache-path=": "no index of samples is built, so none is kept",
        "--mmap-warmup": "a corpus is read as it is needed",
        "--exit-signal-handler": "a signal always saves and stops",
        "--return-data-index": "the sampler knows the numbers of samples",
        "--exit-on-missing-checkpoint": "--load without a checkpoint is an error, unless"
        " --allow-missing-checkpoint is given",
        "--universal-checkpoint": "every checkpoint loads with any number of processes and ZeRO stage",
        "--log-timers-to-tensorboard --log-batch-size-to-tensorboard"
        " --log-validation-ppl-to-tensorboard --log-world-size-to-tensorboard": "log.jsonl has it",
        "--tensorboard-queue-size=": "events are written as they come",
        "--timing-log-option=": "the time of a step is logged",
        "--no-pipeline-parallel": "there are no pipelines",
        "--distributed-backend=": "as there, the device decides",
        "--local_rank= --local-rank=": "the launcher's environment says it",
        "--use-cpu-initialization": "weights are drawn on the CPU",
        "--sequence-parallel": "it goes with --tensor-model-parallel-size in any case",
        "--zero-stage=": "as there, zero_optimization.stage in the JSON file counts",
    },
    holds_with={
        "--rotary-percent=": ("1", "all channels of a head are rotated", LEAVE_OUT),
        "--num-experts=*": ("1", _NO_EXPERTS, LEAVE_OUT),
        "--mlp-type=": ("standard", _NO_EXPERTS, LEAVE_OUT),
        "--data-impl=": (
            "mmap infer",
            "corpora are memory-mapped",
            "make the corpus with tools/preprocess_data.py",
        ),
        "--tokenizer-type=": (
            "GPT2BPETokenizer BertWordPieceLowerCase BertWordPieceCase",
            "the kind shows from the files of --vocab-file and --merge-file",
            "--tokenizer-file tokenizer.json, or no tokenizer and --vocab-size",
        ),
        "--vocab-extra-ids=": ("0", "the vocabulary is the tokenizer's", "raise --vocab-size"),
        "--dataloader-type=": ("single cyclic", _SHUFFLED, LEAVE_OUT),
        "--weight-decay-incr-style=": ("constant", "weight decay is constant", "--weight-decay"),
        "--hysteresis=": ("2", f"{_JSON}, or else it is 2", "fp16.hysteresis there"),
        "--checkpoint-num-layers= --recompute-num-layers=": ("1", _RECOMPUTED, LEAVE_OUT),
        "--train-data-exact-num-epochs=": (
            "1",
            "a sample's number is its place in the corpus, whatever the pass",
            "leave it out; num_epochs in the JSON file's data_sampling limits the passes",
        ),
        "--timing-log-level=": ("0", "the time of a step is logged", LEAVE_OUT),
        "--pipeline-model-parallel-size=": (
            "1",
            "a schedule of stages would own the step, and each length of a curriculum need its own",
            _SPLIT[1],
        ),
        "--context-parallel-size= --ds-sequence-parallel-size=": (
            "1",
            "dropped tokens make the processes' shares of a row uneven",
            "--tensor-model-parallel-size, which shares rows between layers",
        ),
        "--moe-expert-parallel-size=": ("1", _NO_EXPERTS, LEAVE_OUT),
        "--DDP-impl=": ("local torch", "processes share gradients", _SPLIT[1]),
        "--empty-unused-memory-level=": ("0", "PyTorch keeps the memory that it has", LEAVE_OUT),
    },
    refused={
        "--decoder-num-layers= --decoder-seq-length=": (_ONE_STACK, LEAVE_OUT),
        "--kv-channels=": ("a head has hidden size / heads channels", "--num-attention-heads"),
        "--no-position-embedding": (
            "positions are learned or rotary",
            "--use-rotary-position-embeddings, which takes the place of learned ones",
        ),
        "--apply-residual-connection-post-layernorm": (
            _NO_VARIANT,
            "--normalization-position after for the original BERT",
        ),
        "--apply-layernorm-1p --squared-relu --onnx-safe --bert-no-binary-head"
        " --embedding-weights-in-fp32 --init-method-xavier-uniform --fp32-residual-connection"
        " --no-initialization": (_NO_VARIANT, LEAVE_OUT),
        "--topk= --expert-interval= --moe-loss-coeff= --moe-train-capacity-factor="
        " --moe-eval-capacity-factor= --moe-min-capacity=": (_NO_EXPERTS, LEAVE_OUT),
        "--train-data-path=* --valid-data-path=* --test-data-path=*": (
            "one corpus is divided by documents",
            "--data-path with --split",
        ),
        "--tokenizer-model=": (
            "SentencePiece's own files are not read",
            "--tokenizer-file with the tokenizer.json that transformers makes of it",
        ),
        "--trust-remote-code": ("no code of a tokenizer is run", "--tokenizer-file tokenizer.json"),
        "--use-dataset-only --repeated-dataloader": (
            "samples are windows of running text",
            LEAVE_OUT,
        ),
        "--aml-data-download-path=": ("a corpus lies in files", "--data-path"),
        "--sgd-momentum=": ("weights are updated by AdamW", LEAVE_OUT),
        "--start-weight-decay= --end-weight-decay=": ("weight decay is constant", "--weight-decay"),
        "--lr-warmup-fraction=": (
            "a warm-up is so many tokens, samples or steps",
            "--lr-warmup-tokens, --lr-warmup-samples or --lr-warmup-iters",
        ),
        "--use-checkpoint-opt_param-scheduler --use-checkpoint-args": (
            "the command line counts, and is compared with the checkpoint",
            "give the flags that the run was started with",
        ),
        "--loss-scale= --initial-loss-scale= --min-loss-scale= --loss-scale-window=": (
            _JSON,
            "fp16.loss_scale, initial_scale_power, min_loss_scale, loss_scale_window there",
        ),
        "--accumulate-allreduce-grads-in-fp32": (_JSON, "data_types.grad_accum_dtype there"),
        "--fp16-lm-cross-entropy": ("the loss is computed in float32", LEAVE_OUT),
        "--recompute-granularity= --recompute-method=": (_RECOMPUTED, "--recompute-activations"),
        "--distribute-checkpointed-activations --partition-activations --contigious-checkpointing"
        " --checkpoint-in-cpu --synchronize-each-layer --profile-backward": (
            _RECOMPUTED,
            "--recompute-activations alone",
        ),
        "--cpu-optimizer --cpu_torch_adam": (_JSON, "zero_optimization.offload_optimizer there"),
        "--skip-train --inference": (
            "a run trains",
            "tools/evaluate_gpt.py or tools/generate_text.py",
        ),
        "--exit-interval=": (
            "a run ends with its budget or its time",
            "--train-iters or --exit-duration-in-mins",
        ),
        "--kill-switch-file=": ("a run is stopped by a signal", "send it SIGTERM or SIGUSR1"),
        "--train-idx-path= --train-desc-path= --train-doc-idx-path= --train-sample-idx-path="
        " --train-shuffle-idx-path=": (
            "a sample's number is its place in the corpus, and no index of samples is built",
            "leave it out; `tools/analyze_data.py import` takes over difficulties measured there",
        ),
        "--no-save-optim --no-save-rng": (
            _WHOLE,
            "leave it out; tools/convert_checkpoint.py makes a folder of weights alone",
        ),
        "--no-load-optim --no-load-rng --no-load-lr-state --finetune --reset-iteration": (
            _WHOLE,
            LEAVE_OUT,
        ),
        "--load-tag=": ("a run goes on from its newest whole checkpoint", "move newer ones away"),
        "--log-params-norm --log-num-zeros-in-grad --log-optimizer-states-to-tensorboard"
        " --log-memory-to-tensorboard": (
            "it is not measured",
            "leave it out; the gradient's norm stands in log.jsonl",
        ),
        "--no-log-learnig-rate-to-tensorboard --no-log-loss-scale-to-tensorboard": (
            "what is logged is always the same",
            LEAVE_OUT,
        ),
        "--tensorboard-log-interval=": (
            "events are written with each line of the log",
            "--log-interval",
        ),
        "--wandb-project= --wandb-exp-name= --wandb-save-dir=": (
            "the run's folder names it",
            "--trackers wandb, --tracker-project",
        ),
        "--profile= --profile_steps= --profile-ranks=*": (
            "it is not measured",
            "run the command under a profiler",
        ),
        "--force-ds-sequence-parallel --enable-zbh1-pipeline"
        " --num-layers-per-virtual-pipeline-stage=": _SPLIT,
        "--use-distributed-optimizer": (_JSON, "zero_optimization.stage 1 there, with --deepspeed"),
        "--zero-reduce-scatter --zero-contigious-gradients --zero-reduce-bucket-size="
        " --zero-allgather-bucket-size= --remote-device=": (_JSON, "zero_optimization there"),
    },
)
PREPROCESSING = Migration(
    becomes={
        "--json-key=*": ("--json-keys {}", "one corpus a key"),
        "--lang=": ("--language {}", "of the Punkt model"),
    },
    holds={
        "--partitions=": "one input is read by all of --workers",
        "--log-interval=": "progress is told as it goes",
    },
    holds_with={
        "--dataset-impl=": ("mmap", "corpora are memory-mapped", LEAVE_OUT),
        "--tokenizer-type=": PRETRAINING.holds_with["--tokenizer-type="],
    },
    refused={
        "--tokenizer-model=": PRETRAINING.refused["--tokenizer-model="],
        "--trust-remote-code": PRETRAINING.refused["--trust-remote-code"],
        "--keep-newlines": ("sentences are cut as nltk's Punkt cuts them", LEAVE_OUT),
        "--vocab-size= --seq-length=": ("the tokenizer's files say it", LEAVE_OUT),
    },
)
ANALYSIS = Migration(
    refused={
        "--analyzing-task=": (
            "the steps are commands",
            "`run`, or `map` and `reduce`, before the flags",
        ),
        "--analyzing-data-type=": ("it has a shorter name", "--data-type gpt or bert"),
        "--analyzing-metric=*": ("a call measures one metric", "--metric"),
        "--analyzing-num-workers=": ("it has a shorter name", "--num-workers"),
        "--analyzing-worker-id=": ("it has a shorter name", "--worker-id"),
        "--analyzing-num-threads= --analyzing-num-threads-reduce=": (
            "they are processes",
            "--num-processes",
        ),
        "--analyzing-specific-threads=*": (
            "what is missing is found",
            "leave it out and run again",
        ),
    }
)
EVALUATION = Migration(
    becomes={
        "--load=": ("--checkpoint {}", "a run or a checkpoint"),
        "--task_list=": ("--tasks {}", "names with commas between them"),
        "--results_path=": ("--output {}", "JSON"),
        "--num_fewshot=": ("--num-fewshot {}", "solved examples before each question"),
        "--eval_fp32": ("--dtype float32", "which is the default"),
        "--micro-batch-size=": ("--batch-size {}", "questions at once"),
    },
    holds={
        "--adaptive_seq_len": "a batch is as long as its longest row",
        "--inference --no-load-optim --no-load-rng": "only weights are read",
    },
)
MIGRATIONS = {
    "pretrain_gpt.py and pretrain_bert.py": PRETRAINING,
    "tools/preprocess_data.py": PREPROCESSING,
    "tools/analyze_data.py": ANALYSIS,
    "tools/evaluate_gpt.py": EVALUATION,
}
OTHER_DEFAULTS = {
    "--lr-decay-style": "linear",
    "--attention-dropout": "0.1",
    "--hidden-dropout": "0.1",
    "--log-interval": "100",
}
"""Flags of pretraining that both have, and what they are there where they are not given."""
