r"""Finetunes a causal language model of Hugging Face with curriculum learning and random-LTD.

python -m examples_deepspeed.data_efficiency.gpt_finetuning.finetune --model gpt2 \
    --text ptb_text_only --text-config penn_treebank --recipe configs/gpt2_random_ltd.json \
    --variant random_ltd --epochs 2 --save runs/gpt2

Prints the published line (epoch, step, consumed_token, best perplexity, hours, kept length) and beside
it what that leaves out. --plan prints the accounting alone, before a model or a text is read.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data_efficiency import (
    IGNORED_LABEL,
    ConfigError,
    convert_to_random_ltd,
    initialize,
    known_layer_class,
)
from examples_deepspeed.data_efficiency.finetuning.clocks import Budget
from examples_deepspeed.data_efficiency.finetuning.command_line import (
    add_run_flags,
    print_errors_in_one_line,
    run_recipe,
    run_settings,
)
from examples_deepspeed.data_efficiency.finetuning.plan import print_text_plan
from examples_deepspeed.data_efficiency.finetuning.run import is_finished, train
from examples_deepspeed.data_efficiency.finetuning.saved_run import own_memory, wait_for_all
from examples_deepspeed.data_efficiency.finetuning.task import Task
from examples_deepspeed.data_efficiency.gpt_finetuning.text_blocks import (
    TokenBlocks,
    make_blocks,
    read_splits,
)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_run_flags(parser)
    add_text_flags(parser)
    parser.add_argument("--adam-eps", type=float, default=1e-6)
    parser.add_argument(
        "--no-dropout", action="store_true", help="train without the model's own dropout"
    )
    parser.add_argument(
        "--num-blocks", type=int, help="--plan: training blocks, instead of reading the text"
    )
    parser.add_argument("--num-layers", type=int, help="--plan: instead of reading the model")
    return parser.parse_args(argv)


def add_text_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what the analysis needs as well: the same text must be cut alike."""
    parser.add_argument("--model", required=True, help="hub name or folder of a causal LM")
    parser.add_argument("--text", help="hub data set, .jsonl file or plain text file")
    parser.add_argument("--text-config", help="configuration of the hub data set")
    parser.add_argument("--shares", type=float, nargs=2, default=(0.05, 0.05), metavar="PART")
    parser.add_argument("--block-size", type=int, default=1024, help="tokens of a sample")
    parser.add_argument(
        "--group-rows", type=int, default=0, help="see make_blocks; published: 1000"
    )
    parser.add_argument("--no-separator", action="store_true", help="no end-of-text between texts")
    parser.add_argument("--max-train-blocks", type=int, help="use only the first ones")
    parser.add_argument("--max-eval-blocks", type=int, help="likewise for validation and test")


def read_blocks(arguments: argparse.Namespace) -> dict[str, TokenBlocks]:
    """The three parts of the text as blocks.

    Raises:
        ValueError: if the model has fewer positions than a block, or a part has no block.
    """
    positions = getattr(
        AutoConfig.from_pretrained(arguments.model), "max_position_embeddings", None
    )
    if positions is not None and arguments.block_size > positions:
        raise ValueError(
            f"--block-size is {arguments.block_size}, but {arguments.model} has {positions} "
            "positions: choose at most that"
        )
    if arguments.text is None:
        raise ValueError("--text is missing: name a data set on the hub, a .jsonl or a text file")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    splits = read_splits(arguments.text, config_name=arguments.text_config, shares=arguments.shares)
    blocks = {}
    for name in ("train", "validation", "test"):
        made = make_blocks(
            getattr(splits, name),
            tokenizer,
            arguments.block_size,
            separate=not arguments.no_separator,
            group_rows=arguments.group_rows,
        )
        most = arguments.max_train_blocks if name == "train" else arguments.max_eval_blocks
        blocks[name] = TokenBlocks(made.tokens[:most], made.vocab_size)
    return blocks


