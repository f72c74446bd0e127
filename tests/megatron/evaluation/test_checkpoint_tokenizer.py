import json

import pytest

from megatron.checkpoint.files import save_checkpoint
from megatron.evaluation.checkpoint_tokenizer import tokenizer_of
from tests.megatron.small_models import GPT2, make_gpt, make_tokenizer, save_run


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_beside_the_checkpoint(tmp_path, tokenizer):
    run = save_run(tmp_path / "run", make_gpt(GPT2), tokenizer)
    for folder in (run, run / "global_step0"):
        assert tokenizer_of(folder).fingerprint == tokenizer.fingerprint


def test_in_a_hugging_face_folder(tmp_path, tokenizer):
    assert tokenizer_of(tmp_path) is None
    tokenizer.save(tmp_path / "tokenizer.json")
    assert tokenizer_of(tmp_path).fingerprint == tokenizer.fingerprint


def test_the_one_that_the_run_was_started_with(tmp_path, tokenizer):
    file = tmp_path / "elsewhere" / "tokenizer.json"
    tokenizer.save(file)
    data = {"tokenizer_file": str(file), "vocab_file": None, "merge_file": None}
    state = {"model": {}, "settings": {"data": data}}
    save_checkpoint(tmp_path, 1, weights=[], optimizer_state=[], state=state, keep_last=0)
    assert tokenizer_of(tmp_path).fingerprint == tokenizer.fingerprint
    file.unlink()
    assert tokenizer_of(tmp_path) is None


def test_named_files_win(tmp_path, tokenizer):
    run = save_run(tmp_path / "run", make_gpt(GPT2))
    assert tokenizer_of(run) is None
    tokenizer.save(tmp_path / "named.json")
    found = tokenizer_of(run, tokenizer_file=tmp_path / "named.json")
    assert found.fingerprint == tokenizer.fingerprint
    model = json.loads((tmp_path / "named.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(merges))
    files = {"vocab_file": tmp_path / "vocab.json", "merge_file": tmp_path / "merges.txt"}
    assert tokenizer_of(run, **files).fingerprint == tokenizer.fingerprint
