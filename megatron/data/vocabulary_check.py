"""Whether corpus, model and tokenizer belong together."""

from megatron.config import DataConfig
from megatron.data.blended_dataset import Dataset
from megatron.setting_rules import require
from megatron.tokenizer import Tokenizer


def check_vocabulary(
    dataset: Dataset, data: DataConfig, vocab_size: int, tokenizer: Tokenizer | None
) -> None:
    """Raise ValueError unless the model has an entry for each token and the tokenizer is the corpus's."""
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
