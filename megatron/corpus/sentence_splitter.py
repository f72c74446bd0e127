"""Text to sentences, with Punkt: an installed model, or one learned from the text itself.

A model is plain JSON data. Nothing is downloaded and nothing is unpickled.

Source: Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary Detection" (2006), in nltk.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from data_efficiency import files, hashing
from data_efficiency.progress import Progress
from megatron.corpus.text_sources import STANDARD_INPUT, SourceFile, read_blocks, texts_of

LEARNED_CHARACTERS = 4 * 1024 * 1024
MAX_LEARNED_FILES = 64
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_FIELDS = {"abbrev_types", "collocations", "sent_starters", "ortho_context"}

SentenceModel = Mapping[str, Any]
"""Abbreviations, pairs of words that a period does not part, words that often begin a sentence, and for
each word in which places it was seen, with a capital or without."""


class SentenceSplitter:
    """Splits texts at blank lines, and the paragraphs into sentences.

    Attributes:
        fingerprint: SHA-256 of the model.
    """

    def __init__(self, model: SentenceModel) -> None:
        punkt = _punkt()
        parameters = punkt.PunktParameters()
        parameters.abbrev_types = set(model["abbrev_types"])
        parameters.collocations = {tuple(pair) for pair in model["collocations"]}
        parameters.sent_starters = set(model["sent_starters"])
        parameters.ortho_context.update(model["ortho_context"])
        self._punkt = punkt.PunktSentenceTokenizer(parameters)
        self.fingerprint = hashlib.sha256(_as_text(model).encode("utf-8")).hexdigest()

    def split(self, text: str) -> list[str]:
        """The sentences of a text, without white space around them, none of them empty."""
        return [
            sentence
            for paragraph in _BLANK_LINES.split(text)
            for part in self._punkt.tokenize(paragraph)
            if (sentence := part.strip())
        ]


def installed_splitter(language: str) -> SentenceSplitter:
    """A splitter by nltk's Punkt model of a language, such as "english".

    Raises:
        ModuleNotFoundError: if nltk is not installed.
        LookupError: if the model is not.
    """
    punkt = _punkt()
    from nltk.data import find  # noqa: PLC0415  an optional extra

    folder = find(f"tokenizers/punkt_tab/{language}/")
    return SentenceSplitter(_as_data(punkt.load_punkt_params(folder)))


def splitter_of_file(path: str | os.PathLike[str]) -> SentenceSplitter:
    """A splitter by a model that `write_sentence_model` wrote.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it holds something else.
    """
    try:
        model = files.read_json_object(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file with a model of sentences") from None
    if model.keys() != _FIELDS or not _is_model(model):
        raise ValueError(
            f"{path}: not a model of sentences, a JSON object with the keys {', '.join(sorted(_FIELDS))}, "
            "as preprocess_data.py writes it"
        )
    return SentenceSplitter(model)


def learn_model(
    sources: Sequence[SourceFile],
    json_keys: Sequence[str],
    num_characters: int = LEARNED_CHARACTERS,
) -> SentenceModel:
    """A model learned from the beginnings of up to 64 files; the same files give the same model.

    Args:
        num_characters: about how many to read in all, in equal parts from each file.

    Raises:
        ModuleNotFoundError: if nltk is not installed.
        ValueError: if the input is wrong, with file and line, or is standard input.
    """
    if any(source.path == STANDARD_INPUT for source in sources):
        raise ValueError(
            "standard input can be read only once, so no model of sentences is learned from it: give"
            " --sentence-model, or install nltk's punkt_tab"
        )
    trainer = _punkt().PunktTrainer()
    chosen = np.sort(np.argsort(hashing.hash_numbers(np.arange(len(sources))))[:MAX_LEARNED_FILES])
    share = -(-num_characters // max(1, len(chosen)))
    with Progress("learning where sentences end", share * len(chosen)) as progress:
        for place, number in enumerate(chosen.tolist()):
            num_read = 0
            for text in _texts(sources[number], json_keys):
                trainer.train(text, finalize=False)
                num_read += len(text)
                progress.update(share * place + min(num_read, share))
                if num_read >= share:
                    break
    trainer.finalize_training()
    return _as_data(trainer.get_params())


def write_sentence_model(path: str | os.PathLike[str], model: SentenceModel) -> None:
    """Write a model."""
    files.write_file(path, _as_text(model) + "\n")


def _texts(source: SourceFile, json_keys: Sequence[str]) -> Iterator[str]:
    for block in read_blocks([source], json_keys):
        for texts in texts_of(block, json_keys):
            yield from texts


def _as_data(parameters: Any) -> SentenceModel:
    """The parameters of a model as JSON data, in a fixed order."""
    return {
        "abbrev_types": sorted(parameters.abbrev_types),
        "collocations": sorted(map(list, parameters.collocations)),
        "sent_starters": sorted(parameters.sent_starters),
        "ortho_context": {
            word: places for word, places in sorted(parameters.ortho_context.items()) if places
        },
    }


def _is_model(model: SentenceModel) -> bool:
    """Whether the fields hold what `_as_data` gives."""
    pairs, places = model["collocations"], model["ortho_context"]
    if not isinstance(pairs, list) or not isinstance(places, dict):
        return False
    lists = [model["abbrev_types"], model["sent_starters"], *pairs]
    return (
        all(isinstance(one, list) and all(isinstance(w, str) for w in one) for one in lists)
        and all(len(pair) == 2 for pair in pairs)
        and all(type(number) is int for number in places.values())
    )


def _as_text(model: SentenceModel) -> str:
    return json.dumps(model, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _punkt() -> ModuleType:
    """The module of nltk, which is an optional extra."""
    try:
        from nltk.tokenize import punkt  # noqa: PLC0415  an optional extra
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "splitting sentences needs nltk: pip install 'data-efficiency[sentences]'"
        ) from None
    return punkt
