"""Byte-level BPE and other Hugging Face tokenizers, read from files or trained.

Text never turns into control tokens: an "<|endoftext|>" written inside a document is encoded as the
ordinary characters it is made of.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from megatron.tokenizer.word_cache import WordCache, cuts_as_gpt2

END_OF_DOCUMENT = "<|endoftext|>"
MIN_VOCAB_SIZE = 257

StrPath = str | os.PathLike[str]


class Tokenizer:
    """Encoder and decoder around one Hugging Face tokenizer.

    Args:
        backend: the tokenizer itself.
        origin: where it comes from, for error messages.
    """

    def __init__(self, backend: tokenizers.Tokenizer, origin: str) -> None:
        self._backend = backend
        self._origin = origin
        # A file may ask for truncation or padding; a corpus wants each document whole.
        backend.no_truncation()
        backend.no_padding()
        if backend.token_to_id(END_OF_DOCUMENT) is not None:
            backend.add_special_tokens([END_OF_DOCUMENT])
        backend.encode_special_tokens = True
        self._words = WordCache(backend) if cuts_as_gpt2(backend) else None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without any added control tokens."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; uses all cores unless TOKENIZERS_PARALLELISM says otherwise."""
        if self._words is not None:
            return self._words.encode_batch(texts)
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def save(self, path: StrPath) -> None:
        """Writes `tokenizer.json`; the file appears whole or not at all.

        Raises:
            OSError: if the folder cannot be written to.
        """
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as file:
                file.write(self._backend.to_str(pretty=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError as error:
            raise OSError(f"{target}: cannot be written ({error.strerror})") from None

    def has(self, token: str) -> bool:
        """Whether the vocabulary has this token as one entry."""
        return self._backend.token_to_id(token) is not None

    def id_of(self, token: str) -> int:
        """Id of a token that is one entry of the vocabulary.

        Raises:
            ValueError: if it is none.
        """
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise ValueError(f"{self._origin}: the vocabulary has no {token!r}")
        return token_id

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def eod(self) -> int:
        """Id of the end-of-document token, "<|endoftext|>".

        Raises:
            ValueError: if the vocabulary has no such token.
        """
        token_id = self._backend.token_to_id(END_OF_DOCUMENT)
        if token_id is None:
            raise ValueError(
                f"{self._origin}: the vocabulary has no {END_OF_DOCUMENT!r}; take a tokenizer that"
                " has it (tools/train_tokenizer.py adds it) or do without --append-eod"
            )
        return token_id

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the vocabulary and the merges, the same whichever files they came from."""
        model = json.loads(self._backend.to_str())["model"]
        merges = [
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in model.get("merges", [])
        ]
        vocabulary = sorted(self._backend.get_vocab(with_added_tokens=True).items())
        content = json.dumps([vocabulary, merges], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def build_tokenizer(
    *,
    tokenizer_file: StrPath | None = None,
    vocab_file: StrPath | None = None,
    merge_file: StrPath | None = None,
) -> Tokenizer:
    """A tokenizer from a Hugging Face `tokenizer.json`, or GPT-2's from its two files.

    Args:
        tokenizer_file: `tokenizer.json`.
        vocab_file: GPT-2's `vocab.json` (`encoder.json`): token -> id.
        merge_file: GPT-2's `merges.txt` (`vocab.bpe`): one merge a line, best first.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the files are damaged or do not belong together, or both kinds or neither
            are given.
    """
    if tokenizer_file is not None and vocab_file is None and merge_file is None:
        return _from_tokenizer_file(Path(tokenizer_file))
    if tokenizer_file is None and vocab_file is not None and merge_file is not None:
        return _from_vocab_and_merges(Path(vocab_file), Path(merge_file))
    raise ValueError("give either --tokenizer-file, or --vocab-file and --merge-file together")


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer learned from texts; the same texts give the same tokenizer.

    Args:
        texts: the documents, read once.
        vocab_size: entries wanted, the 256 bytes and "<|endoftext|>" included. Little text may
            give fewer.

    Raises:
        ValueError: if `vocab_size` is below 257.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"--vocab-size is {vocab_size}: must be at least {MIN_VOCAB_SIZE}, the 256 bytes and"
            f" {END_OF_DOCUMENT!r}"
        )
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, "the trained tokenizer")


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such tokenizer file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a tokenizer file (not UTF-8 text)") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror})") from None


def _from_tokenizer_file(path: Path) -> Tokenizer:
    content = _read(path)
    # The library reports every kind of damage as a bare Exception.
    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:
        raise ValueError(f"{path}: not a tokenizer.json ({error})") from None
    if backend.get_vocab_size() == 0:
        raise ValueError(f"{path}: the vocabulary is empty")
    return Tokenizer(backend, str(path))


def _from_vocab_and_merges(vocab_file: Path, merge_file: Path) -> Tokenizer:
    vocab = _read_vocab(vocab_file)
    merges = _read_merges(merge_file)
    for number, pair in enumerate(merges, start=1):
        for piece in (*pair, "".join(pair)):
            if piece not in vocab:
                raise ValueError(
                    f"{merge_file}: merge {number} ({' '.join(pair)}) needs {piece!r}, which is not"
                    f" in {vocab_file}; the two files must come from the same tokenizer"
                )
    return Tokenizer(_byte_level(models.BPE(vocab=vocab, merges=merges)), str(vocab_file))


def _read_vocab(path: Path) -> dict[str, int]:
    try:
        vocab = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(vocab, dict) or not all(type(value) is int for value in vocab.values()):
        raise ValueError(f"{path}: not a vocabulary (one JSON object from token to id)")
    if len(set(vocab.values())) != len(vocab) or min(vocab.values(), default=0) < 0:
        raise ValueError(f"{path}: the ids must be distinct and not negative")
    missing = [symbol for symbol in pre_tokenizers.ByteLevel.alphabet() if symbol not in vocab]
    if missing:
        # Characters of a missing byte would vanish from the corpus without a word.
        raise ValueError(
            f"{path}: {len(missing)} of the 256 byte symbols are missing (such as"
            f" {min(missing)!r}); this is not a byte-level vocabulary"
        )
    return vocab


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    # Not splitlines(): the byte symbols contain none of its separators, a damaged file may.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        pieces = line.rstrip("\r").split(" ")
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        if len(pieces) != 2 or not all(pieces):
            raise ValueError(f"{path}:{number}: a merge is two tokens and a space, not {line!r}")
        merges.append((pieces[0], pieces[1]))
    return merges
