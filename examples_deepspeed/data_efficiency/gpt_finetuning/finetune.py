r"""Finetunes a causal language model of Hugging Face with curriculum learning and random-LTD.

python examples_deepspeed/data_efficiency/gpt_finetuning/finetune.py --config gpt2_random_ltd --seed 1

Prints the published line (epoch, step, consumed_token, best perplexity, hours, kept length) and beside
it what that leaves out. `tools/plan.py --config gpt2_random_ltd` prints the accounting alone.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data_efficiency import IGNORED_LABEL, known_layer_class
from examples_deepspeed.data_efficiency.gpt_finetuning.text_blocks import split_blocks
from megatron.arguments import parse_run_config
from megatron.config import TextRunConfig
from megatron.finetuning.foreign_model import means_over, set_up_run, task_of, whole_copies
from megatron.finetuning.run import process_group, ready
from megatron.finetuning.run_folder import is_finished
from megatron.finetuning.section import RunSize, planned_json


def finetune_gpt(config: TextRunConfig) -> int:
    """Train to the end of the budget, from the beginning or from where it was stopped; the exit status."""
    blocks, source = split_blocks(config), config.model.pretrained
    size = RunSize(
        num_layers=AutoConfig.from_pretrained(source).num_hidden_layers,
        length=config.data.seq_length,
        num_samples=len(blocks["train"]),
    )
    identity = {name: part.identity for name, part in blocks.items()}
    task = task_of(
        config, size, identity, "perplexity", higher_is_better=False, quality="perplexity"
    )
    if is_finished(config, identity):
        return 0
    torch.manual_seed(config.training.seed)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    run = set_up_run(config, task, model, blocks["train"], known_layer_class(model))
    engine = run.engine

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

    def perplexity(part: str) -> dict[str, float]:
        rows = config.training.eval_batch_size
        (mean,) = means_over(engine, blocks[part], rows, lambda batch: [losses(batch)], num_labels)
        return {f"{part} perplexity": math.exp(mean)}

    def export(folder: Path) -> None:
        """Write model and tokenizer; they load with transformers alone."""
        weights = whole_copies(engine)
        if engine.ranks.is_first:
            engine.module.save_pretrained(folder, state_dict=weights)
            AutoTokenizer.from_pretrained(source).save_pretrained(folder)

    return run.train(
        lambda batch: losses(batch).sum(),
        lambda batch: num_labels(batch).sum(),
        lambda: perplexity("validation"),
        at_end=lambda: perplexity("test"),
        export=export if config.checkpoint.export else None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 at the end of the run, 75 where it is saved and not finished."""
    config = parse_run_config(
        __doc__ or "", argv, architecture="gpt_finetuning", json_of=planned_json
    )
    return finetune_gpt(ready(config))


if __name__ == "__main__":
    raise SystemExit(run_command(process_group()(main)))
