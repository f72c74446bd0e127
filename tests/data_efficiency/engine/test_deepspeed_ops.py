import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from data_efficiency.engine.deepspeed_ops import guarded, without_needless_builds
from data_efficiency.json_section import ConfigError

OPERATOR = SimpleNamespace(name="fused_thing")
KILLED = """
import os
from types import SimpleNamespace
from data_efficiency.engine.deepspeed_ops import guarded

def build(operator, verbose):
    folder = os.path.join(os.environ["TORCH_EXTENSIONS_DIR"], operator.name)
    open(os.path.join(folder, "lock"), "w").close()
    os._exit(9)

guarded(build)(SimpleNamespace(name="fused_thing"))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the operator is built."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return tmp_path / OPERATOR.name


def test_a_build_that_was_killed_is_begun_again(folder):
    died = subprocess.run([sys.executable, "-c", KILLED], check=False, capture_output=True)
    assert died.returncode == 9, died.stderr.decode()
    assert (folder / "lock").exists()

    def build(operator, verbose):
        assert not (folder / "lock").exists()
        return operator.name

    assert guarded(build)(OPERATOR) == "fused_thing"
    assert list(folder.iterdir()) == []


def test_a_lock_of_another_program_is_named(folder):
    assert guarded(lambda operator, verbose: verbose)(OPERATOR, False) is False
    (folder / "lock").touch()
    with pytest.raises(ConfigError, match=r"fused_thing/lock is there: .* remove the file"):
        guarded(lambda operator, verbose: 1)(OPERATOR)
    assert (folder / "lock").exists()


@pytest.mark.parametrize(
    ("optimizer", "torch_adam"),
    [
        ({"type": "Adam"}, True),
        ({"type": "AdamW", "params": {"lr": 1}}, True),
        ({"type": "muon"}, True),
        ({"type": "Adam", "params": {"torch_adam": False}}, False),
        ({"type": "Lion", "params": {}}, None),
    ],
)
def test_adam_is_pytorchs_on_a_cpu(optimizer, torch_adam):
    sections = {"optimizer": optimizer, "bf16": {}}
    changed = without_needless_builds(sections, torch.device("cpu"))
    assert changed["optimizer"].get("params", {}).get("torch_adam") is torch_adam
    assert without_needless_builds(sections, torch.device("cuda")) == sections
    assert without_needless_builds({}, torch.device("cpu")) == {}
