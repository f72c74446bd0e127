"""Labelled images from CIFAR or a folder with one subfolder a class, cut and scaled for a model.

What is random about an image (its crop, its side) is a function of (seed, image, visit), so a resumed
run and one on more processes see the same pixels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
FLIP, CROP_X, CROP_Y = range(3)


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How an image becomes what the model takes."""

    size: int
    """Pixels of a side that the model takes."""
    resize: int
    """Pixels of the shorter side before cutting."""
    padding: int = 0
    """Black pixels around an image before its random cut, in training."""
    mean: Sequence[float]
    """Of the pretrained weights, for red, green and blue in 0..1; the next likewise."""
    std: Sequence[float]

    def scaled(self, image: Image.Image) -> Image.Image:
        """The image in RGB, its shorter side as long as asked for."""
        image = image.convert("RGB")
        shorter = min(image.size)
        sides = tuple(side * self.resize // shorter for side in image.size)
        return image.resize(sides, Image.Resampling.BILINEAR)

    def centre(self, image: Image.Image) -> np.ndarray:
        """The middle of the image, float32 [3, size, size]."""
        scaled = self.scaled(image)
        left, top = (round((side - self.size) / 2) for side in scaled.size)
        return self._normalized(scaled.crop((left, top, left + self.size, top + self.size)))

    def random(self, image: Image.Image, numbers: np.ndarray) -> np.ndarray:
        """A part of the image, perhaps mirrored, chosen by numbers in 0..1."""
        scaled = self.scaled(image)
        room = [side + 2 * self.padding - self.size + 1 for side in scaled.size]
        left = int(numbers[CROP_X] * room[0]) - self.padding
        top = int(numbers[CROP_Y] * room[1]) - self.padding
        cut = scaled.crop((left, top, left + self.size, top + self.size))
        if numbers[FLIP] < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._normalized(cut)

    def _normalized(self, image: Image.Image) -> np.ndarray:
        pixels = np.asarray(image, np.float32) / 255
        scaled = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


@dataclass(frozen=True)
class LabelledImages:
    """Paths or pixels of images, and the number of the class of each."""

    images: Sequence[Any]
    labels: np.ndarray
    """int64 [images]."""

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a difficulty index is checked against: names or pixels of all images, and labels."""
        digest = hashlib.sha256(self.labels.tobytes())
        for image in self.images:
            digest.update(image.name.encode() if isinstance(image, Path) else image.tobytes())
        return {
            "type": "LabelledImages",
            "num_samples": len(self),
            "sha256": digest.hexdigest(),
        }

    def part(self, chosen: np.ndarray) -> "LabelledImages":
        """Some of the images by number."""
        return LabelledImages([self.images[number] for number in chosen], self.labels[chosen])

    def of_classes(self, labels: Sequence[int]) -> "LabelledImages":
        """Those of some classes, which are numbered anew in this order."""
        own = self.part(np.flatnonzero(np.isin(self.labels, labels)))
        return LabelledImages(own.images, np.searchsorted(labels, own.labels))

    def open(self, number: int) -> Image.Image:
        """One image."""
        image = self.images[number]
        return Image.open(image) if isinstance(image, Path) else Image.fromarray(image)


@dataclass(frozen=True, kw_only=True)
class ImageSplits:
    """The three parts, and the names of the classes."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    class_names: list[str]

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that goes on must find again: all images and their classes."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "class_names": self.class_names,
            **{name: part.identity for name, part in parts.items()},
        }


class ImageBatches:
    """The data set that the sampler numbers: image i is sample i.

    Args:
        images: what to read.
        transform: what to do to each.
        seed: of the random cuts; None cuts the middle, as evaluation does.
    """

    def __init__(self, images: LabelledImages, transform: Transform, seed: int | None) -> None:
        self._images, self._transform, self._seed = images, transform, seed
        self.identity = images.identity

    def __len__(self) -> int:
        return len(self._images)

    def get_batch(self, samples: np.ndarray, visits: np.ndarray) -> dict[str, torch.Tensor]:
        """`pixel_values` float32 [rows, 3, size, size] and `labels` int64 [rows]."""
        pixels = [
            self._pixels(int(sample), int(visit))
            for sample, visit in zip(samples, visits, strict=True)
        ]
        return {
            "pixel_values": torch.from_numpy(np.stack(pixels)),
            "labels": torch.from_numpy(self._images.labels[samples]),
        }

    def _pixels(self, sample: int, visit: int) -> np.ndarray:
        image = self._images.open(sample)
        if self._seed is None:
            return self._transform.centre(image)
        numbers = np.random.default_rng([self._seed, sample, visit]).random(3)
        return self._transform.random(image, numbers)


