"""The learning rate that the settings describe: a function of one counter."""

from data_efficiency import Clock, LearningRate, ModelShape, load_config
from data_efficiency.plan import planned_totals
from megatron.config import RunConfig, TrainingConfig
from megatron.engine_json import engine_json
from megatron.setting_rules import require
from megatron.stages import stage_ends

_UNITS = ("tokens", "samples", "iters")


def make_learning_rate(
    run: RunConfig, model: ModelShape, data_parallel_size: int = 1
) -> LearningRate:
    """The learning rate that the settings describe.

    The clock is that of the decay length, or else of the training length, tokens before samples
    before steps. A decay length that is not given is the training length.

    Raises:
        ValueError: for a warm-up on another clock than the decay, or as long as it.
    """
    config = run.training
    decays = {unit: getattr(config, f"lr_decay_{unit}") for unit in _UNITS}
    lengths = {unit: getattr(config, f"train_{unit}") for unit in _UNITS}
    chosen = decays if any(decays.values()) else lengths
    unit = next(name for name in _UNITS if chosen[name] is not None)
    decay = chosen[unit]
    warmups = {name: getattr(config, f"lr_warmup_{name}") for name in _UNITS}
    in_steps = unit == "tokens" and config.token_counter != "loss"
    if in_steps and warmups["iters"] and not warmups["tokens"]:
        warmups["tokens"] = _tokens_of_first_steps(run, model, data_parallel_size)
        warmups["iters"] = 0
    for other, value in warmups.items():
        require(
            other == unit or value == 0,
            f"lr_warmup_{other}",
            value,
            f"the learning rate decays by {unit}; give --lr-warmup-{unit}",
        )
    warmup = warmups[unit]
    require(
        0 <= warmup < decay or config.lr_decay_style == "constant",
        f"lr_warmup_{unit}",
        warmup,
        f"must be at least 0 and below the decay's end ({decay})",
    )
    shares = {
        "iters": 1,
        "samples": config.batch_size,
        "tokens": config.batch_size * run.data.seq_length,
    }
    clocks: dict[str, Clock] = {
        "iters": "steps",
        "samples": "samples",
        "tokens": config.token_counter,
    }
    clock = clocks[unit]
    return LearningRate(
        peak=config.lr,
        minimum=config.min_lr,
        style=config.lr_decay_style,
        clock=clock,
        warmup=warmup,
        decay=decay,
        share=shares[unit],
        anneal=_annealing(config, unit, warmup, decay),
        anneal_style=config.lr_wsd_decay_style,
        factors=_factors(run, clock),
    )


def _factors(run: RunConfig, clock: Clock) -> tuple[tuple[float, float], ...]:
    """Where the stages of a run begin, by the clock, and what each multiplies the rate by; nothing if none does."""
    if all(stage.lr_factor == 1 for stage in run.stages):
        return ()
    ends = stage_ends(run, engine_json)
    begins = [0.0, *(end.at(clock, run.model.num_layers) for end in ends[:-1])]
    factors = [stage.lr_factor for stage in run.stages]
    return tuple(zip(begins, factors, strict=True))


def _annealing(config: TrainingConfig, unit: str, warmup: int, decay: int) -> int:
    """How long before the decay's end WSD's rate begins to fall; 0 for other shapes."""
    given = {name: getattr(config, f"lr_wsd_decay_{name}") for name in _UNITS}
    for other, value in given.items():
        require(
            other == unit or value is None,
            f"lr_wsd_decay_{other}",
            value,
            f"the learning rate decays by {unit}; give --lr-wsd-decay-{unit}",
        )
    if config.lr_decay_style != "WSD":
        return 0
    anneal: int = given[unit] or max(1, decay // 10)
    require(
        warmup + anneal <= decay,
        f"lr_wsd_decay_{unit}",
        anneal,
        f"with the warm-up ({warmup}) must be at most the decay's end ({decay})",
    )
    return anneal


def _tokens_of_first_steps(run: RunConfig, model: ModelShape, data_parallel_size: int) -> int:
    """What the steps of the warm-up add to the clock, which is known beforehand but for padding."""
    totals = planned_totals(
        load_config(engine_json(run)),
        model=model,
        sequence_length=run.data.seq_length,
        num_steps=run.training.lr_warmup_iters,
        data_parallel_size=data_parallel_size,
    )
    return int(totals.at(run.training.token_counter, model.num_layers))
