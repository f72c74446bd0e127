"""What a recipe costs: steps, tokens, operations and hours of a graphics card."""

from dataclasses import replace

from data_efficiency import Counters, ModelShape, StepShape, load_config, training_flops
from data_efficiency.plan import planned_totals
from megatron.config import AnyRunConfig, ImageRunConfig, RunConfig, TextRunConfig
from megatron.engine_json import engine_json
from megatron.finetuning.plan import plan_finetuning
from megatron.run_state import model_shape

PUBLISHED_PROCESSES = 64
V100_FLOPS_PER_SECOND = 45.4e12
"""Model FLOPs a V100 does in a second of such a run.

Source: 260 hours on 64 V100 for the baseline of 300B tokens (DeepSpeed's blog of 2022-12-12, table
7), divided into the FLOPs of `training_flops`.
"""


def counted_shape(config: RunConfig) -> ModelShape:
    """What every position is counted with; BERT's output over the vocabulary is that of the masked ones alone."""
    shape = model_shape(config.model)
    return replace(shape, vocab_size=0) if config.architecture == "bert" else shape


def planned_cost(config: AnyRunConfig, num_processes: int = PUBLISHED_PROCESSES) -> Counters:
    """Totals of the whole run, for samples without padding and, in BERT's, as many masks as asked for.

    Raises:
        ValueError: for a finetuning run whose file does not say how many layers and samples it has.
    """
    if not isinstance(config, RunConfig):
        assert isinstance(config, TextRunConfig | ImageRunConfig)
        return plan_finetuning(config)[1]
    shape = counted_shape(config)
    masks_tokens = config.architecture == "bert"
    training = config.training
    ends: dict[str, int] = {"num_steps": config.num_whole_steps}
    if training.train_samples is not None:
        ends = {"samples": training.train_samples}
    if training.train_tokens is not None:
        ends = {f"{training.token_counter}_tokens": training.train_tokens}
    totals = planned_totals(
        load_config(engine_json(config)),
        model=shape,
        sequence_length=config.data.seq_length,
        data_parallel_size=num_processes,
        **ends,
    )
    if not masks_tokens:
        return totals
    masked_token = training_flops(
        StepShape(num_rows=1, sequence_length=1),
        replace(model_shape(config.model), num_layers=0, masked_lm_head=True),
    )
    num_masked = round(config.data.mask_prob * totals.corpus_tokens)
    return replace(totals, flops=totals.flops + num_masked * masked_token)


def v100_hours(flops: float) -> float:
    """Hours of one V100 for so many model FLOPs."""
    return flops / V100_FLOPS_PER_SECOND / 3600


def cost_line(config: RunConfig) -> str:
    """The cost in words, as each recipe's file says it.

    A test compares it with the files, so the estimate in a comment cannot go stale.
    """
    cost = planned_cost(config)
    effective = cost.layer_tokens / config.model.num_layers
    return (
        f"{cost.steps:,} steps, {cost.corpus_tokens / 1e9:.0f}B corpus and {effective / 1e9:.0f}B "
        f"effective tokens, {cost.flops:.2e} FLOPs, about {v100_hours(cost.flops):,.0f} V100 hours"
    )