def read_images(
    source: str, folder: Path, validation_share: float, classes: Sequence[str] = ()
) -> ImageSplits:
    """The images of a source in three parts.

    Args:
        source: cifar10, cifar100 (through torchvision, downloaded into `folder`) or folder.
        folder: with train/CLASS and test/CLASS or val/CLASS, as ImageNet has them, or with CLASS alone,
            of which a tenth becomes the test part.
        validation_share: of the training images; 0 validates on the test images, as published.
        classes: only these; all if none is named.

    Raises:
        ValueError: if there are not two classes of images, or not the named ones.
        ModuleNotFoundError: if CIFAR is asked for and torchvision is not installed.
    """
    if source == "folder":
        train, test, names = _from_folder(folder)
    else:
        train, test, names = _from_torchvision(source, folder)
    if classes:
        chosen = _chosen(names, classes, folder)
        train, test = (part.of_classes(chosen) for part in (train, test))
        names = [names[label] for label in chosen]
    if not validation_share:
        return ImageSplits(train=train, validation=test, test=test, class_names=names)
    held_out = _held_out(train, validation_share)
    return ImageSplits(
        train=train.part(np.flatnonzero(~held_out)),
        validation=train.part(np.flatnonzero(held_out)),
        test=test,
        class_names=names,
    )


def _chosen(names: Sequence[str], classes: Sequence[str], folder: Path) -> list[int]:
    """Numbers of the classes that are asked for, ascending.

    Raises:
        ValueError: if one is not there, or they are not two.
    """
    unknown = [name for name in classes if name not in names]
    if unknown or len({*classes}) < 2:
        raise ValueError(
            f"--classes is {' '.join(classes)}: must be two at least of those in {folder}, which are "
            f"{', '.join(names)}"
        )
    return [number for number, name in enumerate(names) if name in classes]


def _held_out(images: LabelledImages, share: float) -> np.ndarray:
    """Which images are set apart: of each class the same share, spread evenly over its order."""
    held_out = np.zeros(len(images), bool)
    for label in np.unique(images.labels):
        places = np.flatnonzero(images.labels == label)
        steps = np.floor((np.arange(len(places)) + 1) * share).astype(int)
        held_out[places] = np.diff(steps, prepend=0) > 0
    if held_out.all() or not held_out.any():
        raise ValueError(
            f"--validation-share {share} of {len(images)} images leaves a part without any: choose "
            "another share or more images"
        )
    return held_out


def _from_torchvision(
    source: str, folder: Path
) -> tuple[LabelledImages, LabelledImages, list[str]]:
    try:
        from torchvision import datasets  # noqa: PLC0415  only CIFAR needs it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--dataset {source} needs torchvision (pip install -r requirements.txt, in an environment of "
            "its own); an image folder does not: --dataset folder"
        ) from error
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[source]
    train, test = (kind(folder, train=part, download=True) for part in (True, False))
    parts = [LabelledImages(one.data, np.array(one.targets, np.int64)) for one in (train, test)]
    return parts[0], parts[1], list(train.classes)


def _from_folder(folder: Path) -> tuple[LabelledImages, LabelledImages, list[str]]:
    if not (folder / "train").is_dir():
        names, whole = _class_folders(folder)
        held_out = np.array([_is_tenth(path) for path in whole.images])
        test = whole.part(np.flatnonzero(held_out))
        return whole.part(np.flatnonzero(~held_out)), test, names
    names, train = _class_folders(folder / "train")
    test_folder = folder / ("test" if (folder / "test").is_dir() else "val")
    test_names, test = _class_folders(test_folder)
    if test_names != names:
        differing = sorted({*names} ^ {*test_names})
        raise ValueError(
            f"{folder}/train and {test_folder} differ in their classes: {differing[0]} is in one only"
        )
    return train, test, names


def _class_folders(folder: Path) -> tuple[list[str], LabelledImages]:
    """Names of the classes, sorted, and their images.

    Raises:
        ValueError: if there are not two classes with images.
    """
    subfolders = (
        sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    images: list[Path] = []
    labels: list[int] = []
    names: list[str] = []
    for subfolder in subfolders:
        found = sorted(
            path for path in subfolder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES
        )
        if found:
            labels += [len(names)] * len(found)
            names.append(subfolder.name)
            images += found
    if len(names) < 2:
        raise ValueError(
            f"{folder} has {len(names)} subfolders with images: a folder of images needs one subfolder "
            f"a class, two at least, with files of {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return names, LabelledImages(images, np.array(labels, np.int64))


def _is_tenth(path: Path) -> bool:
    """Whether an image is for the test: by the hash of its class and name, on every machine alike."""
    text = f"{path.parent.name}/{path.name}"
    return hashlib.sha256(text.encode()).digest()[0] < 26
