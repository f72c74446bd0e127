"""Whether corpus, model and tokenizer belong together, before any of them is used."""

from megatron.config import DataConfig, require
from megatron.data.blended_dataset import Dataset
from megatron.tokenizer import build_tokenizer


def check_vocabulary(dataset: Dataset, data: DataConfig, vocab_size: int) -> None:
    """Nothing, if the model has an entry for each token and the named tokenizer made the corpus.

    Args:
        dataset: of the corpus.
        data: names the tokenizer, or none.
        vocab_size: entries of the model's vocabulary.

    Raises:
        ValueError: for a model with too few entries, or another tokenizer.
        FileNotFoundError: if the tokenizer's file is missing.
    """
    corpus = " ".join(data.data_path)
    require(
        dataset.vocab_size is None or dataset.vocab_size <= vocab_size,
        "vocab_size",
        vocab_size,
        f"the corpus {corpus} was made with a vocabulary of {dataset.vocab_size}",
    )
    if data.tokenizer_file is None and data.vocab_file is None:
        return
    tokenizer = build_tokenizer(
        tokenizer_file=data.tokenizer_file, vocab_file=data.vocab_file, merge_file=data.merge_file
    )
    require(
        dataset.identity["tokenizer"] in (None, tokenizer.fingerprint),
        "tokenizer_file",
        data.tokenizer_file or data.vocab_file,
        f"the corpus {corpus} was made with another tokenizer",
    )
