"""The learning rate that the settings describe: a function of one counter."""

from data_efficiency import Clock, LearningRate
from megatron.config import TrainingConfig
from megatron.setting_rules import require

_UNITS = ("tokens", "samples", "iters")


def make_learning_rate(config: TrainingConfig, seq_length: int) -> LearningRate:
    """The learning rate that the settings describe.

    The clock is that of the decay length, or else of the training length, tokens before samples
    before steps. A decay length that is not given is the training length.

    Raises:
        ValueError: for a warm-up on another clock than the decay, or as long as it.
    """
    decays = {unit: getattr(config, f"lr_decay_{unit}") for unit in _UNITS}
    lengths = {unit: getattr(config, f"train_{unit}") for unit in _UNITS}
    chosen = decays if any(decays.values()) else lengths
    unit = next(name for name in _UNITS if chosen[name] is not None)
    decay = chosen[unit]
    for other in _UNITS:
        value = getattr(config, f"lr_warmup_{other}")
        require(
            other == unit or value == 0,
            f"lr_warmup_{other}",
            value,
            f"the learning rate decays by {unit}; give --lr-warmup-{unit}",
        )
    warmup = getattr(config, f"lr_warmup_{unit}")
    require(
        0 <= warmup < decay or config.lr_decay_style == "constant",
        f"lr_warmup_{unit}",
        warmup,
        f"must be at least 0 and below the decay's end ({decay})",
    )
    shares = {"iters": 1, "samples": config.batch_size, "tokens": config.batch_size * seq_length}
    clocks: dict[str, Clock] = {
        "iters": "steps",
        "samples": "samples",
        "tokens": config.token_counter,
    }
    return LearningRate(
        peak=config.lr,
        minimum=config.min_lr,
        style=config.lr_decay_style,
        clock=clocks[unit],
        warmup=warmup,
        decay=decay,
        share=shares[unit],
    )
