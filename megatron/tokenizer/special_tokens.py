"""Which tokens begin, end and pad a text: as the files beside a `tokenizer.json` say, or by their usual names.

Source: `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and `config.json` as
transformers 5 reads them.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from data_efficiency import files

END_OF_DOCUMENT = "<|endoftext|>"
BERT_TOKENS = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TOKEN_FILES = ("special_tokens_map.json", "tokenizer_config.json")
"""The later one's word counts."""
_BERT = {f"{name}_token": token for name, token in BERT_TOKENS.items()} | {"unk_token": "[UNK]"}
_USUAL = {
    "bos_token": ("<s>", "<|begin_of_text|>", "<bos>", "[BOS]"),
    "eos_token": ("</s>", "<|end_of_text|>", "<eos>", "[EOS]"),
    "unk_token": ("<unk>", "[UNK]"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>"),
}


def special_tokens(folder: Path, vocabulary: Collection[str]) -> dict[str, str]:
    """Name, such as "eos_token", -> token, of a tokenizer whose files lie in a folder.

    Raises:
        ValueError: if a file is damaged.
    """
    said: dict[str, str] = {}
    for file in TOKEN_FILES:
        for name, token in json_object(folder / file).items():
            text = token.get("content") if isinstance(token, Mapping) else token
            if name in NAMES and isinstance(text, str) and text in vocabulary:
                said[name] = text
    return said or usual_special_tokens(vocabulary)


def usual_special_tokens(vocabulary: Collection[str]) -> dict[str, str]:
    """As `special_tokens`, by nothing but the vocabulary."""
    if all(token in vocabulary for token in _BERT.values()):
        return dict(_BERT)
    if END_OF_DOCUMENT in vocabulary:
        return dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_DOCUMENT)
    found = {
        name: next((token for token in tokens if token in vocabulary), None)
        for name, tokens in _USUAL.items()
    }
    return {name: token for name, token in found.items() if token is not None}


def end_ids(folder: Path) -> tuple[int, ...]:
    """Ids that end a text by the configuration in a folder; none where it does not say."""
    for file in ("generation_config.json", "config.json"):
        ids = json_object(folder / file).get("eos_token_id")
        if ids is not None:
            found = tuple(ids) if isinstance(ids, list) else (ids,)
            if not all(type(number) is int and number >= 0 for number in found):
                raise ValueError(f"{folder / file}: eos_token_id is {ids!r}: must be ids of tokens")
            return found
    return ()


def json_object(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file. Errors as `files.read_json_object`."""
    return files.read_json_object(path) if path.is_file() else {}
