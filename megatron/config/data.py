"""What is trained on, and how samples are read."""

from dataclasses import dataclass
from typing import Annotated

from data_efficiency.analysis.token_windows import MEGATRON_SPLIT
from megatron.setting_rules import (
    BERT_ONLY,
    GPT_ONLY,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    Settings,
    require,
)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """Corpus, tokenizer and how samples are read."""

    data_path: tuple[str, ...]
    """Corpus made by tools/preprocess_data.py: its path without .bin and .idx. Several corpora are
    blended by weight: W1 PATH1 W2 PATH2."""
    split: str = MEGATRON_SPLIT
    """Proportions of training, validation and test documents."""
    seq_length: Annotated[int, POSITIVE] = 1024
    """Tokens of a sample."""
    shortest_piece: Annotated[int | None, POSITIVE, GPT_ONLY] = None
    """GPT: instead of rows of running text, train on pieces of documents, whose lengths are --seq-length halved again and again down
    to this one; each step has pieces of one length, as many tokens as --seq-length long ones (data_sampling.length_buckets).
    Validation has rows of --seq-length."""
    tokenizer_file: str | None = None
    """tokenizer.json of the corpus."""
    vocab_file: str | None = None
    """vocab.json of a GPT-2 tokenizer, instead of --tokenizer-file."""
    merge_file: str | None = None
    """merges.txt of a GPT-2 tokenizer, together with --vocab-file."""
    reset_attention_mask: Annotated[bool, GPT_ONLY] = False
    """GPT: attention stays inside documents, which the token that ends texts tells apart (tools/preprocess_data.py
    --append-eod). Rows are computed in pieces, without a mask."""
    reset_position_ids: Annotated[bool, GPT_ONLY] = False
    """GPT: positions count from the first token of a document in a row, not from the row's."""
    eod_mask_loss: Annotated[bool, GPT_ONLY] = False
    """GPT: leave what follows the end of a text out of the loss."""
    mask_prob: Annotated[float, SHARE, BERT_ONLY] = 0.15
    """BERT: share of a sample's tokens to be guessed, 0 to 1."""
    mask_whole_words: Annotated[bool, BERT_ONLY] = False
    """BERT: mask all tokens of a word or none of them, as the published runs do. Needs the tokenizer
    (--vocab-file or --tokenizer-file), which tells which tokens continue a word."""
    short_seq_prob: Annotated[float, SHARE, BERT_ONLY] = 0.1
    """BERT: probability of a sample that is made shorter than the sequence, 0 to 1."""
    sample_seed: Annotated[int, SEED, BERT_ONLY] = 1234
    """BERT: seed of which sentences form a sample, and of the masks in evaluation. Runs that share a
    difficulty index must share it, whatever their --seed."""
    difficulty: str = "difficulty"
    """Folder of the difficulty indexes: a metric's `index_path` of "auto" is the folder of the metric's
    name below it."""
    num_workers: Annotated[int, NOT_NEGATIVE] = 0
    """Processes that read training batches ahead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest_piece is not None:
            require(
                self.piece_lengths[0] == self.shortest_piece,
                "shortest_piece",
                self.shortest_piece,
                f"must be --seq-length ({self.seq_length}) halved some times, such as {self.piece_lengths[0]}",
            )

    @property
    def piece_lengths(self) -> tuple[int, ...]:
        """Tokens of the pieces that documents are cut into, ascending; one length where they are not."""
        lengths = [self.seq_length]
        while lengths[0] > (self.shortest_piece or self.seq_length) and lengths[0] % 2 == 0:
            lengths.insert(0, lengths[0] // 2)
        return tuple(lengths)
