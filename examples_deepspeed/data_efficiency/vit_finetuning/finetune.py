r"""Finetunes a vision transformer of timm or Hugging Face with random-LTD and a curriculum.

python -m examples_deepspeed.data_efficiency.vit_finetuning.finetune \
    --recipe examples_deepspeed/data_efficiency/vit_finetuning/recipes/cifar.toml --seeds 1 2 3

Prints accuracy, kept length and layer tokens, and beside them samples and seconds. --plan prints the
accounting alone, before a model or an image is read.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

from megatron.command import run_command

import torch
from torch.nn.functional import cross_entropy

from data_efficiency import convert_to_random_ltd, initialize
from examples_deepspeed.data_efficiency.finetuning.plan import print_image_plan
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
from examples_deepspeed.data_efficiency.vit_finetuning.images import (
    ImageBatches,
    ImageSplits,
    LabelledImages,
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
    add_image_flags(parser)
    add = parser.add_argument
    add("--model", required=True, help="timm:NAME, or hub name or folder of a Hugging Face model")
    add("--image-size", type=int, default=224, help="pixels that the model takes")
    add("--resize", type=int, help="shorter side before cutting; 8/7 of the size")
    add("--padding", type=int, default=0, help="around training images")
    add(
        "--budget",
        choices=("steps", "layer_tokens"),
        default="steps",
        help="what the epochs of the baseline are counted in",
    )
    add("--optimizer", choices=("sgd", "adamw"), default="sgd")
    add(
        "--keep-class-token",
        dest="always_keep",
        action="store_const",
        const=[0],
        help="no layer drops the class token",
    )
    add("--num-samples", type=int, help="--plan: training images")
    add("--num-layers", type=int, default=12, help="--plan: of the model")
    add("--num-positions", type=int, default=197, help="--plan: of a row")
    add("--counted-batch", type=int, help="--plan: batch that a published count was made with")
    parser.set_defaults(epochs=14.0, learning_rate=1e-4, weight_decay=5e-4)
    return parse_with_recipe(parser, argv)


def config_and_budget(
    arguments: argparse.Namespace, size: dict[str, int], seed: int
) -> tuple[Any, tuple[str, int]]:
    """The configuration of the chosen variant, and as many steps, or as many layer tokens, as the
    epochs are for the baseline.
    """
    config = fill_recipe(arguments, **size, seed=seed)
    batch_size = config.train_batch_size
    steps = math.ceil(arguments.epochs * math.ceil(size["num_samples"] / batch_size))
    tokens = steps * batch_size * size["length"] * size["num_layers"]
    return config, (arguments.budget, {"steps": steps, "layer_tokens": tokens}[arguments.budget])


def make_vit_engine(
    arguments: argparse.Namespace, model: VisionModel, images: ImageBatches, config: Any
) -> Any:
    """The model in training, by SGD with momentum, as published, or by AdamW."""
    rates = {"lr": arguments.learning_rate, "weight_decay": arguments.weight_decay}

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        if arguments.optimizer == "adamw":
            return torch.optim.AdamW(parameters, **rates, fused=True)
        return torch.optim.SGD(parameters, **rates, momentum=0.9)

    engine = initialize(
        model=model.module,
        optimizer=optimizer,
        training_data=images,
        config=config,
        engine=arguments.engine,
        model_shape=layers_alone(model.num_layers),
    )[0]
    if engine.random_ltd_enabled():
        convert_to_random_ltd(engine, model.layer_class)
    return engine


def finetune_vit(arguments: argparse.Namespace, splits: ImageSplits, seed: int) -> None:
    """Train one seed to the end of its budget, from the beginning or from where it was stopped."""
    torch.manual_seed(seed)
    pixels = arguments.image_size
    model = load_model(arguments.model, class_names=splits.class_names, image_size=pixels)
    length, num_samples = model.num_positions, len(splits.train)
    size = {"num_layers": model.num_layers, "length": length, "num_samples": num_samples}
    config, budget = config_and_budget(arguments, size, seed)
    run = FinetuningRun(
        arguments,
        seed,
        splits.identity,
        budget=budget,
        length=length,
        num_samples=num_samples,
        quality=("val_acc", True),
    )
    if run.is_finished():
        return
    transform = Transform(
        size=pixels,
        resize=arguments.resize or pixels * 8 // 7,
        padding=arguments.padding,
        mean=model.mean,
        std=model.std,
    )
    engine = make_vit_engine(arguments, model, ImageBatches(splits.train, transform, seed), config)

    def loss_sum(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = model.logits(engine, batch["pixel_values"])
        return cross_entropy(logits.float(), batch["labels"], reduction="sum")

    def is_right(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model.logits(engine, batch["pixel_values"]).argmax(-1) == batch["labels"]

    def accuracy(part: LabelledImages) -> float:
        images, rows = ImageBatches(part, transform, None), arguments.eval_batch_size
        return 100 * mean_over(engine, images, rows, is_right)

    run.begin(engine)
    if not run.state["history"]:
        run.look(accuracy(splits.validation))
    for batches in run.batches():
        # Pixels do not tell how many positions a layer sees.
        step = engine.train_step(
            batches,
            loss_sum,
            num_terms=lambda batch: len(batch["labels"]),
            shape=lambda batch: (len(batch["labels"]), length),
        )
        if run.add(step):
            run.look(accuracy(splits.validation))
        run.save_when_due()
    if arguments.export:
        weights = whole_copies(engine)
        if engine.ranks.is_first:
            model.export(weights, run.saved.folder / "model")
    run.finish(accuracy(splits.test))


def main(argv: Sequence[str] | None = None) -> None:
    """Plans, or trains each variant with each seed; finished ones are passed over."""
    arguments = parse_arguments(argv)
    splits = None
    if not arguments.plan:
        splits = read_images(arguments.data, arguments.data_folder, arguments.validation_share)
    for one in each_variant(arguments):
        if splits is None:
            print_plan(one)
            continue
        for seed in one.seeds:
            finetune_vit(one, splits, seed)


def print_plan(arguments: argparse.Namespace) -> None:
    """Print the accounting of a variant."""
    if arguments.num_samples is None:
        raise ValueError("--plan needs --num-samples, the number of training images")
    size = {
        "num_layers": arguments.num_layers,
        "length": arguments.num_positions,
        "num_samples": arguments.num_samples,
    }
    config, budget = config_and_budget(arguments, size, arguments.seeds[0])
    print_image_plan(config, budget, size, arguments.counted_batch)


if __name__ == "__main__":
    raise SystemExit(run_command(process_group()(main)))
