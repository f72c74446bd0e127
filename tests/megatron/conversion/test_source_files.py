"""Ids and settings of exported folders: the tokenizer's, or those of the folder that the model came from."""

import json
from dataclasses import replace

import pytest
import torch
import transformers

from megatron.conversion.model import Model, read_any, save_as_hugging_face, save_as_ours
from megatron.evaluation.checkpoint_tokenizer import tokenizer_of
from megatron.evaluation.model import load_for_evaluation
from megatron.model.bert_model import BertModel
from megatron.tokenizer import build_tokenizer
from tests.megatron.small_models import GPT2, LLAMA, TEXTS, make_gpt, make_model, make_tokenizer
from tests.megatron.tokenizer_kinds import KINDS, llama_like, train_wordpiece

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def content(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("byte-level", (0, 0, None)),
        ("llama", (1, 2, None)),
        ("llama 3", (0, 1, None)),
        ("t5", (None, 1, 0)),
        ("wordpiece", (None, None, 0)),
        (None, (None, None, None)),
    ],
)
@pytest.mark.parametrize("family", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_an_exported_folder_has_the_ids_of_its_tokenizer(tmp_path, family, kind, expected):
    tokenizer = None if kind is None else KINDS[kind]()
    config = replace(family, vocab_size=300 if tokenizer is None else tokenizer.vocab_size)
    model = make_gpt(config)
    save_as_hugging_face(Model(config, model.state_dict()), tmp_path / "there", tokenizer)
    for name in ("config", "generation_config"):
        found = content(tmp_path / "there", name)
        assert tuple(found.get(key) for key in IDS) == expected
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "there")
    assert tuple(getattr(loaded.generation_config, key) for key in IDS) == expected
    if kind is not None:
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "there")
        assert tuple(getattr(theirs, key) for key in IDS) == expected
        assert theirs("the cat")["input_ids"] == tokenizer.encode_as_transformers("the cat")
    if expected[1] is not None:
        # The model says what ends a text: always that token, so one is written and no more.
        with torch.no_grad():
            head = torch.nn.Linear(config.hidden_size, loaded.config.vocab_size)
            head.weight.zero_()
            head.bias.copy_(torch.eye(loaded.config.vocab_size)[expected[1]])
        loaded.set_output_embeddings(head)
        written = loaded.generate(torch.tensor([[5, 6]]), do_sample=False, max_new_tokens=9)
        assert written.tolist() == [[5, 6, expected[1]]]


def test_berts_padding_is_that_of_its_tokenizer(tmp_path):
    words = [*dict.fromkeys(" ".join(TEXTS).split()), "[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("".join(word + "\n" for word in words))
    tokenizer = build_tokenizer(vocab_file=tmp_path / "vocab.txt")
    config = replace(GPT2, vocab_size=len(words), num_token_types=2)
    model = make_model(BertModel, config)
    save_as_hugging_face(Model(config, model.state_dict()), tmp_path / "there", tokenizer)
    assert content(tmp_path / "there", "config")["pad_token_id"] == words.index("[PAD]")


def write_llama(folder):
    backend = llama_like()
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=backend.get_vocab_size(),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=[2, 5],
            pad_token_id=0,
            use_cache=False,
            pretraining_tp=2,
            of_its_own={"a": [1, None]},
        )
    )
    model.generation_config.update(
        eos_token_id=[2, 5, 9], pad_token_id=0, do_sample=True, temperature=0.6, max_length=77
    )
    model.save_pretrained(folder)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<unk>",  # noqa: S106
        padding_side="left",
        model_max_length=77,
        chat_template="{{ messages }}",
    )
    wrapped.save_pretrained(folder)


def write_gpt2(folder):
    tokenizer = make_tokenizer()
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=tokenizer.vocab_size,
            n_embd=24,
            n_layer=2,
            n_head=3,
            n_positions=48,
            bos_token_id=7,
            eos_token_id=0,
            pad_token_id=3,
            n_inner=None,
            summary_type="first",
            task_specific_params={"text-generation": {"max_length": 50}},
        )
    ).save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")


def write_bert(folder):
    tokenizer = train_wordpiece(TEXTS, 100)
    transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            classifier_dropout=0.3,
            pad_token_id=0,
        )
    ).save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")


@pytest.fixture(params=[write_llama, write_gpt2, write_bert])
def source(request, tmp_path):
    (tmp_path / "source").mkdir()
    torch.manual_seed(0)
    request.param(tmp_path / "source")
    return tmp_path / "source"


def there_and_back(source, folder, **changes):
    model = read_any(source)
    save_as_ours(model, folder / "ours", tokenizer_of(source), source)
    model = read_any(folder / "ours")
    model = model._replace(config=replace(model.config, **changes))
    save_as_hugging_face(model, folder / "back", tokenizer_of(folder / "ours"))
    return folder / "back"


def test_a_round_trip_keeps_what_the_source_says(source, tmp_path):
    back = there_and_back(source, tmp_path)
    assert {path.name for path in back.iterdir()} == {path.name for path in source.iterdir()}
    for path in source.glob("*.json"):
        assert content(back, path.stem) == content(source, path.stem), path.name


def test_what_has_changed_since_is_ours(tmp_path):
    source = tmp_path / "source"
    write_llama(source)
    back = there_and_back(source, tmp_path, attention_dropout=0.25)
    assert content(back, "config") == content(source, "config") | {"attention_dropout": 0.25}


def test_another_tokenizer_brings_its_own_ids(tmp_path):
    source = tmp_path / "source"
    write_llama(source)
    tokenizer = KINDS["t5"]()
    save_as_ours(read_any(source), tmp_path / "ours", tokenizer, source)
    save_as_hugging_face(read_any(tmp_path / "ours"), tmp_path / "back", tokenizer)
    for name in ("config", "generation_config"):
        assert content(tmp_path / "back", name).get("eos_token_id") == 1
    assert "temperature" not in content(tmp_path / "back", "generation_config")
    assert not (tmp_path / "back" / "chat_template.jinja").exists()


def test_all_ids_of_the_source_end_a_text(tmp_path):
    source = tmp_path / "source"
    write_llama(source)
    save_as_ours(read_any(source), tmp_path / "ours", tokenizer_of(source), source)
    _, tokenizer = load_for_evaluation(tmp_path / "ours")
    assert tokenizer.end_ids == (2, 5, 9)


def test_a_tokenizer_file_of_such_a_folder_brings_its_ids(tmp_path):
    source = tmp_path / "source"
    write_llama(source)
    tokenizer = tokenizer_of(source)
    config = replace(LLAMA, vocab_size=tokenizer.vocab_size)
    weights = make_gpt(config).state_dict()
    save_as_hugging_face(Model(config, weights), tmp_path / "there", tokenizer)
    assert content(tmp_path / "there", "config")["eos_token_id"] == [2, 5, 9]
    assert content(tmp_path / "there", "generation_config")["pad_token_id"] == 0
