"""The tokenizer that the settings name, and whether corpus, model and tokenizer belong together."""

from megatron.config import DataConfig, require
from megatron.data.blended_dataset import Dataset
from megatron.tokenizer import Tokenizer, build_tokenizer


def named_tokenizer(data: DataConfig) -> Tokenizer | None:
    """The tokenizer of the settings; None where they name none.

    Raises:
        FileNotFoundError: if its file is missing.
        ValueError: if its file is damaged, or files are named that do not belong together.
    """
    if not (data.tokenizer_file or data.vocab_file or data.merge_file):
        return None
    return build_tokenizer(
        tokenizer_file=data.tokenizer_file, vocab_file=data.vocab_file, merge_file=data.merge_file
    )


def check_vocabulary(
    dataset: Dataset, data: DataConfig, vocab_size: int, tokenizer: Tokenizer | None
) -> None:
    """Nothing, if the model has an entry for each token and the tokenizer is the corpus's own.

    Args:
        dataset: of the corpus.
        data: the settings, for messages.
        vocab_size: entries of the model's vocabulary.
        tokenizer: None: there is nothing to compare.

    Raises:
        ValueError: for a model with too few entries, or another tokenizer.
    """
    corpus = " ".join(data.data_path)
    require(
        dataset.vocab_size is None or dataset.vocab_size <= vocab_size,
        "vocab_size",
        vocab_size,
        f"the corpus {corpus} was made with a vocabulary of {dataset.vocab_size}",
    )
    if tokenizer is not None:
        require(
            dataset.identity["tokenizer"] in (None, tokenizer.fingerprint),
            "tokenizer_file",
            data.tokenizer_file or data.vocab_file,
            f"the corpus {corpus} was made with another tokenizer",
        )
