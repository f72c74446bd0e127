"""The example with timm and torchvision, in an environment of their own: make vit-test."""

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.vit, pytest.mark.filterwarnings("ignore")]
timm = pytest.importorskip("timm", reason="timm and torchvision need an environment of their own")

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision import datasets, transforms  # noqa: E402

from examples_deepspeed.data_efficiency.vit_finetuning import finetune, images  # noqa: E402

CONFIGS = Path(finetune.__file__).parent / "configs"
NAMES = ["blue", "red"]


def run(folder, image_folder, *flags):
    finetune.main(
        [
            *("--model", "timm:random:vit_tiny_patch16_224", "--data-folder", str(image_folder)),
            *("--recipe", str(CONFIGS / "both.json"), "--variant", "random_ltd"),
            *("--image-size", "64", "--epochs", "1", "--batch-size", "8"),
            *("--micro-batch-size", "4", "--validation-share", "0.2", "--eval-interval", "2"),
            *("--learning-rate", "1e-2", "--save", str(folder), "--export", *flags),
        ]
    )
    (path,) = folder.rglob("results.json")
    return json.loads(path.read_text())


def test_exported_model_loads_with_timm_alone(tmp_path, image_folder):
    results = run(tmp_path, image_folder, "--keep-class-token")
    assert results["num_layers"] == 12
    (folder,) = tmp_path.rglob("model")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    splits = images.read_images("folder", image_folder, 0.2)
    transform = images.Transform(size=64, resize=73, mean=(0.5,) * 3, std=(0.5,) * 3)
    batches = images.ImageBatches(splits.test, transform, None)
    batch = batches.get_batch(np.arange(18), np.zeros(18))
    with torch.no_grad():
        found = model(batch["pixel_values"]).argmax(-1)
    accuracy = 100 * (found == batch["labels"]).double().mean()
    assert float(accuracy) == pytest.approx(results["test"])


def test_images_are_cut_as_torchvision_cuts_them():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    image = Image.fromarray(pixels)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(24),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )(image)
    ours = images.Transform(size=24, resize=32, mean=mean, std=std).centre(image)
    torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_cifar_is_read_through_torchvision(monkeypatch, tmp_path, source):
    class Cifar:
        """Twenty images of torchvision's form, in place of a download."""

        classes = NAMES

        def __init__(self, _folder, *, train, download):
            count = 20 if train else 6
            self.data = np.zeros((count, 32, 32, 3), np.uint8)
            self.targets = [number % 2 for number in range(count)]

    monkeypatch.setattr(datasets, source.upper(), Cifar)
    splits = images.read_images(source, tmp_path, 0.2)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [16, 4, 6]
    assert splits.test.open(0).size == (32, 32)
