"""The whole example on a small DINOv2: engines, stops, exports, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from data_efficiency import DifficultyIndex
from examples_deepspeed.data_efficiency.vit_finetuning import analyze_images, finetune
from examples_deepspeed.data_efficiency.vit_finetuning.images import ImageBatches
from megatron.finetuning import foreign_model
from tests.examples_deepspeed.data_efficiency.finished_run import (
    TECHNIQUES,
    alone,
    as_flags,
    check_killed_twice,
    check_stopped_twice,
    check_two_processes,
    results_of,
    small_recipe,
)

# Not there where timm is tested.
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
RECIPES = Path(finetune.__file__).parent / "recipes"


@pytest.fixture
def flags(vision_model, image_folder, tmp_path_factory):
    """A run of twelve steps of eight images, two micro-batches each."""
    folder = tmp_path_factory.mktemp("recipes")

    def make(save, variant="random_ltd", always_keep="[]", **changes):
        more = "[checkpoint]\nexport = false\n[data_efficiency.data_routing.random_ltd]\n"
        more += f'always_keep = {always_keep}\nrandom_ltd_schedule.min_value = "auto"\n'
        values = {
            "config": small_recipe(RECIPES / "dinov2.toml", folder, more),
            "pretrained": vision_model,
            "folder": image_folder,
            "image_size": 16,
            "epochs": 2,
            "budget": "steps",
            "optimizer": "sgd",
            "lr": 1e-3,
            "lr_decay_style": "constant",
            "lr_warmup_iters": 0,
            "bf16": False,
            "random_ltd_share": 0.3,
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "validation_share": 0.2,
            "eval_batch_size": 4,
            "eval_interval": 4,
            "save_interval": 3,
            "save": save,
            **TECHNIQUES[variant],
        } | changes
        return as_flags(values)

    return make


def test_learns_and_counts(flags, tmp_path):
    finetune.main(flags(tmp_path, lr=1e-2, epochs=4))
    first, *_, last = results_of(tmp_path)
    assert last["test accuracy"] > 90
    assert last["steps"] == 24
    assert last["corpus_tokens"] == 24 * 8 * 17
    assert last["layer_tokens"] < 4 * 24 * 8 * 17
    assert (first["kept_length"], last["kept_length"]) == (2, 17)


def test_baseline_drops_and_counts_nothing(flags, tmp_path):
    finetune.main(flags(tmp_path, variant="baseline"))
    results = results_of(tmp_path)
    assert results[-1]["layer_tokens"] == 4 * results[-1]["corpus_tokens"] == 4 * 12 * 8 * 17
    assert {record["kept_length"] for record in results} == {17}


def test_equal_layer_tokens_take_more_steps(flags, tmp_path):
    finetune.main(flags(tmp_path, budget="layer_tokens"))
    last = results_of(tmp_path)[-1]
    assert last["steps"] > 12
    assert last["layer_tokens"] >= 12 * 8 * 17 * 4 > last["layer_tokens"] - 8 * 17 * 4


def test_class_token_is_never_dropped(flags, tmp_path, monkeypatch):
    seen = []
    original = foreign_model.convert_to_random_ltd

    def watched(engine, layer_class):
        converted = original(engine, layer_class)
        router = engine.random_ltd_scheduler
        engine.module.register_forward_hook(lambda *_: seen.append(router.positions))
        return converted

    monkeypatch.setattr(foreign_model, "convert_to_random_ltd", watched)
    finetune.main(flags(tmp_path, always_keep="[0]"))
    drawn = [positions for positions in seen if positions is not None]
    assert drawn
    assert all((positions[..., 0] == 0).all() for positions in drawn)


def test_stopped_twice_and_resumed_gives_the_same_numbers(flags, tmp_path, monkeypatch):
    # Two micro-batches a step and three validation batches, before the first step and after the fourth.
    check_stopped_twice(finetune, flags, tmp_path, monkeypatch, ImageBatches, 10)


ALONE = """
import json, numpy, torch
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    logits = model(pixel_values=torch.from_numpy(numpy.load(sys.argv[2]))).logits
print(json.dumps({"logits": logits.tolist(), "names": model.config.id2label}))
"""


def test_exported_model_loads_without_this_library(flags, tmp_path, image_folder):
    finetune.main(flags(tmp_path, export=True, lr=1e-2))
    (folder,) = tmp_path.rglob("model")
    splits = finetune.read_images("folder", image_folder, 0.2)
    transform = finetune.Transform(size=16, resize=18, mean=(0.5,) * 3, std=(0.25,) * 3)
    batch = ImageBatches(splits.test, transform, None).get_batch(np.arange(18), np.zeros(18))
    np.save(tmp_path / "pixels.npy", batch["pixel_values"].numpy())
    answer = alone(ALONE, folder, tmp_path / "pixels.npy")
    assert answer["names"] == {"0": "blue", "1": "red"}
    logits, last = torch.tensor(answer["logits"]), results_of(tmp_path)[-1]
    accuracy = 100 * (logits.argmax(-1) == batch["labels"]).double().mean()
    assert last["test accuracy"] == pytest.approx(float(accuracy))
    assert last["test loss"] == pytest.approx(
        float(cross_entropy(logits, batch["labels"])), rel=1e-4
    )


def test_other_images_are_refused(flags, tmp_path, image_folder):
    """As many, of the same classes: a run on some does not go on with others."""
    finetune.main(flags(tmp_path / "run"))
    other = tmp_path / "images"
    shutil.copytree(image_folder, other)
    (other / "train" / "red" / "00.png").rename(other / "train" / "red" / "new.png")
    with pytest.raises(ValueError, match="is of another run: its data_identity is"):
        finetune.main(flags(tmp_path / "run", folder=other))


def test_plain_images_come_first(flags, tmp_path):
    more = {"variant": "both", "difficulty": tmp_path / "difficulty"}
    analyze_images.main(flags(tmp_path, **more))
    sizes = DifficultyIndex.open(tmp_path / "difficulty" / "compressed_size").values
    assert len(sizes) == 48
    assert sizes.min() > 100
    finetune.main(flags(tmp_path / "run", **more))
    assert results_of(tmp_path / "run")[-1]["steps"] == 12
    with pytest.raises(ValueError, match="num_samples: expected"):
        finetune.main(flags(tmp_path / "other", **more, validation_share=0.1))


def test_image_size_must_fit_the_patches(flags, tmp_path):
    with pytest.raises(ValueError, match="--image-size is 18: must be a multiple"):
        finetune.main(flags(tmp_path, image_size=18))


@pytest.mark.full
@pytest.mark.parametrize("before", [None, 25])
@pytest.mark.parametrize("deepspeed", [False, True])
def test_two_processes_compute_what_one_does(flags, tmp_path, deepspeed, before):
    """Also when both are killed at once, twice."""
    more = {"epochs": 2} if before is None else {"epochs": 6, "eval_interval": 1}
    exact = ("steps", "corpus_tokens", "layer_tokens", "test accuracy")
    rel = 1e-4 if before is None else 1e-3
    check_two_processes(
        finetune, flags, tmp_path, deepspeed, exact=exact, before=before, rel=rel, **more
    )


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_twice_and_resumed(flags, tmp_path, seed):
    check_killed_twice(finetune, flags, tmp_path, seed=seed, before=30, epochs=6)
