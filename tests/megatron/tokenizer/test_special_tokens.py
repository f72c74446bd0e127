import json

import pytest

from megatron.tokenizer import build_tokenizer
from megatron.tokenizer.special_tokens import special_tokens
from tests.megatron.tokenizer_kinds import KINDS, llama3_like, llama_like

BOS, EOS = "bos_token", "eos_token"


@pytest.mark.parametrize(
    ("kind", "expected", "end_ids"),
    [
        ("byte-level", {BOS: "<|endoftext|>", EOS: "<|endoftext|>"}, (0,)),
        ("llama", {BOS: "<s>", EOS: "</s>", "unk_token": "<unk>"}, (2,)),
        ("llama 3", {BOS: "<|begin_of_text|>", EOS: "<|end_of_text|>"}, (1,)),
        ("t5", {EOS: "</s>", "pad_token": "<pad>", BOS: None}, (1,)),
        ("wordpiece", {"cls_token": "[CLS]", "pad_token": "[PAD]", BOS: None, EOS: None}, ()),
    ],
)
def test_by_their_usual_names(kind, expected, end_ids):
    tokenizer = KINDS[kind]()
    assert {name: tokenizer.special_tokens.get(name) for name in expected} == expected
    assert tokenizer.end_ids == end_ids


def write(folder, backend, **files):
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return build_tokenizer(tokenizer_file=folder / "tokenizer.json")


def test_the_files_beside_it_say_more_than_names(tmp_path):
    tokenizer = write(
        tmp_path,
        llama3_like(),
        special_tokens_map={BOS: "<|eot_id|>", "pad_token": {"content": "<|end_of_text|>"}},
        tokenizer_config={
            BOS: {"content": "<|begin_of_text|>"},
            EOS: "<|eot_id|>",
            "sep_token": "?!",
        },
        generation_config={"eos_token_id": [1, 2]},
    )
    assert dict(tokenizer.special_tokens) == {
        BOS: "<|begin_of_text|>",
        "pad_token": "<|end_of_text|>",
        EOS: "<|eot_id|>",
    }
    assert tokenizer.end_ids == (1, 2)
    assert tokenizer.beginning == 0
    assert tokenizer.eod == 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config": {"eos_token_id": 5}}, (5, 2)),
        ({"config": {"eos_token_id": 5}, "generation_config": {"eos_token_id": [7, 2]}}, (7, 2)),
        ({"generation_config": {}}, (2,)),
    ],
)
def test_ids_that_end_a_text(tmp_path, files, expected):
    assert write(tmp_path, llama_like(), **files).end_ids == expected


@pytest.mark.parametrize("ids", ["x", -1, [2, None], 1.5, True])
def test_what_is_no_id_ends_no_text(tmp_path, ids):
    with pytest.raises(
        ValueError, match=r"generation_config\.json: eos_token_id is .*: must be ids"
    ):
        write(tmp_path, llama_like(), generation_config={"eos_token_id": ids})


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 99999])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json .*JSON"):
        special_tokens(tmp_path, {"<s>": 1})


def test_a_prompt_begins_as_a_text_and_does_not_end_it():
    ids = {kind: make().encode("the cat") for kind, make in KINDS.items()}
    begun = {"llama": 1, "llama 3": 0, "wordpiece": 2}
    for kind, make in KINDS.items():
        first = [begun[kind]] if kind in begun else []
        assert make().encode_prompt("the cat") == first + ids[kind]
    assert KINDS["llama"]().encode_prompt("") == [1]
    assert KINDS["llama without a template"]().encode_prompt("") == [1]
    assert KINDS["t5"]().encode_prompt("") == [1]
    with pytest.raises(ValueError, match="place 4, half a character"):
        KINDS["llama"]().encode_prompt("the \udcff")
    with pytest.raises(ValueError, match="no token begins or ends texts"):
        KINDS["wordpiece"]().encode_prompt("")


@pytest.mark.parametrize("kind", ["byte-level", "llama", "llama 3"])
def test_control_tokens_in_a_text_stay_text(kind):
    tokenizer = KINDS[kind]()
    for token in ("<s>", "</s>", "<|begin_of_text|>", "<|end_of_text|>"):
        assert not set(tokenizer.encode(f"the {token} cat")) & {*tokenizer.end_ids, 1}


@pytest.mark.parametrize(
    ("kind", "following"),
    [("byte-level", " man"), ("llama", "man"), ("llama 3", " man"), ("t5", "man")],
)
def test_continuations_keep_the_space_before_them(kind, following):
    tokenizer = KINDS[kind]()
    context, ids = tokenizer.encode_prompt("the cat was"), tokenizer.encode(following)
    assert tokenizer.decode_after(context, ids) == " man"
    assert tokenizer.decode(ids) == following


def test_a_character_whose_bytes_are_spread_over_tokens():
    tokenizer = KINDS["llama"]()
    snow = tokenizer.encode("☃")[1:]
    assert len(snow) == 3
    context = tokenizer.encode_prompt("the")
    texts = [tokenizer.decode_after(context, snow[:number]) for number in (1, 2, 3)]
    assert texts[-1] == "☃"
    assert tokenizer.decode_after([*context, *snow[:1]], snow[1:]) == "☃"
