import pytest

from megatron.checkpoint.saving import save_checkpoint
from megatron.evaluation.checkpoint_tokenizer import tokenizer_for, tokenizer_of
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


def test_a_named_tokenizer_wins_and_must_fit_the_model(tmp_path, tokenizer):
    run = save_run(tmp_path / "run", make_gpt(GPT2), tokenizer)
    assert tokenizer_for(run, 1000, None).fingerprint == tokenizer.fingerprint
    named = make_tokenizer()
    assert tokenizer_for(run, 1000, named) is named
    with pytest.raises(
        ValueError, match="has .* entries, the model 10: they do not belong together"
    ):
        tokenizer_for(run, 10, None)
    with pytest.raises(FileNotFoundError, match="no tokenizer was found with"):
        tokenizer_for(tmp_path / "nowhere", 10, None)
