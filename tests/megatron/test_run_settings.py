from dataclasses import replace

import pytest

import pretrain_gpt
from data_efficiency import Ranks
from megatron.config import CheckpointConfig
from megatron.run_settings import keep_run_file, with_batch_size, with_folder
from tests.megatron.tiny_pretraining import flags_of, settings, write_corpus


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_processes_share_the_batch(prefix):
    """Micro-batches are no larger than what a process gets of it."""
    config = settings(prefix, "--global-batch-size", "8", "--micro-batch-size", "4")
    assert with_batch_size(config, 2) == config
    assert with_batch_size(config, 8).training.micro_batch_size == 1
    with pytest.raises(ValueError, match=r"is 8: must be a multiple of .* \(2\) x processes \(3\)"):
        with_batch_size(config, 3)
    training = replace(config.training, global_batch_size=None)
    written = with_batch_size(replace(config, training=training), 3)
    assert written.training.global_batch_size == 12
    accumulated = replace(config, training=training, engine={"gradient_accumulation_steps": 5})
    assert with_batch_size(accumulated, 3).training.global_batch_size == 60


def test_the_first_folder_that_is_free_is_taken_and_a_given_one_kept(prefix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings(prefix)
    folders = [with_folder(config, Ranks()).checkpoint.save for _ in range(3)]
    assert folders == ["runs/gpt", "runs/gpt_2", "runs/gpt_3"]
    assert all((tmp_path / folder).is_dir() for folder in folders)
    given = replace(config, checkpoint=CheckpointConfig(save="here"))
    assert with_folder(given, Ranks()) == given
    assert not (tmp_path / "here").exists()


def test_the_file_in_the_folder_repeats_the_run(prefix, tmp_path):
    config = settings(prefix, "--save", str(tmp_path), "--lr", "0.5")
    keep_run_file(config)
    text = (tmp_path / "run.toml").read_text()
    assert f"python pretrain_gpt.py --config {tmp_path / 'run.toml'}" in text
    assert "lr = 0.5" in text


def test_a_run_without_a_folder_gets_one(prefix, tmp_path, monkeypatch, capsys):
    """Its model was thrown away."""
    monkeypatch.chdir(tmp_path)
    flags = flags_of(prefix, "--train-iters", "1", "--no-evaluate")
    assert pretrain_gpt.main(flags) == 0
    assert pretrain_gpt.main(flags) == 0
    assert (tmp_path / "runs" / "gpt" / "global_step1" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "gpt_2" / "log.jsonl").is_file()
    output = capsys.readouterr().out
    assert "the run is kept in runs/gpt_2\n" in output
    assert "validation at" not in output
