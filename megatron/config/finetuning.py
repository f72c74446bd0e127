"""Settings of finetuning, beside those that it shares with pretraining."""

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron.config.steps import StepConfig
from megatron.setting_rules import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_BELOW_ONE,
    Range,
    Settings,
)


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(Settings):
    """The model that is finetuned."""

    pretrained: str
    """Hub name or folder of a causal language model of Hugging Face."""
    num_layers: Annotated[int | None, POSITIVE] = None
    """Layers of the model, for a plan alone; a run reads it from the model."""


@dataclass(frozen=True, kw_only=True)
class ImageModelConfig(PretrainedConfig):
    """The vision transformer that is finetuned."""

    pretrained: str
    """timm:NAME, or hub name or folder of a Hugging Face ViT or DINOv2."""
    image_size: Annotated[int, POSITIVE] = 224
    """Pixels of a side that the model takes."""
    num_positions: Annotated[int | None, POSITIVE] = None
    """Patches and class token of an image, for a plan alone, as the layers."""


@dataclass(frozen=True, kw_only=True)
class PretrainedBertConfig(Settings):
    """The BERT that is finetuned."""

    pretrained: str
    """A run or checkpoint of ours, or a Hugging Face folder."""
    tokenizer_file: str | None = None
    """tokenizer.json, if it does not lie with the model."""


@dataclass(frozen=True, kw_only=True)
class SampledDataConfig(Settings):
    """What the sampler of a curriculum needs."""

    num_samples: Annotated[int | None, POSITIVE] = None
    """Training samples, for a plan alone; a run counts them."""
    difficulty: str = "difficulty"
    """Folder of the difficulty indexes: a metric's `index_path` of "auto" is the folder of the metric's
    name below it."""
    num_workers: Annotated[int, NOT_NEGATIVE] = 0
    """Processes that read training batches ahead."""


@dataclass(frozen=True, kw_only=True)
class TextDataConfig(SampledDataConfig):
    """The text, as blocks of tokens."""

    text: str | None = None
    """A .jsonl file (field "text"), a plain text file, or a data set on the hub."""
    text_config: str | None = None
    """Configuration of the hub's data set."""
    validation_share: Annotated[float, SHARE_BELOW_ONE] = 0.05
    """Part of the documents, where the source has no parts of its own."""
    test_share: Annotated[float, SHARE_BELOW_ONE] = 0.05
    """Likewise."""
    seq_length: Annotated[int, POSITIVE] = 1024
    """Tokens of a block, which is a sample."""
    group_rows: Annotated[int, NOT_NEGATIVE] = 0
    """Lay so many texts end to end, leaving out what does not fill a block; 0: all. Published: 1000."""
    separator: bool = True
    """The end-of-text token behind each text."""
    max_train_blocks: Annotated[int | None, POSITIVE] = None
    """Use the first ones only."""
    max_eval_blocks: Annotated[int | None, POSITIVE] = None
    """Likewise for validation and test."""


@dataclass(frozen=True, kw_only=True)
class ImageDataConfig(SampledDataConfig):
    """The images."""

    dataset: Literal["cifar10", "cifar100", "folder"] = "folder"
    """CIFAR by torchvision, or a folder."""
    folder: str = "data"
    """Of the images: train/CLASS and test/CLASS or val/CLASS, or CLASS alone. CIFAR is loaded into it."""
    classes: tuple[str, ...] = ()
    """Only these of the classes; all of them if none is named."""
    validation_share: Annotated[float, SHARE_BELOW_ONE] = 0.1
    """Part of the training images; 0 validates on the test images, as published."""
    resize: Annotated[int | None, POSITIVE] = None
    """Shorter side before cutting. Not given: 8/7 of the model's size."""
    padding: Annotated[int, NOT_NEGATIVE] = 0
    """Pixels around training images."""
    counted_batch: Annotated[int | None, POSITIVE] = None
    """Batch that a published count was made with, for a plan alone."""


@dataclass(frozen=True, kw_only=True)
class GlueDataConfig(Settings):
    """The task and its examples."""

    data: str
    """Folder of the tasks' folders, or "hub"."""
    task: str
    """A GLUE task, or a folder with a classification in JSON lines."""
    max_length: Annotated[int, Range("must be above 8", lambda value: value > 8)] = 512
    """Most tokens of an example."""
    group_by_length: bool = False
    """Batches of examples of similar length: less padding, another order than the published one."""
    max_train_examples: Annotated[int | None, POSITIVE] = None
    """Only the first ones, for a quick look."""


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig(StepConfig):
    """Duration, optimizer and learning rate of finetuning."""

    epochs: Annotated[float, POSITIVE] = 2.0
    """Length of the run: what a run with neither technique spends in so many passes."""
    budget: Literal["steps", "consumed_token", "layer_tokens"] = "steps"
    """What the epochs are counted in: steps, the published consumed_token (rows x layer-averaged length, rounded
    down), or layer tokens."""
    lr: Annotated[float, NOT_NEGATIVE] = 5e-5
    """Peak learning rate."""
    lr_decay_style: Literal["constant", "linear", "thirds"] = "constant"
    """Over the budget: thirds is a tenth after each third."""
    lr_warmup_iters: Annotated[int, NOT_NEGATIVE] = 0
    """Steps of linear warm-up, of whole rows where the rate follows tokens."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """SGD has a momentum of 0.9."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    """Decay of all weights."""
    dropout: bool = True
    """Train with the model's own dropout."""
    random_ltd_share: Annotated[float, SHARE] = 0.3
    """Part of the steps without techniques after which all tokens are kept, where `require_steps` is "auto"."""
    curriculum_share: Annotated[float, SHARE] = 0.7
    """The same for `total_curriculum_step`."""
    eval_interval: Annotated[int, POSITIVE] = 50
    """Steps between evaluations; there is one at the end as well."""
    eval_batch_size: Annotated[int, POSITIVE] = 4
    """Samples of a forward pass in evaluation."""


@dataclass(frozen=True, kw_only=True)
class GlueTrainingConfig(StepConfig):
    """Hyperparameters; the defaults are the published ones.

    Source: the data efficiency paper (Li et al., 2022), appendix on BERT finetuning, and its scripts.
    """

    epochs: Annotated[int, POSITIVE] = 3
    """Passes over the examples, with an evaluation after each."""
    micro_batch_size: Annotated[int, POSITIVE] = 32
    """Samples of one forward pass on one process; fewer where that many processes leave it fewer of the
    global batch."""
    lr: Annotated[float, NOT_NEGATIVE] = 2e-5
    """Peak learning rate."""
    warmup_fraction: Annotated[float, SHARE_BELOW_ONE] = 0.1
    """Part of the steps that warms up; from there the rate falls to 0."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.1
    """Decoupled weight decay of matrices; biases and normalization weights have none."""
    dropout: Annotated[float, SHARE_BELOW_ONE] = 0.1
    """In the encoder and before the output layer."""


@dataclass(frozen=True, kw_only=True)
class GlueCheckpointConfig(Settings):
    """Where the run is kept."""

    save: str | None = None
    """Folder of the run: log, run.toml, and the last checkpoint until it is finished. It goes on from there."""
    save_interval: Annotated[int, POSITIVE] = 1000
    """Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class FinetuningCheckpointConfig(GlueCheckpointConfig):
    """Where the run is kept."""

    save_interval: Annotated[int, POSITIVE] = 50
    """Steps between checkpoints."""
    export: bool = False
    """Write the finetuned model into `model` below the run's folder."""
