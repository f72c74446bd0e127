import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from examples_deepspeed.data_efficiency.vit_finetuning.images import (
    ImageBatches,
    LabelledImages,
    Transform,
    read_images,
)

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def gradient(width, height):
    """An image whose red is its column and whose green is its row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(12, 8), (8, 12), (8, 8)])
def test_centre_is_the_middle(width, height):
    pixels = Transform(size=4, resize=8, **PLAIN).centre(gradient(width, height)) * 255
    assert pixels.shape == (3, 4, 4)
    assert pixels.dtype == np.float32
    assert pixels[0, 0].round().tolist() == [width // 2 - 2 + i for i in range(4)]
    assert pixels[1, :, 0].round().tolist() == [height // 2 - 2 + i for i in range(4)]


@given(st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3), st.integers(0, 3))
def test_random_cuts_are_parts_of_the_image(numbers, padding):
    transform = Transform(size=6, resize=8, padding=padding, **PLAIN)
    columns = (transform.random(gradient(12, 8), np.array(numbers)) * 255).round()[0]
    inside = columns[:, columns.any(0)] if padding else columns
    steps = np.diff(inside[len(inside) // 2])
    assert (steps == (-1 if numbers[0] < 0.5 else 1)).all() or padding


def test_every_place_of_a_cut_is_used():
    transform = Transform(size=6, resize=8, **PLAIN)
    corners = {
        tuple((transform.random(gradient(8, 8), np.array([0.9, x, y])) * 255).round()[:2, 0, 0])
        for x in np.linspace(0, 0.999, 20)
        for y in np.linspace(0, 0.999, 20)
    }
    assert corners == {(x, y) for x in range(3) for y in range(3)}


def test_statistics_are_taken_off():
    transform = Transform(size=4, resize=4, mean=(0.5, 0.0, 0.0), std=(0.25, 1.0, 1.0))
    white = Image.new("L", (4, 4), 255)
    assert transform.centre(white)[:, 0, 0].tolist() == [2.0, 1.0, 1.0]


def test_pixels_depend_on_seed_image_and_visit_alone():
    rng = np.random.default_rng(0)
    images = LabelledImages(list(rng.integers(0, 255, (5, 16, 16, 3), np.uint8)), np.arange(5))
    transform = Transform(size=8, resize=16, **PLAIN)
    batches = ImageBatches(images, transform, seed=3)
    one = batches.get_batch(np.array([4, 1]), np.array([0, 2]))
    again = batches.get_batch(np.array([1, 3]), np.array([2, 0]))
    assert one["labels"].tolist() == [4, 1]
    assert one["pixel_values"][1].equal(again["pixel_values"][0])
    other_visit = batches.get_batch(np.array([1]), np.array([3]))
    assert not one["pixel_values"][1].equal(other_visit["pixel_values"][0])


def test_folder_with_parts(image_folder):
    splits = read_images("folder", image_folder, 0.2)
    assert splits.class_names == ["blue", "red"]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [48, 12, 18]
    assert np.bincount(splits.validation.labels).tolist() == [6, 6]
    assert not {*splits.train.images} & {*splits.validation.images}
    assert all(path.parent.name == "red" for path in splits.test.part(np.arange(9, 18)).images)


def test_validation_on_the_test_images_as_published(image_folder):
    splits = read_images("folder", image_folder, 0)
    assert len(splits.train) == 60
    assert splits.validation is splits.test


def test_folder_of_classes_alone_is_divided(image_folder):
    splits = read_images("folder", image_folder / "train", 0.2)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 60
    assert 0 < len(splits.test) < 15
    assert not {*splits.train.images} & {*splits.test.images}


def test_some_of_the_classes(tmp_path):
    for number, place in enumerate(("train/a", "train/b", "train/c", "val/a", "val/b", "val/c")):
        (tmp_path / place).mkdir(parents=True)
        for name in range(number + 1):
            Image.new("RGB", (4, 4)).save(tmp_path / place / f"{name}.png")
    splits = read_images("folder", tmp_path, 0, ("c", "a"))
    assert splits.class_names == ["a", "c"]
    for part, labels in ((splits.train, [0, 1, 1, 1]), (splits.test, 4 * [0] + 6 * [1])):
        assert part.labels.tolist() == labels
        assert [path.parent.name for path in part.images] == ["ac"[label] for label in labels]
    for classes in (("a",), ("a", "d")):
        with pytest.raises(ValueError, match=f"--classes is {' '.join(classes)}: .* are a, b, c"):
            read_images("folder", tmp_path, 0, classes)


def test_folder_without_classes_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="0 subfolders with images.* one subfolder a class"):
        read_images("folder", tmp_path, 0.1)
    (tmp_path / "only").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "only" / "a.png")
    with pytest.raises(ValueError, match="1 subfolders with images"):
        read_images("folder", tmp_path, 0.1)


def test_parts_with_other_classes_are_refused(tmp_path):
    for place in ("train/a", "train/b", "val/a", "val/c"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place / "1.png")
    with pytest.raises(ValueError, match="differ in their classes: b"):
        read_images("folder", tmp_path, 0)


def test_share_that_leaves_nothing_is_refused(image_folder):
    with pytest.raises(ValueError, match=r"--validation-share 0\.01"):
        read_images("folder", image_folder, 0.01)


def test_cifar_needs_torchvision(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match="environment of its own"):
        read_images("cifar10", tmp_path, 0.1)
