"""Tokenizers from the files that others keep them in, and the flags that name these."""

from pathlib import Path
from typing import Any

import tokenizers

from megatron.tokenizer.bpe import bpe_of_files
from megatron.tokenizer.special_tokens import end_ids, special_tokens
from megatron.tokenizer.tokenizer import StrPath, Tokenizer, read_text
from megatron.tokenizer.wordpiece import wordpiece_of_file


def build_tokenizer(
    *,
    tokenizer_file: StrPath | None = None,
    vocab_file: StrPath | None = None,
    merge_file: StrPath | None = None,
) -> Tokenizer:
    """A tokenizer from a Hugging Face `tokenizer.json`, GPT-2's two files, or BERT's `vocab.txt`.

    Args:
        vocab_file: GPT-2's `vocab.json` (`encoder.json`): token -> id; or, alone, BERT's `vocab.txt`:
            a WordPiece token a line. It is cased if an entry has an upper-case letter.
        merge_file: GPT-2's `merges.txt` (`vocab.bpe`): one merge a line, best first.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the files are damaged or do not belong together, or no one kind is given.
    """
    if tokenizer_file is not None and vocab_file is None and merge_file is None:
        return _of_tokenizer_file(Path(tokenizer_file))
    if tokenizer_file is None and vocab_file is not None and merge_file is not None:
        return bpe_of_files(Path(vocab_file), Path(merge_file))
    if tokenizer_file is None and vocab_file is not None and Path(vocab_file).suffix == ".txt":
        return wordpiece_of_file(Path(vocab_file))
    raise ValueError(
        "give either --tokenizer-file, or --vocab-file and --merge-file together, or BERT's vocab.txt as"
        " --vocab-file"
    )


def add_tokenizer_flags(parser: Any, *, otherwise: str = "") -> None:
    """Add the flags that name a tokenizer's files to a parser of argparse, or to a group of it.

    Args:
        otherwise: which tokenizer is taken without them, words of the help text.
    """
    add = parser.add_argument
    add("--tokenizer-file", metavar="FILE", help=f"a tokenizer.json{otherwise and '; '}{otherwise}")
    add("--vocab-file", metavar="FILE", help="GPT-2's vocab.json, or alone BERT's vocab.txt")
    add("--merge-file", metavar="FILE", help="GPT-2's merges.txt")


def named_tokenizer(files: Any) -> Tokenizer | None:
    """The tokenizer of the files that parsed flags or settings name; None where they name none.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or files are named that do not belong together.
    """
    if not (files.tokenizer_file or files.vocab_file or files.merge_file):
        return None
    return build_tokenizer(
        tokenizer_file=files.tokenizer_file,
        vocab_file=files.vocab_file,
        merge_file=files.merge_file,
    )


def _of_tokenizer_file(path: Path) -> Tokenizer:
    content = read_text(path)
    # The library reports every kind of damage as a bare Exception.
    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:
        raise ValueError(f"{path}: not a tokenizer.json ({error})") from None
    if backend.get_vocab_size() == 0:
        raise ValueError(f"{path}: the vocabulary is empty")
    vocabulary = backend.get_vocab(with_added_tokens=True)
    return Tokenizer(
        backend,
        str(path),
        special_tokens=special_tokens(path.parent, vocabulary),
        end_ids=end_ids(path.parent),
    )
