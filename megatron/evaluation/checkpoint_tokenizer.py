"""The tokenizer that belongs to a model's folder."""

from pathlib import Path

from megatron.checkpoint.files import read_state
from megatron.checkpoint.model import checkpoint_in
from megatron.tokenizer import Tokenizer, build_tokenizer

TOKENIZER_FILE = "tokenizer.json"


def tokenizer_of(folder: Path) -> Tokenizer | None:
    """The tokenizer found with a model; None where there is none.

    Looked for, in this order: `tokenizer.json` in the folder and in the run it belongs to; the files
    that the run was started with, while they are there.

    Raises:
        ValueError: if a file is damaged.
    """
    checkpoint = checkpoint_in(folder)
    for near in [folder] if checkpoint is None else [folder, checkpoint.parent]:
        if (near / TOKENIZER_FILE).is_file():
            return build_tokenizer(tokenizer_file=near / TOKENIZER_FILE)
    if checkpoint is None:
        return None
    data = (read_state(checkpoint).get("settings") or {}).get("data", {})
    names = ("tokenizer_file", "vocab_file", "merge_file")
    files = {name: Path(data[name]) for name in names if data.get(name)}
    if not files or not all(path.is_file() for path in files.values()):
        return None
    return build_tokenizer(**files)


def tokenizer_for(folder: Path, vocab_size: int, named: Tokenizer | None) -> Tokenizer:
    """The named tokenizer, or else the one found with a model.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has more entries than the model's vocabulary.
    """
    tokenizer = named or tokenizer_of(folder)
    if tokenizer is None:
        raise FileNotFoundError(
            f"no tokenizer was found with {folder}: give --tokenizer-file, or --vocab-file and"
            " --merge-file"
        )
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model {vocab_size}: they do not"
            " belong together; give the model's own with --tokenizer-file"
        )
    return tokenizer
