"""What a run and the checkpoint it continues from must have in common.

A record holds one entry for each name that `--override` knows. Two records differ where the run would
go on as another one without anybody noticing: other text, another order of it, other batches. What
may change freely is not in it: processes, engine, micro-batch, workers, logging, evaluation, saving,
and where files lie.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from data_efficiency import DataEfficiencyConfig
from data_efficiency.config import RandomLTDConfig, Selection
from data_efficiency.differences import differing_leaves
from data_efficiency.sampling.sampler_state import SamplerIdentity
from megatron.config import GUARDED_SETTINGS, ModelConfig, RunConfig

Record = Mapping[str, Any]

SHAPE_NEUTRAL_FIELDS = ("attention_dropout", "hidden_dropout", "recompute_activations")
_MASKING_FIELDS = ("mask_prob", "mask_whole_words")
_DOCUMENT_FIELDS = ("reset_attention_mask", "reset_position_ids", "eod_mask_loss")
_NEW_FIELDS = {"spans": (), "always_keep_labelled": False, "residual_scale": "none"}
"""Fields of random-LTD that came after the first checkpoints -> what they then were."""
_NAMED_APART = ("split", "sequence_length", "tokenizer")
"""Fields of a dataset's identity that have names of their own in a record."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field in which two records differ."""

    name: str
    """What `--override` calls it."""
    field: str
    """The name, and the field in its entry."""
    saved: Any
    own: Any

    def __str__(self) -> str:
        return f"{self.field} is {self.own!r} here and {self.saved!r} there"


def guarded_record(
    config: RunConfig,
    *,
    data_efficiency: DataEfficiencyConfig,
    dataset_identity: Mapping[str, Any],
    sampler_identity: SamplerIdentity,
    clock: str,
    stage_starts: Sequence[int] = (),
) -> dict[str, Any]:
    """The record of a run, plain JSON data."""
    dropping, dropout = data_efficiency.closed_random_ltd, data_efficiency.layer_dropout
    bags = data_efficiency.token_superposition
    documents = {name: getattr(config.data, name) for name in _DOCUMENT_FIELDS}
    record = {
        "data": {
            "identity": _without(dataset_identity, _NAMED_APART),
            "weights": sampler_identity.part_weights,
        },
        "tokenizer": dataset_identity.get("tokenizer"),
        "masking": {name: getattr(config.data, name) for name in _MASKING_FIELDS},
        # None as in checkpoints of before.
        "documents": documents if any(documents.values()) else None,
        "split": config.data.split,
        "seq_length": config.data.seq_length,
        "global_batch_size": config.training.batch_size,
        "seed": config.training.seed,
        "difficulty_index": sampler_identity.index_checksums,
        "curriculum": _curriculum(data_efficiency),
        "random_ltd": None
        if dropping is None
        else {
            **_plain(dropping, leave_out=("seed", *_at_their_defaults(dropping))),
            **_rounding(dropping, data_efficiency.row_shares),
        },
        "layer_dropout": None if dropout is None else _plain(dropout, leave_out=("seed",)),
        "full_from_step": data_efficiency.full_from_step,
        "token_superposition": None if bags is None else _plain(bags),
        "feedback": None
        if data_efficiency.feedback is None
        else data_efficiency.feedback.section(),
        "batch_size": None
        if data_efficiency.batch_size is None
        else _plain(data_efficiency.batch_size, leave_out=("row_length",)),
        "length_buckets": None
        if data_efficiency.length_buckets is None
        else _plain(data_efficiency.length_buckets, leave_out=("sizes",)),
        "selective_backprop": config.training.selective_backprop,
        "stages": {
            str(number): {"first_step": start, **vars(stage)}
            for number, (start, stage) in enumerate(
                zip(stage_starts, config.stages, strict=True), start=1
            )
        }
        or None,
        "clock": {"steps": "iters", "samples": "samples"}.get(clock, f"tokens ({clock})"),
    }
    assert set(record) == set(GUARDED_SETTINGS)
    return record


