"""What `pip install` gives: the wheel, built from the sources and installed where nothing else of them is."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser

import pytest

from tests.end_to_end.tiny_runs import ROOT

TEXTS = ["the fox", "the the the fox", "owl", "the", "fox the owl fox"]
SCRIPT = """
import torch
from torch.utils.data import Dataset

from data_efficiency import (
    CurriculumSampler,
    DifficultyIndex,
    MetricSettings,
    analyze,
    convert_to_random_ltd,
    initialize,
    load_config,
    save_without_random_ltd,
)
from data_efficiency.analysis.token_rows import TokenRows


class Tokens(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, place: int) -> torch.Tensor:
        return torch.arange(4) + place


def train(model: torch.nn.Module, layer: type[torch.nn.Module]) -> dict[str, torch.Tensor]:
    engine, _, loader, _ = initialize(model=model, training_data=Tokens(), config="ds_config.json")
    engine = convert_to_random_ltd(engine, layer)
    sampler = CurriculumSampler(Tokens(), load_config({}).data_efficiency, micro_batch_size=2)
    print(len(sampler), TokenRows("difficulty/tokens").vocab_size, loader)
    return save_without_random_ltd(engine)


result = analyze([{"text": "a"}], "seqlen", "difficulty", MetricSettings(tokenizer="tokenizer.json"))
if isinstance(result, DifficultyIndex):
    hardest: int | float = result.max_value
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: setuptools leaves things beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("what belongs to the project is told by git")
    for name in found.stdout.splitlines():
        if name.startswith(("data_efficiency/", "megatron/")) or "/" not in name:
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_file():
                shutil.copy(ROOT / name, target)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *flags, str(folder / "source")], check=True, capture_output=True)
    (found_wheel,) = folder.glob("*.whl")
    return found_wheel


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel that sees the packages of this one, but no clone of the project."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    # Beside a clone, pip would take the clone's own metadata for an installed package.
    flags = ["--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run(
        [*pip, "install", *flags, str(wheel)], check=True, capture_output=True, cwd=folder
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is added as it is: the .pth files in it, such as a clone's, are not read.
    (packages / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def run(environment, words, folder, **variables):
    """What a command of the environment prints."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        [str(environment / "bin" / words[0]), *words[1:]],
        cwd=folder,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_wheel_is_the_library_alone_and_asks_for_little(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        fields = Parser().parsestr(content.read(metadata).decode())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"data_efficiency"}
    assert {"data_efficiency/py.typed", "data_efficiency/__init__.pyi"} <= set(names)
    needed = [text for text in fields.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert {text.split(">")[0] for text in needed} == {
        *("torch", "numpy", "filelock", "lazy-loader", "tqdm"),
    }


def test_the_command_works_on_each_kind_of_data(environment, tmp_path):
    datasets, tokenizers = map(pytest.importorskip, ("datasets", "tokenizers"))
    vocabulary = {"[UNK]": 0, "the": 1, "fox": 2, "owl": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "texts.jsonl").write_text(lines)
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    writes = (
        "from data_efficiency.files import mmididx\nfrom pathlib import Path\n"
        "w = mmididx.IndexWriter(Path('corpus.idx'), 8, 2)\nw.add([9], [1])\nw.finish()\n"
        "Path('corpus.bin').write_bytes(bytes([1, 0] * 9))\n"
    )
    run(environment, ["python", "-c", writes], tmp_path)
    command = ["data-efficiency", "analyze"]
    for data in ("texts.jsonl", "saved"):
        words = [*command, data, "--tokenizer", "tokenizer.json", "--save", f"d_{data}"]
        assert "samples          5\n" in run(environment, words, tmp_path)
        shown = run(environment, ["data-efficiency", "show", f"d_{data}/vocab_rarity"], tmp_path)
        assert '"fox the owl fox"' in shown
    words = [*command, "corpus", "--seq-length", "2", "--split", "1", "--vocab-size", "9"]
    assert "samples          4\n" in run(environment, [*words, "--save", "c"], tmp_path)
    assert run(environment, ["data-efficiency", "--version"], tmp_path)


def test_a_megatron_beside_it_is_not_shadowed(environment, tmp_path):
    imports = "import data_efficiency, megatron.core; print(megatron.core.NAME)"
    (tmp_path / "there" / "megatron" / "core").mkdir(parents=True)
    (tmp_path / "there" / "megatron" / "core" / "__init__.py").write_text("NAME = 'Megatron-LM'")
    theirs = str(tmp_path / "there")
    out = run(environment, ["python", "-c", imports], tmp_path, PYTHONPATH=theirs)
    assert out == "Megatron-LM\n"
    missing = "import importlib.util as u; print(u.find_spec('megatron'), u.find_spec('tools'))"
    assert run(environment, ["python", "-c", missing], tmp_path) == "None None\n"


def test_a_user_s_script_has_types(environment, tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    command += ["--python-executable", str(environment / "bin" / "python"), "train.py"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.stdout == "Success: no issues found in 1 source file\n"
