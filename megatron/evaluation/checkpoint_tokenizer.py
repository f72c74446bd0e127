"""The tokenizer that belongs to a model's folder."""

from pathlib import Path

from megatron.checkpoint.files import read_state
from megatron.checkpoint.model import checkpoint_in
from megatron.tokenizer import Tokenizer, build_tokenizer

TOKENIZER_FILE = "tokenizer.json"


def tokenizer_of(
    folder: Path,
    *,
    tokenizer_file: Path | None = None,
    vocab_file: Path | None = None,
    merge_file: Path | None = None,
) -> Tokenizer | None:
    """The tokenizer named by files, else the one found with a model; None where there is none.

    Looked for, in this order: `tokenizer.json` in the folder and in the run it belongs to; the files
    that the run was started with, while they are there.

    Args:
        folder: a run or a step's folder of ours, or a Hugging Face folder.
        tokenizer_file: takes this file instead.
        vocab_file: with `merge_file`, GPT-2's two files instead.
        merge_file: see `vocab_file`.

    Raises:
        FileNotFoundError: if a named file is missing.
        ValueError: if a file is damaged.
    """
    if tokenizer_file or vocab_file or merge_file:
        return build_tokenizer(
            tokenizer_file=tokenizer_file, vocab_file=vocab_file, merge_file=merge_file
        )
    checkpoint = checkpoint_in(folder)
    places = [folder] if checkpoint is None else [folder, checkpoint.parent]
    for place in places:
        if (place / TOKENIZER_FILE).is_file():
            return build_tokenizer(tokenizer_file=place / TOKENIZER_FILE)
    if checkpoint is None:
        return None
    data = (read_state(checkpoint).get("settings") or {}).get("data", {})
    names = ("tokenizer_file", "vocab_file", "merge_file")
    files = {name: Path(data[name]) for name in names if data.get(name)}
    if not files or not all(path.is_file() for path in files.values()):
        return None
    return build_tokenizer(**files)
