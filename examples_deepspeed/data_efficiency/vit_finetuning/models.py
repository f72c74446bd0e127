"""Vision transformers of timm and Hugging Face behind one face."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_efficiency import known_layer_class

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class VisionModel:
    """A model with what the example needs to know of it."""

    module: nn.Module
    layer_class: type[nn.Module]
    num_layers: int
    num_positions: int
    """Patches and the class token: positions of a row in every layer."""
    mean: tuple[float, ...]
    """Of the images that the weights were trained on; the next likewise."""
    std: tuple[float, ...]
    logits: Callable[[Any, torch.Tensor], torch.Tensor]
    """(engine, pixel values) -> [rows, classes]."""
    export: Callable[[dict[str, torch.Tensor], Path], None]
    """(weights, folder): a checkpoint that loads without this library."""


def load_model(name: str, *, class_names: list[str], image_size: int) -> VisionModel:
    """A pretrained model with a new head for the classes.

    Args:
        name: `timm:NAME` (NAME may be `local-dir:FOLDER`), or the hub name or folder of a Hugging Face
            ViT or DINOv2.
        class_names: one for each number of a label.
        image_size: pixels of a side.

    Raises:
        ValueError: if no layer class is known, or the model does not take images of this size.
        ModuleNotFoundError: if timm or transformers is needed and not installed.
    """
    if name.startswith("timm:"):
        return _load_timm(name.removeprefix("timm:"), class_names, image_size)
    return _load_huggingface(name, class_names, image_size)


def _load_timm(name: str, class_names: list[str], image_size: int) -> VisionModel:
    try:
        import timm  # noqa: PLC0415  with torchvision, in an environment of its own
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"timm:{name} needs timm (pip install -r requirements.txt, in an environment of its own, as "
            "`make vit-test` does); models of Hugging Face do not"
        ) from error
    from timm.models import save_for_hf  # noqa: PLC0415

    random_weights = name.startswith("random:")
    name = name.removeprefix("random:")
    module = timm.create_model(
        name, pretrained=not random_weights, num_classes=len(class_names), img_size=image_size
    )
    data = timm.data.resolve_model_data_config(module)

    def export(weights: dict[str, torch.Tensor], folder: Path) -> None:
        # The folder holds the present weights: `weights` may come from another process's parts.
        plain = timm.create_model(
            module.pretrained_cfg["architecture"],
            num_classes=len(class_names),
            img_size=image_size,
        )
        plain.load_state_dict(weights)
        plain.pretrained_cfg = dict(module.pretrained_cfg, num_classes=len(class_names))
        save_for_hf(
            plain,
            str(folder),
            model_config={"label_names": class_names},
            model_args={"img_size": image_size},
            safe_serialization=True,
        )

    return VisionModel(
        module=module,
        **_layers(module, image_size),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        logits=lambda engine, pixels: engine(pixels),
        export=export,
    )


def _load_huggingface(name: str, class_names: list[str], image_size: int) -> VisionModel:
    from transformers import AutoConfig, AutoModelForImageClassification  # noqa: PLC0415
    from transformers.utils import cached_file  # noqa: PLC0415

    config = AutoConfig.from_pretrained(name)
    interpolates = config.model_type == "dinov2"
    if config.image_size != image_size and not interpolates:
        raise ValueError(
            f"--image-size is {image_size}, but {name} takes images of {config.image_size}: choose that"
        )
    if image_size % config.patch_size:
        raise ValueError(
            f"--image-size is {image_size}: must be a multiple of the patches' {config.patch_size}"
        )
    module = AutoModelForImageClassification.from_pretrained(
        name,
        dtype=torch.float32,
        id2label=dict(enumerate(class_names)),
        label2id={label: number for number, label in enumerate(class_names)},
        ignore_mismatched_sizes=True,
    )
    for parameter_name, parameter in module.named_parameters():
        # Pretraining's alone: a parameter without a gradient stops data-parallel training.
        parameter.requires_grad_(not parameter_name.endswith("mask_token"))
    place = cached_file(
        name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
    )
    processor = json.loads(Path(place).read_text()) if place else {}
    statistics = {
        "image_mean": list(processor.get("image_mean", IMAGENET_MEAN)),
        "image_std": list(processor.get("image_std", IMAGENET_STD)),
    }

    def export(weights: dict[str, torch.Tensor], folder: Path) -> None:
        module.save_pretrained(folder, state_dict=weights)
        content = {**processor, **statistics}
        (folder / "preprocessor_config.json").write_text(json.dumps(content, indent=1) + "\n")

    return VisionModel(
        module=module,
        **_layers(module, image_size),
        mean=tuple(statistics["image_mean"]),
        std=tuple(statistics["image_std"]),
        logits=lambda engine, pixels: engine(pixel_values=pixels).logits,
        export=export,
    )


@torch.no_grad()
def _layers(module: nn.Module, image_size: int) -> dict[str, Any]:
    """Class and number of the layers, and positions of a row, seen in a forward of one black image."""
    layer_class = known_layer_class(module)
    layers = [layer for layer in module.modules() if isinstance(layer, layer_class)]
    seen: list[int] = []
    watch = layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    module.eval()(torch.zeros(1, 3, image_size, image_size))
    watch.remove()
    return {
        "layer_class": layer_class,
        "num_layers": len(layers),
        "num_positions": seen[0],
    }
