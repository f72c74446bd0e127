import io
import sys
from dataclasses import replace

import pytest
import torch

from megatron.evaluation.generation import generate
from tests.megatron.small_models import GPT2, LLAMA, make_gpt, make_tokenizer, save_run
from tests.megatron.tokenizer_kinds import KINDS
from tools import convert_checkpoint
from tools.generate_text import main

PROMPT = "the cat"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"), make_gpt(GPT2), make_tokenizer())


def write(folder, *flags):
    return main(["--model", str(folder), "--device", "cpu", *map(str, flags)])


def test_greedy_text_is_that_of_the_model(run, capsys):
    tokenizer = make_tokenizer()
    # The model has more rows than the tokenizer has tokens: those are never written.
    model = make_gpt(replace(GPT2, vocab_size=tokenizer.vocab_size))
    ids = [int(token) for token in generate(model, [tokenizer.encode(PROMPT)], 12)]
    assert write(run, "--prompt", PROMPT, "--greedy", "--max-new-tokens", 12) == 0
    said = capsys.readouterr()
    assert said.out == f"{PROMPT}{tokenizer.decode(ids)}\n"
    assert said.err.startswith("[12 tokens in ")


def test_a_hugging_face_folder_writes_the_same(tmp_path, capsys):
    run = save_run(tmp_path / "run", make_gpt(LLAMA), make_tokenizer())
    given = ["--input", str(run), "--output", str(tmp_path / "hf"), "--to", "huggingface"]
    assert convert_checkpoint.main(given) == 0
    capsys.readouterr()
    for folder in (run, tmp_path / "hf"):
        assert write(folder, "--prompt", PROMPT, "--seed", 3) == 0
    first, second = capsys.readouterr().out.split(PROMPT)[1:]
    assert first == second != "\n"


@pytest.mark.parametrize("kind", ["llama", "llama 3", "byte-level", "t5"])
def test_any_tokenizer_begins_ends_and_keeps_its_spaces(kind, tmp_path, capsys, monkeypatch):
    tokenizer = KINDS[kind]()
    config = replace(LLAMA, vocab_size=tokenizer.vocab_size)
    run = save_run(tmp_path / "run", make_gpt(config), tokenizer)
    following = tokenizer.encode("man" if kind in ("llama", "t5") else " man")
    chosen = iter([*following, *following, tokenizer.end_ids[0], *following])
    seen = []

    def choose(logits):
        return torch.tensor([next(chosen)])

    def watched(model, prompts, *rest):
        seen.extend(prompts[0])
        return generate(model, prompts, *rest)

    monkeypatch.setattr("tools.generate_text.greedy", choose)
    monkeypatch.setattr("megatron.evaluation.generation.generate", watched)
    assert write(run, "--prompt", "the cat was", "--greedy", "--max-new-tokens", 12) == 0
    said = capsys.readouterr()
    assert said.out == "the cat was man man\n"
    assert said.err.endswith("; the document ended]\n")
    assert seen == tokenizer.encode_prompt("the cat was")


def test_seeds_and_standard_input(run, capsys, monkeypatch):
    texts = []
    for seed in (1, 1, 2):
        monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
        assert write(run, "--seed", seed, "--temperature", 2, "--top-k", 50) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith(PROMPT)


def test_a_full_model_says_so(run, capsys):
    assert write(run, "--prompt", "", "--max-new-tokens", 500, "--greedy") == 0
    assert capsys.readouterr().err.endswith("; the model's positions are full]\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "cat " * 60], "the model has 48 positions"),
        (["--prompt", PROMPT, "--max-new-tokens", 0], "--max-new-tokens is 0"),
        (["--prompt", PROMPT, "--temperature", 0], "--temperature is 0.0"),
        (["--prompt", PROMPT, "--model", "no"], "no holds no checkpoint of ours"),
    ],
)
def test_bad_input_is_one_line(run, flags, message, refused):
    assert message in refused(main, ["--model", run, "--device", "cpu", *flags])
