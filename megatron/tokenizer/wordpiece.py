"""WordPiece, BERT's tokenizer: its `vocab.txt`, and training."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from megatron.tokenizer.special_tokens import BERT_TOKENS
from megatron.tokenizer.tokenizer import Tokenizer, read_text

PREFIX = "##"
UNKNOWN = "[UNK]"
CONTROL_TOKENS = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
MIN_VOCAB_SIZE = 64
MIN_ALPHABET, MAX_ALPHABET = 24, 1000


def wordpiece_of_file(path: Path) -> Tokenizer:
    """BERT's tokenizer from its `vocab.txt`; errors as of `build_tokenizer`.

    It keeps upper case and accents if an entry has an upper-case letter: an entry that no text in
    lower case could give.
    """
    # Not splitlines(): some entries are separators of its own.
    tokens = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    if tokens[-1] == "":
        tokens.pop()
    places = {token: number for number, token in enumerate(tokens, start=1)}
    for number, token in enumerate(tokens, start=1):
        if not token or token != token.strip():
            raise ValueError(f"{path}:{number}: not a token: {token!r}; one stands on each line")
        if places[token] != number:
            raise ValueError(f"{path}:{number}: {token!r} stands on line {places[token]} as well")
    if UNKNOWN not in places:
        raise ValueError(f"{path}: not a WordPiece vocabulary, it has no {UNKNOWN!r}")
    is_cased = any(token != token.lower() for token in tokens if token not in CONTROL_TOKENS)
    return Tokenizer(_wordpiece(tokens, is_cased=is_cased), str(path))


def train_wordpiece(texts: Iterable[str], vocab_size: int, *, is_cased: bool = False) -> Tokenizer:
    """A WordPiece tokenizer learned from texts; the same texts give the same tokenizer.

    Args:
        texts: the documents; read twice, so not an iterator.
        vocab_size: entries wanted, BERT's five control tokens included. Little text may give fewer.

    Raises:
        ValueError: if `vocab_size` is below 64.
        TypeError: if `texts` can be read only once.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"--vocab-size is {vocab_size}: must be at least {MIN_VOCAB_SIZE}")
    if iter(texts) is texts:
        raise TypeError("texts is an iterator: it is read twice, so give a list or the like")
    alphabet = _alphabet(
        texts, min(MAX_ALPHABET, max(MIN_ALPHABET, vocab_size // 16)), is_cased=is_cased
    )
    # The trainer numbers what it finds inside words in the order of a hash table, and chooses among
    # equals by number: only if all is numbered before is the result always the same.
    known = [*CONTROL_TOKENS, *alphabet, *(PREFIX + character for character in alphabet)]
    backend = _wordpiece([], is_cased=is_cased)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=known,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    backend.train_from_iterator(texts, trainer)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    # The known tokens became control tokens of that tokenizer; they are ordinary ones.
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    return Tokenizer(_wordpiece(tokens, is_cased=is_cased), "the trained tokenizer")


def _alphabet(texts: Iterable[str], limit: int, *, is_cased: bool) -> list[str]:
    """The most frequent characters of the texts as they are after normalization, in code order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    normalizer = _normalizer(is_cased=is_cased)
    normalized: Counter[str] = Counter()
    for character, number in counts.items():
        for part in normalizer.normalize_str(character).split():
            normalized.update(dict.fromkeys(part, number))
    chosen = sorted(normalized, key=lambda character: (-normalized[character], character))
    return sorted(chosen[:limit])


def _normalizer(*, is_cased: bool) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=not is_cased
    )


def _wordpiece(tokens: Sequence[str], *, is_cased: bool) -> tokenizers.Tokenizer:
    """The tokenizer of a vocabulary, in the form in which Hugging Face keeps BERT's."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    model = models.WordPiece(vocab=vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=PREFIX)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = _normalizer(is_cased=is_cased)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=PREFIX)
    backend.add_special_tokens([token for token in CONTROL_TOKENS if token in vocabulary])
    cls, sep = BERT_TOKENS["cls"], BERT_TOKENS["sep"]
    if cls in vocabulary and sep in vocabulary:
        backend.post_processor = processors.BertProcessing(
            (sep, vocabulary[sep]), (cls, vocabulary[cls])
        )
    return backend
