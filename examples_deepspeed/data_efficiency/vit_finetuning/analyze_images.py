r"""How much is on each image? Its bytes as PNG, by which the curriculum shows plain images first.

python -m examples_deepspeed.data_efficiency.vit_finetuning.analyze_images --data-folder data/cifar10 \
    --output difficulty

The flags about the images must be those of finetune.py; an index of other images is refused there.
"""

import argparse
import io
from collections.abc import Sequence

from megatron.command import run_command

import torch

from data_efficiency import DataAnalyzer
from examples_deepspeed.data_efficiency.vit_finetuning.images import (
    LabelledImages,
    add_image_flags,
    read_images,
)

METRIC = "compressed_size"


class CompressedSizes(LabelledImages):
    """Item i is the number of bytes that image i takes as PNG."""

    def __getitem__(self, number: int) -> int:
        buffer = io.BytesIO()
        self.open(number).convert("RGB").save(buffer, "PNG")
        return buffer.tell()


def as_read(batch: torch.Tensor) -> torch.Tensor:
    """The metric of items that are numbers already."""
    return batch


def main(argv: Sequence[str] | None = None) -> None:
    """Computes the index, going on where it was stopped, and says where it is."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_image_flags(parser)
    parser.add_argument("--output", required=True, help=f"folder; the index is OUTPUT/{METRIC}")
    parser.add_argument("--num-processes", type=int, default=1)
    arguments = parser.parse_args(argv)
    images = read_images(arguments.data, arguments.data_folder, arguments.validation_share).train
    DataAnalyzer(
        CompressedSizes(images.images, images.labels),
        num_threads=arguments.num_processes,
        batch_size=256,
        metric_names=[METRIC],
        metric_functions=[as_read],
        metric_types=["single_value_per_sample"],
        metric_dtypes=[torch.int64],
        save_path=arguments.output,
        overwrite=True,
    ).run_map_reduce()
    print(f"{len(images)} images: {arguments.output}/{METRIC}")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
