"""The `random_ltd` section of the JSON file <-> frozen dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NoReturn, Self

from data_efficiency.accounting import LearningRate
from data_efficiency.config.spans import layers_in, read_spans
from data_efficiency.json_section import (
    AUTO,
    FOUND,
    AtLeast,
    ConfigError,
    Faults,
    Given,
    NotNegative,
    Positive,
    Section,
)
from data_efficiency.schedule.protocol import Schedule
from data_efficiency.schedule.registry import kept_length_kinds, read_schedule

LengthUnit = Literal["tokens", "percent"]
TokenScale = Literal["none", "inverse_keep", "length_ratio"]


@dataclass(frozen=True, kw_only=True)
class RandomLTDConfig:
    """Random layerwise token dropping: which layers drop, how they are called, the kept length."""

    total_layer_num: Annotated[int, AtLeast(1), FOUND]
    """Layers of the model; checked against it. "auto": as many as it has."""
    random_ltd_layer_num: Annotated[int, AtLeast(1), FOUND]
    """Layers that drop tokens; must be the length of random_ltd_layer_id. "auto": that."""
    random_ltd_layer_id: Annotated[tuple[int, ...], FOUND]
    """Which layers drop tokens, counted from 0 in the model's order. "auto": all but the first and the last.
    A list of lists names spans: the layers of each, one after the other, keep one subset of the tokens."""
    spans: Given[tuple[tuple[int, ...], ...]] = ()
    """The layers of each subset, where `random_ltd_layer_id` is a list of lists; empty: each layer alone."""
    model_mask_name: Annotated[str | None, FOUND]
    """Keyword under which a layer receives its attention mask, or null. "auto": as its `forward` calls it."""
    model_type: Annotated[Literal["decoder", "encoder"], FOUND] = "decoder"
    """What the layers make; nothing here depends on it. "auto": decoder."""
    hidden_state_order: Annotated[Literal["batch_seq_dim", "seq_batch_dim"], FOUND] = (
        "batch_seq_dim"
    )
    """Order of the first two axes, for layers without a preset; a wrong one is refused at the first step.
    "auto": batch_seq_dim."""
    schedule: Given[Schedule]
    seed: Given[int]
    kept_length_unit: Given[LengthUnit] = "tokens"
    """Unit of the schedule; percent is of the sequence's present length, rounded down."""
    always_keep: tuple[int, ...] = ()
    """Positions that no layer drops, such as [0] for a class token or [0, 1, 2, 3] for the first tokens."""
    always_keep_labelled: bool = False
    """Positions with a label in the loss, such as masked tokens, are kept before all others, as far as the
    kept length goes. The model must be given its `labels`."""
    residual_scale: TokenScale = "none"
    """What a dropping layer's change of a kept token is multiplied by: none (1), inverse_keep (1 / the chance that
    a subset keeps this token), length_ratio (length / kept length)."""
    layer_token_lr: Given[LearningRate | None] = None
    """None: the learning rate does not follow layer tokens."""

    @property
    def subsets(self) -> tuple[tuple[int, ...], ...]:
        """The layers of each subset of tokens: those of the spans, or each layer alone."""
        return self.spans or tuple((layer,) for layer in self.random_ltd_layer_id)

    def kept_length(self, step: int, sequence_length: int | None = None) -> int:
        """Tokens that a dropping layer sees at `step`; a shorter sequence is kept whole.

        Args:
            step: optimizer steps finished, from 0.
            sequence_length: needed where the schedule is in percent of it.

        Raises:
            ValueError: if the schedule gives less than 1 or less than the positions always kept, or
                is in percent and no length is given.
        """
        value = self.schedule.difficulty(step)
        if self.kept_length_unit == "percent":
            if sequence_length is None:
                raise ValueError("the random-LTD schedule is in percent: sequence_length is needed")
            value = max(1, value * sequence_length // 100)
        least = max(1, len(self.always_keep))
        if value < least:
            raise ValueError(
                f"the random-LTD schedule gives {value} tokens at step {step}: at least {least}"
            )
        return value

    def keeps_multiples_of(self, number: int) -> bool:
        """Whether each kept length is known beforehand to be a multiple, as far as a row is not shorter."""
        if number == 1:
            return True
        if self.kept_length_unit == "percent" or not self.schedule.ends:
            return False
        return all(value % number == 0 for _, value in self.schedule.values(0))


@dataclass(frozen=True, kw_only=True)
class RandomLTDKeys:
    """Keys of `data_efficiency.data_routing.random_ltd` beside the fields of `RandomLTDConfig`."""

    enabled: bool = False
    """The switch of random layerwise token dropping."""
    random_ltd_schedule: Section
    """The kept length, see below."""
    layer_token_lr_schedule: Section
    """A learning rate by layer tokens, see below."""
    global_batch_size: Any = None
    """Accepted and not used: written by other tools."""
    micro_batch_size: Any = None
    """Accepted and not used: written by other tools."""


@dataclass(frozen=True, kw_only=True)
class KeptLengthKeys:
    """`random_ltd_schedule`."""

    min_value: Positive
    """Kept tokens at step 0."""
    max_value: int | None = None
    """Kept tokens at the end, normally the sequence length, which is "auto". Not given: min_value."""
    unit: LengthUnit = "tokens"
    """tokens, or percent of the sequence's present length."""
    schedule_type: str
    """fixed_linear, fixed_discrete, constant (always min_value), or a kind that was registered."""
    schedule_config: Section
    """What the schedule needs, see below; nothing for constant."""


KEPT_LENGTH_NAMES = {"total_curriculum_step": "require_steps", "difficulty_step": "seq_per_step"}
"""Keys of a schedule that `random_ltd_schedule.schedule_config` writes otherwise."""


@dataclass(frozen=True, kw_only=True)
class LayerTokenLRKeys:
    """`layer_token_lr_schedule`."""

    enabled: bool = False
    """An engine's learning rate follows the layer tokens of the global batches. The GPT trainer has
    --token-counter effective instead."""
    total_layer_tokens: int | None = None
    """Layer tokens at which the rate reaches 0."""
    warmup_layer_tokens: NotNegative = 0
    """Layer tokens over which the rate rises from 0."""
    warmup_type: Literal["linear"] = "linear"
    """Course of the warm-up."""


def read_random_ltd(section: Section, seed: int) -> "RandomLTDConfig | OpenRandomLTD | None":
    """The parsed section; None if it is off, an open one where the model or the data have yet to say something."""
    if not section.boolean("enabled", False):
        return None
    content = dict(section.content)
    filled = filled_random_ltd(content)
    if open_keys(filled):
        return OpenRandomLTD.of(filled, seed, section.path)
    return _read_closed(filled, seed, section.path)


def filled_random_ltd(
    content: Mapping[str, Any],
    *,
    num_layers: int | None = None,
    mask_name: Any = AUTO,
    length: int | None = None,
) -> dict[str, Any]:
    """The section with what is known in the place of "auto" and of keys that are not there.

    Args:
        num_layers: of the model.
        mask_name: keyword under which a layer receives its attention mask, or None.
        length: of a row.

    Example:
        >>> filled_random_ltd({"model_type": "auto"}, num_layers=4)["random_ltd_layer_id"]
        [1, 2]
    """
    filled = {**content}
    chosen = filled.get("random_ltd_layer_id", AUTO)
    if chosen == AUTO and num_layers is not None:
        chosen = list(range(1, num_layers - 1))
    known = {
        "total_layer_num": AUTO if num_layers is None else num_layers,
        "random_ltd_layer_id": chosen,
        "random_ltd_layer_num": len(layers_in(chosen)) if isinstance(chosen, list) else AUTO,
        "model_mask_name": mask_name,
        "model_type": "decoder",
        "hidden_state_order": "batch_seq_dim",
    }
    filled |= {key: value for key, value in known.items() if filled.get(key, AUTO) == AUTO}
    schedule = filled.get("random_ltd_schedule")
    if length is not None and isinstance(schedule, Mapping) and schedule.get("max_value") == AUTO:
        filled["random_ltd_schedule"] = {**schedule, "max_value": length}
    return filled


def open_keys(filled: Mapping[str, Any]) -> list[str]:
    """The keys of a filled section that are still "auto"."""
    found = [key for key in _OF_THE_MODEL if filled.get(key) == AUTO]
    schedule = filled.get("random_ltd_schedule")
    if isinstance(schedule, Mapping) and schedule.get("max_value") == AUTO:
        found.append(_LENGTH_KEY)
    return found


_OF_THE_MODEL = (
    "total_layer_num",
    "random_ltd_layer_id",
    "random_ltd_layer_num",
    "model_mask_name",
)
_LENGTH_KEY = "random_ltd_schedule.max_value"


@dataclass(frozen=True, kw_only=True)
class OpenRandomLTD:
    """The section before model and data have said what it leaves open."""

    content: Mapping[str, Any]
    """As it is written, filled as far as is known."""
    seed: int
    path: str

    @classmethod
    def of(cls, content: Mapping[str, Any], seed: int, path: str) -> Self:
        """The section of such content.

        Raises:
            ConfigError: for whatever is wrong with what it says.
        """
        chosen = content.get("random_ltd_layer_id")
        named = layers_in(chosen) if isinstance(chosen, list) else [1]
        highest = max((i for i in named if type(i) is int), default=0)
        schedule = content.get("random_ltd_schedule")
        lowest = schedule.get("min_value") if isinstance(schedule, Mapping) else None
        trial = filled_random_ltd(
            content,
            num_layers=max(3, highest + 1),
            mask_name=None,
            length=lowest if type(lowest) is int and lowest > 0 else 1,
        )
        number = content.get("random_ltd_layer_num")
        if chosen == AUTO and type(number) is int and number > 0:
            # The model has the last word on which these are.
            trial |= {
                "total_layer_num": number + 2,
                "random_ltd_layer_id": list(range(1, number + 1)),
            }
        _read_closed(trial, seed, path, is_quiet=True)
        return cls(content=content, seed=seed, path=path)

    @property
    def needs_length(self) -> bool:
        """Whether the kept length goes up to the rows' length."""
        return _LENGTH_KEY in open_keys(self.content)

    def closed(
        self,
        *,
        num_layers: int | None = None,
        mask_name: Any = AUTO,
        length: int | None = None,
    ) -> "RandomLTDConfig | OpenRandomLTD":
        """The same with what is known now; see `filled_random_ltd`.

        Raises:
            ConfigError: if that does not go with what it says.
        """
        filled = filled_random_ltd(
            self.content, num_layers=num_layers, mask_name=mask_name, length=length
        )
        if open_keys(filled):
            return replace(self, content=filled)
        return _read_closed(filled, self.seed, self.path)

    def refuse(self) -> NoReturn:
        """Raise ConfigError that names what is open still, and who could say it."""
        keys = open_keys(self.content)
        length = _LENGTH_KEY in keys
        raise ConfigError(
            f"{', '.join(f'{self.path}.{key}' for key in keys)} {'is' if len(keys) == 1 else 'are'} {AUTO!r}: "
            + (
                "the rows' length is not known here, give a number"
                if length
                else "give the model first"
            )
        )


def _read_closed(
    content: Mapping[str, Any], seed: int, path: str, *, is_quiet: bool = False
) -> RandomLTDConfig:
    """The section, which says everything."""
    faults = Faults()
    spans = faults.ask(lambda: read_spans(content.get("random_ltd_layer_id"), path)) or ()
    chosen = content.get("random_ltd_layer_id")
    if isinstance(chosen, list):
        content = {**content, "random_ltd_layer_id": layers_in(chosen)}
    section = Section(content, path, is_quiet=is_quiet)
    keys = faults.ask(lambda: section.read(RandomLTDKeys))
    schedules = Section(content.get("random_ltd_schedule") or {}, f"{path}.random_ltd_schedule")
    schedules.is_quiet = is_quiet
    kept = faults.ask(lambda: _kept_length(schedules))
    schedule, unit = kept or (None, "tokens")
    lr = None if keys is None else faults.ask(lambda: _layer_token_lr(keys.layer_token_lr_schedule))
    given: dict[str, Any] = {"schedule": schedule, "seed": seed, "spans": spans}
    given |= {"kept_length_unit": unit, "layer_token_lr": lr}
    config = faults.ask(lambda: section.read(RandomLTDConfig, **given))
    faults.ask(section.close)
    if config is not None:
        faults.ask(lambda: _refuse_layers(section, config))
    faults.refuse()
    assert config is not None
    return replace(config, random_ltd_layer_id=tuple(sorted(config.random_ltd_layer_id)))


def _refuse_layers(section: Section, config: RandomLTDConfig) -> None:
    """Raise ConfigError for numbers of layers or positions that cannot be."""
    layers, total = config.random_ltd_layer_id, config.total_layer_num
    if len(set(layers)) != len(layers) or len(layers) != config.random_ltd_layer_num:
        raise ConfigError(
            f"{section.path}.random_ltd_layer_id has {len(set(layers))} different layers, but "
            f"random_ltd_layer_num is {config.random_ltd_layer_num}"
        )
    if not all(0 <= layer < total for layer in layers):
        raise ConfigError(
            f"{section.path}.random_ltd_layer_id is {list(layers)}: each must be at least 0 and "
            f"below total_layer_num ({total})"
        )
    kept = config.always_keep
    if len(set(kept)) != len(kept) or min(kept, default=0) < 0:
        raise ConfigError(
            f"{section.path}.always_keep is {list(kept)}: must be different positions, from 0"
        )


def _kept_length(section: Section) -> tuple[Schedule, LengthUnit]:
    faults = Faults()
    keys = faults.ask(lambda: section.read(KeptLengthKeys))
    if keys is None:
        quiet = Section(section.content, section.path, is_quiet=True)
        faults.ask(lambda: read_schedule(quiet, kept_length_kinds(), 1, 1, KEPT_LENGTH_NAMES))
        faults.ask(section.close)
        faults.refuse()
        raise AssertionError(section.path)
    low, high = keys.min_value, section.integer("max_value", keys.min_value, at_least=1)
    if low > high:
        raise ConfigError(f"{section.path}.min_value is {low}: above max_value ({high})")
    if keys.unit == "percent" and high > 100:
        raise ConfigError(f"{section.path}.max_value is {high}: must be at most 100 percent")
    schedule = faults.ask(
        lambda: read_schedule(section, kept_length_kinds(), low, high, KEPT_LENGTH_NAMES)
    )
    faults.ask(section.close)
    faults.refuse()
    assert schedule is not None
    return schedule, keys.unit


def _layer_token_lr(section: Section) -> LearningRate | None:
    """Up from 0 over the warm-up, then straight down to 0 at the total, as a factor of each group's rate.

    Source: the `LayerToken` schedule of Yao et al. 2022 (arXiv 2211.11586), section 3.3, and the keys of
    DeepSpeed's `layer_token_lr_schedule`, which DeepSpeed reads and refuses.
    """
    keys = section.read(LayerTokenLRKeys)
    section.close()
    if not keys.enabled:
        return None
    total, warmup = keys.total_layer_tokens, keys.warmup_layer_tokens
    if total is None or total <= warmup:
        raise ConfigError(
            f"{section.path}.total_layer_tokens is {total}: must be given and above "
            f"warmup_layer_tokens ({warmup})"
        )
    return LearningRate(
        peak=1.0,
        minimum=0.0,
        style="linear",
        clock="layer",
        warmup=warmup,
        decay=total,
        share=0,
        relative=True,
    )
