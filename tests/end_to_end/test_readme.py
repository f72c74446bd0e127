"""The README's Python examples, run as they stand on a small model and dataset of a user's own."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from data_efficiency import DifficultyIndex, load_config
from megatron.arguments import parse_run_config
from tests.end_to_end.tiny_runs import NUM_LAYERS, ROOT, SEQ_LENGTH

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(8, 8)

    def forward(self, hidden_states, *, attention_mask=None):
        return hidden_states + self.dense(hidden_states)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.layers = nn.ModuleList(Layer() for _ in range(NUM_LAYERS))

    def forward(self, tokens):
        hidden_states = self.embedding(tokens)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=None)
        return hidden_states @ self.embedding.weight.T


def make_dataset():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 20, (128, SEQ_LENGTH + 1), generator=generator)
    return [
        {"tokens": row[:-1], "labels": row[1:], "attention_mask": (row[:-1] > 3).long()}
        for row in rows
    ]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the examples take for granted, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    return {"model": Model(), "dataset": make_dataset(), "MyTransformerLayer": Layer}


def test_training(names):
    exec(EXAMPLES[1].replace("num_threads=8", "num_threads=1"), names)
    small = {'_size": 64': '_size": 8', "start=128": "start=16", "epochs=3": "epochs=2"}
    script = EXAMPLES[0]
    for large, less in small.items():
        assert large in script
        script = script.replace(large, less)
    exec(script, names)
    settings = names["engine"].random_ltd_scheduler.settings.random_ltd
    assert settings.random_ltd_layer_id == tuple(range(1, NUM_LAYERS - 1))
    assert settings.schedule.max_difficulty == SEQ_LENGTH
    assert names["engine"].global_steps == 32
    weights = torch.load("model.pt", weights_only=True)
    assert list(weights) == list(Model().state_dict())
    assert names["place"]["loader"]["step"] == 32


def test_the_loop_is_fifteen_lines():
    loop = EXAMPLES[0][EXAMPLES[0].index("engine, _") : EXAMPLES[0].index("torch.save")]
    assert len([line for line in loop.splitlines() if line.strip()]) <= 15


def test_analysis(names):
    exec(EXAMPLES[1].replace("num_threads=8", "num_threads=2"), names)
    expected = [int(item["attention_mask"].sum()) for item in names["dataset"]]
    assert np.array_equal(DifficultyIndex.open("analysis/length").values, expected)


def test_every_example_is_run():
    assert len(EXAMPLES) == 2


def block(language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return text


def test_the_json_is_whole():
    content = json.loads(block("json"))
    assert load_config(content).data_efficiency.random_ltd is not None
    assert content["optimizer"]["params"]["lr"] == 3e-4


def test_the_run_file_is_whole(tmp_path, capsys):
    (tmp_path / "run.toml").write_text(block("toml"))
    with pytest.raises(SystemExit):
        parse_run_config("", ["--config", str(tmp_path / "run.toml"), "--print-json"])
    section = load_config(json.loads(capsys.readouterr().out)).data_efficiency
    assert section.random_ltd.random_ltd_layer_id == tuple(range(1, 11))
    assert [selection.index_path for selection in section.selections] == ["difficulty/vocab_rarity"]
