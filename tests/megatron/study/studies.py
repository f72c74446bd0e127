"""Study files for tests."""

from pathlib import Path

from megatron.study import read_study

BASE = """
[model]
num_layers = 4
[data]
data_path = ["{output}/text"]
seq_length = 16
[training]
train_tokens = 1_000
lr = 1e-3
"""
STUDY = """
[study]
base = "base.toml"
seeds = [1, 2]
[arms.baseline]
[arms.fast.training]
lr = 2e-3
"""


def a_study(folder: Path, text: str = STUDY, base: str = BASE, **more):
    """A study file in a folder, read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.toml").write_text(base)
    path = folder / "my_study.toml"
    path.write_text(text)
    return read_study(path, **{"output": folder / "runs", **more})
