"""A run's line on the console."""

from collections.abc import Mapping
from typing import Any

from data_efficiency.short_numbers import format_count, format_seconds


def fraction_used(training: Mapping[str, Any], record: Mapping[str, Any]) -> float | None:
    """Part of a pretraining run's budget that is used up, by the budget nearest to its end; None where it has none.

    Args:
        training: the settings of that group.
        record: counters as the log has them.

    Example:
        >>> fraction_used({"train_iters": 10, "train_tokens": 80, "token_counter": "corpus"},
        ...               {"step": 1, "corpus_tokens": 16})
        0.2
    """
    counters = {
        "train_iters": "step",
        "train_samples": "consumed_samples",
        "train_tokens": f"{training.get('token_counter', 'effective')}_tokens",
    }
    parts = [
        record[counter] / training[budget]
        for budget, counter in counters.items()
        if training.get(budget) and record.get(counter) is not None
    ]
    return min(1.0, max(parts)) if parts else None


def format_losses(record: Mapping[str, Any]) -> str:
    """The loss of a line of the log, with its parts where it has several.

    >>> format_losses({"loss": 3.25, "lm_loss": 3.25})
    'loss 3.2500'
    >>> format_losses({"loss": 3.75, "masked_lm_loss": 3.25, "sentence_loss": 0.5})
    'loss 3.7500 (masked_lm 3.2500, sentence 0.5000)'
    """
    parts = [
        f"{name.removesuffix('_loss')} {_format_loss(value)}"
        for name, value in record.items()
        if name.endswith("_loss")
    ]
    total = f"loss {_format_loss(record['loss'])}"
    return f"{total} ({', '.join(parts)})" if len(parts) > 1 else total


def _format_loss(loss: float | None) -> str:
    return "nan" if loss is None else f"{loss:.4f}"


def progress_line(
    record: Mapping[str, Any], *, fraction_done: float, total_steps: int | None = None
) -> str:
    """The console's line for a training line of the log.

    Args:
        fraction_done: Part of the run's budget that is used up, 0 < fraction <= 1; the time left
            is the time used so far, scaled.
        total_steps: Steps of the whole run; None where a token budget ends it.
    """
    steps = f"step {record['step']}" + (f"/{total_steps}" if total_steps is not None else "")
    parts = [
        steps,
        f"{100 * fraction_done:3.0f}%",
        format_losses(record),
        f"lr {record['learning_rate']:.2e}",
        f"length {record['sequence_length']}",
    ]
    if record.get("kept_length") is not None:
        parts.append(f"kept {record['kept_length']}")
    parts += [
        f"effective tokens {format_count(record['effective_tokens'])}",
        f"{format_count(record['tokens_per_second'])} tokens/s",
        f"{format_count(record['flops_per_second'])}FLOP/s",
    ]
    if fraction_done > 0:
        left = record["seconds"] * max(0.0, 1 - fraction_done) / fraction_done
        parts.append(f"{format_seconds(left)} left")
    return " | ".join(parts)
