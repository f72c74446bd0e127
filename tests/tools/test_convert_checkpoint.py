import json
from dataclasses import asdict

import pytest
import torch
from huggingface_hub import constants

from data_efficiency.engine.whole_tensor import whole_tensors
from megatron.checkpoint.files import read_weights
from megatron.checkpoint.saving import save_checkpoint
from tests.megatron.conversion.test_deepspeed import write_checkpoint
from tests.megatron.small_models import GPT2, make_gpt, make_tokenizer, save_run
from tools.convert_checkpoint import main


def arguments(source, output, to, *more):
    return ["--input", str(source), "--output", str(output), "--to", to, *more]


def test_there_and_back(tmp_path, capsys):
    run = save_run(tmp_path / "run", make_gpt(GPT2), make_tokenizer())
    assert main(arguments(run, tmp_path / "there", "huggingface")) == 0
    assert main(arguments(tmp_path / "there", tmp_path / "back", "megatron")) == 0
    said = capsys.readouterr().out
    assert said.count("logits equal within") == 2
    assert "No tokenizer" not in said
    names = [f"global_step0/{name}" for name in ("model.safetensors", "state.json")]
    for name in (*names, "tokenizer.json"):
        assert (tmp_path / "back" / name).is_file()
    weights = [(tmp_path / part / names[0]).read_bytes() for part in ("run", "back")]
    assert weights[0] == weights[1]


def test_bad_input_is_one_line(tmp_path, refused):
    run = save_run(tmp_path / "run", make_gpt(GPT2))
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "config.json").write_text('{"model_type": "opt"}')
    for source, output, to, message in (
        (tmp_path, tmp_path / "x", "huggingface", "holds no model"),
        (run, run, "huggingface", "already exists"),
        (tmp_path / "opt", tmp_path / "x", "megatron", "error: model_type is 'opt'"),
    ):
        assert message in refused(main, arguments(source, output, to))
    for to, *more in (
        ("onnx",),
        ("megatron", "--license", "mit"),
        ("huggingface", "--private"),
    ):
        with pytest.raises(SystemExit):
            main(arguments(run, tmp_path / "x", to, *more))


def test_a_hugging_face_folder_has_a_card_and_goes_to_the_hub(tmp_path, capsys, monkeypatch):
    """Here no hub answers: the folder is complete, and the error says how to push it later."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    run, output = save_run(tmp_path / "run", make_gpt(GPT2)), tmp_path / "there"
    known = ("--license", "mit", "--push-to-hub", "me/small")
    assert main(arguments(run, output, "huggingface", *known)) == 1
    # Above it stand transformers' own progress bars.
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"hf upload me/small {output}" in said
    card = (output / "README.md").read_text()
    assert "license: mit" in card
    assert "# small\n" in card


def test_the_average_of_a_run_is_a_model_too(tmp_path, refused):
    """Here the average is another model, so that a mix-up shows."""
    raw, average = make_gpt(GPT2), make_gpt(GPT2, seed=1)
    run, output = save_run(tmp_path / "run", raw, make_tokenizer()), tmp_path / "average"
    said = refused(main, arguments(run, output, "megatron", "--average"))
    assert "no average of the weights: train with --ema-decay" in said
    save_checkpoint(
        run,
        7,
        weights=whole_tensors(raw.state_dict()),
        optimizer_state=[],
        average=whole_tensors(average.state_dict()),
        state={"model": asdict(GPT2)},
        keep_last=0,
    )
    assert main(arguments(run, output, "megatron", "--average")) == 0
    found = read_weights(output / "global_step7")
    assert all(torch.equal(found[name], value) for name, value in average.state_dict().items())


def test_a_folder_of_megatron_deepspeed_keeps_its_step(tmp_path):
    theirs = write_checkpoint(tmp_path / "theirs", make_gpt(GPT2))
    make_tokenizer().save(tmp_path / "tokenizer.json")
    named = ("--tokenizer-file", str(tmp_path / "tokenizer.json"))
    assert main(arguments(theirs, tmp_path / "ours", "megatron", *named)) == 0
    assert (tmp_path / "ours" / "latest").read_text() == "global_step100\n"
    assert main(arguments(tmp_path / "ours", tmp_path / "there", "huggingface")) == 0
    assert json.loads((tmp_path / "there" / "config.json").read_text())["eos_token_id"] == 0
