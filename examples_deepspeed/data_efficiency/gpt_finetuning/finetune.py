r"""Finetunes a causal language model of Hugging Face with curriculum learning and random-LTD.

python -m examples_deepspeed.data_efficiency.gpt_finetuning.finetune \
    --recipe examples_deepspeed/data_efficiency/gpt_finetuning/recipes/gpt2_random_ltd.toml --seeds 1 2 3

Prints the published line (epoch, step, consumed_token, best perplexity, hours, kept length) and beside
it what that leaves out. --plan prints the accounting alone, before a model or a text is read.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron.command import run_command

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data_efficiency import IGNORED_LABEL, convert_to_random_ltd, initialize, known_layer_class
from examples_deepspeed.data_efficiency.finetuning.plan import print_text_plan
from examples_deepspeed.data_efficiency.finetuning.recipe import (
    add_run_flags,
    each_variant,
    fill_recipe,
    parse_with_recipe,
)
from examples_deepspeed.data_efficiency.finetuning.run import (
    FinetuningRun,
    layers_alone,
    mean_over,
    process_group,
    whole_copies,
)
from examples_deepspeed.data_efficiency.gpt_finetuning.text_blocks import (
    TokenBlocks,
    add_text_flags,
    split_blocks,
)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_run_flags(parser)
    add_text_flags(parser)
    add = parser.add_argument
    add("--adam-eps", type=float, default=1e-6)
    add("--no-dropout", action="store_true", help="train without the model's own dropout")
    add("--num-blocks", type=int, help="--plan: training blocks, instead of reading the text")
    add("--num-layers", type=int, help="--plan: instead of reading the model")
    return parse_with_recipe(parser, argv)


def make_gpt_engine(
    arguments: argparse.Namespace, blocks: dict[str, TokenBlocks], num_layers: int, seed: int
) -> Any:
    """The model in training, as the recipe's variant says."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    if arguments.no_dropout:
        switch_dropout_off(model)
    engine = initialize(
        model=model,
        optimizer=lambda parameters: torch.optim.AdamW(
            parameters,
            lr=arguments.learning_rate,
            eps=arguments.adam_eps,
            weight_decay=arguments.weight_decay,
            fused=True,
        ),
        training_data=blocks["train"],
        config=fill_recipe(
            arguments,
            num_layers=num_layers,
            length=arguments.block_size,
            num_samples=len(blocks["train"]),
            seed=seed,
        ),
        engine=arguments.engine,
        model_shape=layers_alone(num_layers),
    )[0]
    if engine.random_ltd_enabled():
        convert_to_random_ltd(engine, known_layer_class(model))
    return engine


def finetune_gpt(arguments: argparse.Namespace, blocks: dict[str, TokenBlocks], seed: int) -> None:
    """Train one seed to the end of its budget, from the beginning or from where it was stopped."""
    num_layers = AutoConfig.from_pretrained(arguments.model).num_hidden_layers
    num_blocks, length = len(blocks["train"]), arguments.block_size
    run = FinetuningRun(
        arguments,
        seed,
        {name: part.identity for name, part in blocks.items()},
        budget=("consumed_token", round(arguments.epochs * num_blocks * length)),
        length=length,
        num_samples=num_blocks,
        quality=("perplexity", False),
    )
    if run.is_finished():
        return
    engine = make_gpt_engine(arguments, blocks, num_layers, seed)

    def losses(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        # The blocks' labels are shifted already.
        logits = engine(input_ids=batch["input_ids"], use_cache=False).logits.float()
        labels = batch["labels"]
        found = cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
        )
        return found.view(labels.shape).sum(1)

    def num_labels(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (batch["labels"] != IGNORED_LABEL).sum(1)

    def perplexity(part: str) -> float:
        rows = arguments.eval_batch_size
        return math.exp(mean_over(engine, blocks[part], rows, losses, num_labels))

    run.begin(engine)
    if not run.state["history"]:
        run.look(perplexity("validation"))
    for batches in run.batches():
        step = engine.train_step(
            batches, lambda batch: losses(batch).sum(), lambda batch: num_labels(batch).sum()
        )
        if run.add(step):
            run.look(perplexity("validation"))
        run.save_when_due()
    if arguments.export:
        export_gpt(engine, run.saved.folder / "model", arguments.model)
    run.finish(perplexity("test"))


def export_gpt(engine: Any, folder: Path, source: str) -> None:
    """Write the model and the source's tokenizer; they load with transformers alone."""
    weights = whole_copies(engine)
    if engine.ranks.is_first:
        engine.module.save_pretrained(folder, state_dict=weights)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def switch_dropout_off(model: torch.nn.Module) -> None:
    """Let the model drop no activations and no attention in training."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def main(argv: Sequence[str] | None = None) -> None:
    """Plans, or trains each variant with each seed; finished ones are passed over."""
    arguments = parse_arguments(argv)
    blocks = None if arguments.plan else split_blocks(arguments)
    for one in each_variant(arguments):
        if blocks is None:
            print_plan(one)
            continue
        for seed in one.seeds:
            finetune_gpt(one, blocks, seed)


def print_plan(arguments: argparse.Namespace) -> None:
    """Print the accounting of a variant."""
    size = {
        "num_layers": arguments.num_layers
        or AutoConfig.from_pretrained(arguments.model).num_hidden_layers,
        "num_samples": arguments.num_blocks or len(split_blocks(arguments)["train"]),
        "length": arguments.block_size,
    }
    recipe = fill_recipe(arguments, **size, seed=arguments.seeds[0])
    print_text_plan(recipe, **size, epochs=arguments.epochs)


if __name__ == "__main__":
    raise SystemExit(run_command(process_group()(main)))