def loss_of(engine: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean loss over the labels of a micro-batch, whose labels are shifted already."""
    logits = engine(input_ids=batch["input_ids"], use_cache=False).logits
    return cross_entropy(
        logits.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED_LABEL
    )


def scores_of(engine: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of the losses and number of labels of each row, [rows, 2]."""
    logits = engine(input_ids=batch["input_ids"], use_cache=False).logits.float()
    losses = cross_entropy(
        logits.transpose(1, 2), batch["labels"], ignore_index=IGNORED_LABEL, reduction="none"
    )
    labels = (batch["labels"] != IGNORED_LABEL).sum(1)
    return torch.stack([losses.double().sum(1), labels.double()], 1)


def make_task(
    arguments: argparse.Namespace, blocks: dict[str, TokenBlocks], num_layers: int
) -> Task:
    """Texts, as the training loop sees them."""
    return Task(
        num_layers=num_layers,
        num_samples=len(blocks["train"]),
        length=arguments.block_size,
        loss=loss_of,
        shape=lambda batch: tuple(batch["input_ids"].shape),
        scores=scores_of,
        quality=lambda sums: math.exp(sums[0] / sums[1]),
        quality_name="perplexity",
        higher_is_better=False,
        validation=blocks["validation"],
        test=blocks["test"],
        eval_batch_size=arguments.eval_batch_size,
        export=partial(export, source=arguments.model) if arguments.export else None,
    )


def export(engine: Any, folder: Path, source: str) -> None:
    """Write the model and the source's tokenizer so that transformers alone loads them."""
    weights = own_memory(engine.full_weights())
    if engine.global_rank == 0:
        engine.module.save_pretrained(folder, state_dict=weights)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    wait_for_all()


def run_seed(arguments: argparse.Namespace, blocks: dict[str, TokenBlocks], seed: int) -> None:
    """Write the results of one seed into its folder."""
    num_layers = AutoConfig.from_pretrained(arguments.model).num_hidden_layers
    num_blocks, length = len(blocks["train"]), arguments.block_size
    budget = Budget(unit="consumed_token", amount=round(arguments.epochs * num_blocks * length))
    identity = {name: part.identity for name, part in blocks.items()}
    settings = run_settings(arguments, seed, budget, identity)
    if is_finished(settings):
        print(f"{settings.folder} is finished", flush=True)
        return
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    if arguments.no_dropout:
        switch_dropout_off(model)
    recipe = run_recipe(
        arguments, num_layers=num_layers, length=length, num_samples=num_blocks, seed=seed
    )
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
        config=recipe,
        engine=arguments.engine,
    )[0]
    if engine.random_ltd_enabled():
        convert_to_random_ltd(engine, known_layer_class(model))
    train(engine, make_task(arguments, blocks, num_layers), settings)


def switch_dropout_off(model: torch.nn.Module) -> None:
    """Let the model drop no activations and no attention in training."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def main(argv: Sequence[str] | None = None) -> None:
    """Plans, or trains each seed after the other; finished ones are passed over."""
    arguments = parse_arguments(argv)
    if arguments.plan:
        num_layers = arguments.num_layers
        if num_layers is None:
            num_layers = AutoConfig.from_pretrained(arguments.model).num_hidden_layers
        num_blocks = arguments.num_blocks or len(read_blocks(arguments)["train"])
        size = {
            "num_layers": num_layers,
            "num_samples": num_blocks,
            "length": arguments.block_size,
        }
        recipe = run_recipe(arguments, **size, seed=arguments.seeds[0])
        print_text_plan(recipe, **size, epochs=arguments.epochs)
        return
    blocks = read_blocks(arguments)
    for seed in arguments.seeds:
        run_seed(arguments, blocks, seed)


if __name__ == "__main__":
    with print_errors_in_one_line(ConfigError, ValueError, OSError, ModuleNotFoundError):
        main()
    sys.exit()
