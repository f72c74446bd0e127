"""The section `data_sampling` of the JSON file: curriculum, batches, mix and loader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from data_efficiency.config.batch_size import BatchSize, read_batch_size
from data_efficiency.config.curriculum import CurriculumKeys, Metrics, read_curriculum
from data_efficiency.config.feedback import Feedback, read_feedback
from data_efficiency.config.length_buckets import LengthBuckets, read_length_buckets
from data_efficiency.config.metric_keys import OpenLengthPlan
from data_efficiency.config.metrics import LengthPlan
from data_efficiency.config.mix import Mix, read_mix
from data_efficiency.json_section import ConfigError, Faults, NotNegative, Positive, Section


@dataclass(frozen=True, kw_only=True)
class DataSamplingKeys:
    """`data_efficiency.data_sampling`."""

    enabled: bool = False
    """Must agree with curriculum_learning.enabled; alone it has no effect."""
    num_epochs: Positive = 1000
    """Upper bound on the samples drawn, in multiples of the dataset."""
    num_workers: NotNegative = 0
    """Processes that read batches ahead; 0: the main process reads."""
    pin_memory: bool = False
    """Batches in page-locked memory, for copies to a GPU."""
    batch_size: Section
    """How many samples a step has, as the run goes on, see below. Not given: train_batch_size."""
    length_buckets: Section
    """Rows of several lengths, one length a step, equally many tokens in each, see below. Not given: rows have one length."""
    dynamic_batching: Section
    """Refused when enabled: its batches follow from the samples' lengths alone. `batch_size` and a metric's
    `constant_tokens` are what composes with a curriculum."""
    feedback: Section
    """Draw samples by the losses that the run has on them, see below. Not given: losses choose nothing."""
    mix: Section
    """Weights of a blend's parts as functions of the tokens drawn, see below. Not given: the dataset's weights."""
    curriculum_learning: Section
    """Metrics, see below."""


READERS: Mapping[str, Callable[[Section], Any]] = {
    "mix": read_mix,
    "batch_size": read_batch_size,
    "feedback": read_feedback,
    "length_buckets": read_length_buckets,
}
"""Sections inside it, which are off where they are not given."""


@dataclass(frozen=True, kw_only=True)
class DataSampling:
    """The section as it was read."""

    keys: DataSamplingKeys
    curriculum: CurriculumKeys
    curriculum_path: str
    metrics: Metrics
    mix: Mix | None = None
    batch_size: BatchSize | None = None
    feedback: Feedback | None = None
    length_buckets: LengthBuckets | None = None

    @property
    def paced(self) -> tuple[LengthPlan | OpenLengthPlan, ...]:
        """What happens to the lengths of rows."""
        return (*self.metrics.length_plans, *self.metrics.open_plans)

    @property
    def has_metrics(self) -> bool:
        """Whether a metric chooses samples or paces lengths."""
        return bool(self.metrics.selections or self.paced)

    @property
    def is_on(self) -> bool:
        """Whether anything in the section changes which samples a step has, or what becomes of them."""
        return self.has_metrics or any(getattr(self, name) is not None for name in READERS)

    def fields(self) -> dict[str, Any]:
        """Those of `DataEfficiencyConfig` that the section says.

        Raises:
            ConfigError: for axes that are none.
        """
        keys, curriculum, metrics = self.keys, self.curriculum, self.metrics
        return {
            "num_epochs": keys.num_epochs,
            "num_workers": keys.num_workers,
            "pin_memory": keys.pin_memory,
            "selections": metrics.selections,
            "order": metrics.order,
            "random_rank": curriculum.random_rank and self.has_metrics,
            **{name: getattr(self, name) for name in READERS},
            "length_plans": metrics.length_plans,
            "open_length_plans": metrics.open_plans,
            "metric_names": tuple(curriculum.curriculum_metrics) if self.has_metrics else (),
            "sequence_axes": curriculum.axes(self.curriculum_path),
            "data_cluster_path": curriculum.data_cluster_path,
        }


def read_data_sampling(section: Section, faults: Faults) -> DataSampling | None:
    """The parsed section.

    Args:
        faults: keeps what is wrong in it; then None may be returned.
    """
    curriculum_section = section.section("curriculum_learning")
    keys = faults.ask(lambda: section.read(DataSamplingKeys))
    curriculum = faults.ask(lambda: read_curriculum(curriculum_section))
    parts: dict[str, Any] = {}
    if keys is not None:
        faults.ask(partial(_refuse_dynamic_batching, keys.dynamic_batching))
    for name, read in READERS.items():
        if section.content.get(name) is not None:
            own = section.section(name) if keys is None else getattr(keys, name)
            parts[name] = faults.ask(partial(read, own))
    faults.ask(section.close)
    if keys is None or curriculum is None:
        return None
    found, metrics = curriculum
    return DataSampling(
        keys=keys,
        curriculum=found,
        curriculum_path=curriculum_section.path,
        metrics=metrics,
        **parts,
    )


def _refuse_dynamic_batching(section: Section) -> None:
    """Raise ConfigError where it is on, naming what does here what its keys ask for."""
    if not section.boolean("enabled", False):
        return
    method = section.content.get("lr_scaling_method", "linear")
    exponent = {"linear": 1, "sqrt": 0.5, "none": 0}.get(str(method))
    if exponent is None:
        raise ConfigError(
            f"{section.path}.lr_scaling_method is {method!r}: must be one of linear, sqrt, none"
        )
    raise ConfigError(
        f"{section.path}.enabled is true: it packs samples by their lengths and leaves out those above max_tokens, so that "
        "neither a seed nor a metric chooses what a batch holds; remove the section. For steps whose size changes take "
        f'data_sampling.batch_size with "lr_exponent": {exponent} (its lr_scaling_method {method}), for one number of tokens '
        "along a ramp of lengths constant_tokens, for rows without padding trim_padding"
    )
