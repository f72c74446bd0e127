r"""Finetunes a vision transformer of timm or Hugging Face with random-LTD and a curriculum.

python examples_deepspeed/data_efficiency/vit_finetuning/finetune.py --config cifar --seed 1

Prints accuracy, loss, kept length and layer tokens, and beside them samples and seconds. `tools/plan.py --config
cifar` prints the accounting alone.
"""

from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

import torch
from torch.nn.functional import cross_entropy

from examples_deepspeed.data_efficiency.vit_finetuning.images import (
    ImageBatches,
    LabelledImages,
    Transform,
    read_images,
)
from examples_deepspeed.data_efficiency.vit_finetuning.models import load_model
from megatron.arguments import parse_run_config
from megatron.config import ImageRunConfig
from megatron.finetuning.foreign_model import means_over, set_up_run, task_of, whole_copies
from megatron.finetuning.run import process_group, ready
from megatron.finetuning.run_folder import is_finished
from megatron.finetuning.section import RunSize, planned_json


def finetune_vit(config: ImageRunConfig) -> int:
    """Train to the end of the budget, from the beginning or from where it was stopped; the exit status."""
    data, pixels, seed = config.data, config.model.image_size, config.training.seed
    splits = read_images(data.dataset, Path(data.folder), data.validation_share, data.classes)
    if is_finished(config, splits.identity):
        return 0
    torch.manual_seed(seed)
    model = load_model(config.model.pretrained, class_names=splits.class_names, image_size=pixels)
    length = model.num_positions
    size = RunSize(num_layers=model.num_layers, length=length, num_samples=len(splits.train))
    task = task_of(
        config,
        size,
        splits.identity,
        "accuracy",
        higher_is_better=True,
        quality="val_acc",
        losses=["loss"],
    )
    transform = Transform(
        size=pixels,
        resize=data.resize or pixels * 8 // 7,
        padding=data.padding,
        mean=model.mean,
        std=model.std,
    )
    images = ImageBatches(splits.train, transform, seed)
    run = set_up_run(config, task, model.module, images, model.layer_class)
    engine = run.engine

    def hits_and_losses(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = model.logits(engine, batch["pixel_values"]).float(), batch["labels"]
        return logits.argmax(-1) == labels, cross_entropy(logits, labels, reduction="none")

    def scores(name: str, part: LabelledImages) -> dict[str, float]:
        batches, rows = ImageBatches(part, transform, None), config.training.eval_batch_size
        accuracy, loss = means_over(engine, batches, rows, hits_and_losses)
        return {f"{name} accuracy": 100 * accuracy, f"{name} loss": loss}

    def export(folder: Path) -> None:
        weights = whole_copies(engine)
        if engine.ranks.is_first:
            model.export(weights, folder)

    return run.train(
        lambda batch: hits_and_losses(batch)[1].sum(),
        lambda batch: len(batch["labels"]),
        lambda: scores("validation", splits.validation),
        at_end=lambda: scores("test", splits.test),
        # Pixels do not tell how many positions a layer sees.
        shape=lambda batch: (len(batch["labels"]), length),
        export=export if config.checkpoint.export else None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 at the end of the run, 75 where it is saved and not finished."""
    config = parse_run_config(
        __doc__ or "", argv, architecture="vit_finetuning", json_of=planned_json
    )
    return finetune_vit(ready(config))


if __name__ == "__main__":
    raise SystemExit(run_command(process_group()(main)))
