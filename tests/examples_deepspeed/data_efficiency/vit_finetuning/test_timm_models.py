"""The example with timm and torchvision, in an environment of their own: make vit-test."""

from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.vit, pytest.mark.filterwarnings("ignore")]
timm = pytest.importorskip("timm", reason="timm and torchvision need an environment of their own")

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision import datasets, transforms  # noqa: E402

from examples_deepspeed.data_efficiency.vit_finetuning import finetune, images  # noqa: E402
from tests.examples_deepspeed.data_efficiency.finished_run import (  # noqa: E402
    LAUNCH,
    TECHNIQUES,
    alone,
    as_flags,
    kill_at_random_steps,
    log_of,
    results_of,
    run_processes,
    small_recipe,
)

RECIPES = Path(finetune.__file__).parent / "recipes"
NAMES = ["blue", "red"]


@pytest.fixture
def flags(image_folder, tmp_path_factory):
    """A run of six steps of eight images, two micro-batches each."""
    more = "[checkpoint]\nexport = false\n[training]\nbf16 = false\n"
    more += "[data_efficiency.data_routing.random_ltd]\nalways_keep = [0]\n"
    recipe = small_recipe(RECIPES / "dinov2.toml", tmp_path_factory.mktemp("recipes"), more)

    def make(save, **changes):
        values = {
            "config": recipe,
            "pretrained": "timm:random:vit_tiny_patch16_224",
            "folder": image_folder,
            "image_size": 64,
            "epochs": 1,
            "budget": "steps",
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "validation_share": 0.2,
            "eval_interval": 1,
            "save_interval": 2,
            "lr": 1e-2,
            "lr_decay_style": "constant",
            "optimizer": "sgd",
            "save": save,
            **TECHNIQUES["random_ltd"],
        } | changes
        return as_flags(values)

    return make


ALONE = """
import json, numpy, timm, torch

model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
with torch.no_grad():
    print(json.dumps(model(torch.from_numpy(numpy.load(sys.argv[2]))).argmax(-1).tolist()))
"""


def test_exported_model_loads_with_timm_alone(flags, tmp_path, image_folder):
    finetune.main(flags(tmp_path, export=True))
    assert log_of(tmp_path).start["num_layers"] == 12
    (folder,) = tmp_path.rglob("model")
    splits = images.read_images("folder", image_folder, 0.2)
    transform = images.Transform(size=64, resize=73, mean=(0.5,) * 3, std=(0.5,) * 3)
    batches = images.ImageBatches(splits.test, transform, None)
    batch = batches.get_batch(np.arange(18), np.zeros(18))
    np.save(tmp_path / "pixels.npy", batch["pixel_values"].numpy())
    found = alone(ALONE, folder, tmp_path / "pixels.npy")
    accuracy = 100 * np.mean(np.array(found) == batch["labels"].numpy())
    assert accuracy == pytest.approx(results_of(tmp_path)[-1]["test accuracy"])


@pytest.mark.parametrize("deepspeed", [False, True])
def test_two_processes_killed_and_resumed_compute_what_one_does(flags, tmp_path, deepspeed):
    finetune.main(flags(tmp_path / "one"))
    more = flags(tmp_path / "two", deepspeed=deepspeed)
    kill_at_random_steps(finetune.__name__, more, seed=0, num_kills=1, before=5, launch=LAUNCH)
    run_processes(finetune.__name__, more)
    one, two = results_of(tmp_path / "one"), results_of(tmp_path / "two")
    for name in ("layer_tokens", "test accuracy"):
        assert one[-1][name] == two[-1][name]
    for here, there in zip(one[1:], two[1:], strict=True):
        assert there["training_loss"] == pytest.approx(here["training_loss"], rel=1e-3)


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
