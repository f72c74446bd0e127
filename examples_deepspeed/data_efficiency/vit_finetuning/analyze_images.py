r"""How much is on each image? Its bytes as PNG, by which the curriculum shows plain images first.

python examples_deepspeed/data_efficiency/vit_finetuning/analyze_images.py --config dinov2

Run file and flags are those of finetune.py: the index is made where the run looks for it, below `--difficulty`.
An index of other images is refused there.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

import torch

from data_efficiency import DataAnalyzer
from examples_deepspeed.data_efficiency.vit_finetuning.images import (
    LabelledImages,
    read_images,
)
from megatron.arguments import parse_run_config
from megatron.config import ImageRunConfig
from megatron.finetuning.section import planned_json

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
    """Compute the index, going on where it was stopped, and say where it is."""
    config: ImageRunConfig = parse_run_config(
        __doc__ or "", argv, architecture="vit_finetuning", json_of=planned_json
    )
    data = config.data
    images = read_images(data.dataset, Path(data.folder), data.validation_share, data.classes).train
    DataAnalyzer(
        CompressedSizes(images.images, images.labels),
        num_threads=max(1, data.num_workers),
        batch_size=256,
        metric_names=[METRIC],
        metric_functions=[as_read],
        metric_types=["single_value_per_sample"],
        metric_dtypes=[torch.int64],
        save_path=data.difficulty,
        overwrite=True,
    ).run_map_reduce()
    print(f"{len(images)} images: {data.difficulty}/{METRIC}")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
