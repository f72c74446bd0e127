r"""Finetunes a vision transformer of timm or Hugging Face with random-LTD and a curriculum.

python -m examples_deepspeed.data_efficiency.vit_finetuning.finetune \
    --model timm:vit_base_patch16_224.augreg_in21k_ft_in1k --data cifar10 --data-folder data/cifar \
    --recipe configs/cifar_random_ltd.json --variant random_ltd --epochs 14 --save runs/cifar

Prints accuracy, kept length and layer tokens, and beside them samples and seconds. --plan prints the
accounting alone, before a model or an image is read.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from data_efficiency import ConfigError, convert_to_random_ltd, initialize
from examples_deepspeed.data_efficiency.finetuning.clocks import Budget
from examples_deepspeed.data_efficiency.finetuning.command_line import (
    add_run_flags,
    print_errors_in_one_line,
    run_recipe,
    run_settings,
)
from examples_deepspeed.data_efficiency.finetuning.plan import print_image_plan
from examples_deepspeed.data_efficiency.finetuning.run import is_finished, train
from examples_deepspeed.data_efficiency.finetuning.saved_run import own_memory, wait_for_all
from examples_deepspeed.data_efficiency.finetuning.task import Task
from examples_deepspeed.data_efficiency.vit_finetuning.images import (
    ImageBatches,
    ImageSplits,
    Transform,
    add_image_flags,
    read_images,
)
from examples_deepspeed.data_efficiency.vit_finetuning.models import VisionModel, load_model


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_run_flags(parser)
    parser.add_argument(
        "--model", required=True, help="timm:NAME, or hub name or folder of a Hugging Face model"
    )
    add_image_flags(parser)
    parser.add_argument("--image-size", type=int, default=224, help="pixels that the model takes")
    parser.add_argument("--resize", type=int, help="shorter side before cutting; 8/7 of the size")
    parser.add_argument("--padding", type=int, default=0, help="around training images")
    parser.add_argument(
        "--budget",
        choices=("steps", "layer_tokens"),
        default="steps",
        help="what the epochs of the baseline are counted in",
    )
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd")
    parser.add_argument(
        "--keep-class-token", action="store_true", help="no layer drops the class token"
    )
    parser.add_argument("--num-samples", type=int, help="--plan: training images")
    parser.add_argument("--num-layers", type=int, default=12, help="--plan: of the model")
    parser.add_argument("--num-positions", type=int, default=197, help="--plan: of a row")
    parser.add_argument(
        "--counted-batch", type=int, help="--plan: batch that a published count was made with"
    )
    parser.set_defaults(epochs=14.0, learning_rate=1e-4, weight_decay=5e-4)
    return parser.parse_args(argv)


def make_optimizer(arguments: argparse.Namespace, parameters: Any) -> torch.optim.Optimizer:
    """SGD with momentum, as published, or AdamW."""
    rate, decay = arguments.learning_rate, arguments.weight_decay
    if arguments.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)


def make_task(
    arguments: argparse.Namespace, model: VisionModel, splits: ImageSplits, transform: Transform
) -> Task:
    """Images, as the training loop sees them."""

    def loss(engine: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = model.logits(engine, batch["pixel_values"])
        return cross_entropy(logits.float(), batch["labels"])

    def scores(engine: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        found = model.logits(engine, batch["pixel_values"]).argmax(-1)
        right = (found == batch["labels"]).double()
        return torch.stack([right, torch.ones_like(right)], 1)

    def export(engine: Any, folder: Path) -> None:
        weights = own_memory(engine.full_weights())
        if engine.global_rank == 0:
            model.export(weights, folder)
        wait_for_all()

    return Task(
        num_layers=model.num_layers,
        num_samples=len(splits.train),
        length=model.num_positions,
        loss=loss,
        shape=lambda batch: (len(batch["labels"]), model.num_positions),
        scores=scores,
        quality=lambda sums: 100 * sums[0] / sums[1],
        quality_name="val_acc",
        higher_is_better=True,
        validation=ImageBatches(splits.validation, transform, None),
        test=ImageBatches(splits.test, transform, None),
        eval_batch_size=arguments.eval_batch_size,
        export=export if arguments.export else None,
    )


def image_recipe(
    arguments: argparse.Namespace, seed: int, *, num_layers: int, length: int, num_samples: int
) -> tuple[Any, Budget]:
    """The configuration of the chosen variant, and as many steps, or as many layer tokens, as the
    epochs are for the baseline.
    """
    config = run_recipe(
        arguments,
        num_layers=num_layers,
        length=length,
        num_samples=num_samples,
        seed=seed,
        always_keep=(0,) if arguments.keep_class_token else None,
    )
    batch_size = config.train_batch_size
    steps = math.ceil(arguments.epochs * math.ceil(num_samples / batch_size))
    if arguments.budget == "steps":
        return config, Budget(unit="steps", amount=steps)
    return config, Budget(unit="layer_tokens", amount=steps * batch_size * length * num_layers)


def run_seed(arguments: argparse.Namespace, splits: ImageSplits, seed: int) -> None:
    """Write the results of one seed into its folder."""
    torch.manual_seed(seed)
    model = load_model(
        arguments.model, class_names=splits.class_names, image_size=arguments.image_size
    )
    config, budget = image_recipe(
        arguments,
        seed,
        num_layers=model.num_layers,
        length=model.num_positions,
        num_samples=len(splits.train),
    )
    settings = run_settings(arguments, seed, budget, splits.identity)
    if is_finished(settings):
        print(f"{settings.folder} is finished", flush=True)
        return
    transform = Transform(
        size=arguments.image_size,
        resize=arguments.resize or arguments.image_size * 8 // 7,
        padding=arguments.padding,
        mean=model.mean,
        std=model.std,
    )
    engine = initialize(
        model=model.module,
        optimizer=lambda parameters: make_optimizer(arguments, parameters),
        training_data=ImageBatches(splits.train, transform, seed),
        config=config,
        engine=arguments.engine,
    )[0]
    if engine.random_ltd_enabled():
        convert_to_random_ltd(engine, model.layer_class)
    train(engine, make_task(arguments, model, splits, transform), settings)


def main(argv: Sequence[str] | None = None) -> None:
    """Plans, or trains each seed after the other; finished ones are passed over."""
    arguments = parse_arguments(argv)
    if arguments.plan:
        if arguments.num_samples is None:
            raise ValueError("--plan needs --num-samples, the number of training images")
        size = {
            "num_layers": arguments.num_layers,
            "length": arguments.num_positions,
            "num_samples": arguments.num_samples,
        }
        config, budget = image_recipe(arguments, arguments.seeds[0], **size)
        print_image_plan(config, budget, **size, counted_batch=arguments.counted_batch)
        return
    splits = read_images(arguments.data, arguments.data_folder, arguments.validation_share)
    for seed in arguments.seeds:
        run_seed(arguments, splits, seed)


if __name__ == "__main__":
    with print_errors_in_one_line(ConfigError, ValueError, OSError, ModuleNotFoundError):
        main()
    sys.exit()
