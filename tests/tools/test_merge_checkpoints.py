import json

import torch

from megatron.checkpoint.files import read_weights
from tests.megatron.small_models import GPT2, make_gpt, make_tokenizer, save_run
from tools.generate_text import main as generate
from tools.merge_checkpoints import main


def test_a_merged_run_is_a_run(tmp_path, capsys):
    for step in (1, 2, 3):
        run = save_run(tmp_path / "run", make_gpt(GPT2, step), make_tokenizer(), step)
    merged = tmp_path / "merged"
    assert main(["--input", str(run), "--last", "2", "--output", str(merged)]) == 0
    said = capsys.readouterr().out
    assert said.count("50.00%") == 2
    assert "of 2 checkpoints" in said
    state = json.loads((merged / "global_step3" / "state.json").read_text())
    assert [(part["step"], part["share"]) for part in state["merged"]] == [(2, 0.5), (3, 0.5)]
    first, second = (read_weights(run / f"global_step{step}") for step in (2, 3))
    for name, found in read_weights(merged / "global_step3").items():
        assert torch.equal(found, ((first[name].double() + second[name].double()) / 2).float())
    assert generate(["--model", str(merged), "--prompt", "the cat", "--max-new-tokens", "2"]) == 0


def test_bad_input_is_one_line(tmp_path, refused):
    run = save_run(tmp_path / "run", make_gpt(GPT2))
    output = str(tmp_path / "merged")
    assert "1 checkpoints are there, 2 are needed" in refused(
        main, ["--input", run, "--output", output]
    )
    save_run(tmp_path / "run", make_gpt(GPT2, 1), step=1)
    said = refused(main, ["--input", run, "--output", run])
    assert "already exists" in said