def differences(saved: Record, own: Record) -> list[Difference]:
    """Each field in which two records differ, by name and then by field.

    Example:
        >>> for difference in differences({"seed": 1, "split": "1"}, {"seed": 2, "split": "1"}):
        ...     print(difference)
        seed is 2 here and 1 there
    """
    return [
        Difference(name=name, field=field, saved=there, own=here)
        for name in sorted({*saved, *own})
        for field, there, here in differing_leaves(saved.get(name), own.get(name), name)
    ]


def refuse_differences(found: Sequence[Difference], override: Collection[str]) -> None:
    """Raise ValueError unless every difference is one that `--override` names.

    The message lists the others, both values of each, and the flag that lifts them.
    """
    refused = [difference for difference in found if difference.name not in override]
    if refused:
        names = " ".join(dict.fromkeys(difference.name for difference in refused))
        raise ValueError(
            "the checkpoint is of a run with other settings: "
            f"{'; '.join(map(str, refused))}; if this is meant, add --override {names}"
        )


def model_differences(saved: Record, own: ModelConfig) -> list[str]:
    """One text for each setting that gives the model another shape or meaning."""
    return [
        f"--{name.replace('_', '-')} is {value!r} here and {saved.get(name)!r} there"
        for name, value in asdict(own).items()
        if name not in SHAPE_NEUTRAL_FIELDS and saved.get(name) != value
    ]


def _curriculum(settings: DataEfficiencyConfig) -> dict[str, Any]:
    """Metric name -> its settings, in the words of the first checkpoints: one entry a metric."""
    selections = {selection.name: selection for selection in settings.selections}
    length_plans = {plan.name: plan for plan in settings.length_plans}
    record = {}
    for name, metric in {**selections, **length_plans}.items():
        plan = length_plans.get(name)
        record[name] = {
            "kind": "MetricConfig",
            "difficulty_type": metric.difficulty_type,
            "clustering_type": _clustering_type(selections.get(name)),
            "min_difficulty": metric.min_difficulty,
            "max_difficulty": metric.max_difficulty,
            "schedule": _plain(metric.schedule),
            "sequence_length": None if plan is None else plan.action,
            "length_multiple": 1 if plan is None else plan.length_multiple,
            **({"constant_tokens": True} if plan is not None and plan.constant_tokens else {}),
            **(
                {}
                if plan is None or plan.keep_end_token is None
                else {"keep_end_token": plan.keep_end_token}
            ),
            **_only_where_used(settings, selections.get(name)),
        }
    return record


def _at_their_defaults(dropping: RandomLTDConfig) -> list[str]:
    """Fields that older checkpoints do not have, where they change nothing."""
    return [name for name, default in _NEW_FIELDS.items() if getattr(dropping, name) == default]


def _rounding(dropping: RandomLTDConfig, row_shares: int) -> dict[str, int]:
    """What kept lengths are rounded up to, where the processes that share rows make other lengths of them."""
    return {} if dropping.keeps_multiples_of(row_shares) else {"row_shares": row_shares}


def _clustering_type(selection: Selection | None) -> str:
    if selection is None:
        return "single_cluster"
    return "sorted" if selection.sorts else "schedule_based"


def _only_where_used(settings: DataEfficiencyConfig, selection: Selection | None) -> dict[str, Any]:
    """What the first checkpoints did not have, so that theirs still fit."""
    if selection is None:
        return {}
    found = {
        "window_size": selection.window_size,
        "num_bands": selection.num_bands,
        "order": None if settings.order is None else _plain(settings.order),
        "random_rank": settings.random_rank or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _without(identity: Any, names: Collection[str]) -> Any:
    """An identity without some fields, at any depth; a corpus's number of samples follows from them."""
    if not isinstance(identity, Mapping):
        return identity
    follows = ("num_samples",) if "corpus" in identity else ()
    return {
        key: _without(value, names)
        for key, value in identity.items()
        if key not in (*names, *follows)
    }


def _plain(settings: Any, leave_out: Collection[str] = ()) -> Any:
    """Parsed settings as JSON data; a function of the user's by its kind alone."""
    if is_dataclass(settings):
        fields = {
            key: _plain(value) for key, value in vars(settings).items() if key not in leave_out
        }
        return {"kind": type(settings).__name__, **fields}
    if isinstance(settings, (list, tuple)):
        return [_plain(value) for value in settings]
    return "custom" if callable(settings) else settings
