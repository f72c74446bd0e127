"""Flags that name the samples of a corpus, and what they name."""

import logging
from pathlib import Path
from typing import Any

from megatron.config import DataConfig
from megatron.data.bert_dataset import BertDataset, BertSettings, BertVocabulary
from megatron.data.blended_dataset import BlendedDataset, open_dataset
from megatron.data.document_pieces import DocumentPieces, open_pieces
from megatron.data.gpt_dataset import GPTDataset
from megatron.tokenizer import Tokenizer, add_tokenizer_flags, build_tokenizer, named_tokenizer

logger = logging.getLogger(__name__)

AnyDataset = GPTDataset | DocumentPieces | BertDataset | BlendedDataset


def add_corpus_flags(parser: Any, *, is_required: bool) -> None:
    """Adds the flags that name a dataset to a parser of argparse."""
    corpus = parser.add_argument_group("corpus")
    add = corpus.add_argument
    add(
        "--data-path",
        required=is_required,
        nargs="+",
        metavar="PREFIX",
        help="without .bin and .idx; of a blend, as in training: W1 PREFIX1 W2 PREFIX2",
    )
    add(
        "--data-type",
        choices=["gpt", "bert"],
        default="gpt",
        help="how samples are made of it: windows of running text, or pairs of segments (gpt)",
    )
    add("--split", default=DataConfig.split, metavar="A,B,C", help="train, valid, test")
    add(
        "--seq-length",
        type=int,
        required=is_required,
        metavar="N",
        help="tokens of a sample, as in training",
    )
    add(
        "--shortest-piece",
        type=int,
        metavar="N",
        help="gpt: pieces of documents, as in training, instead of windows of running text",
    )
    add(
        "--short-seq-prob",
        type=float,
        metavar="P",
        help=f"bert: as in training ({BertSettings.short_seq_prob})",
    )
    add("--sample-seed", type=int, metavar="N", help=f"bert: as in training ({BertSettings.seed})")
    add_tokenizer_flags(corpus, otherwise="else the corpus's own, beside it or in the folder above")


def open_corpus(arguments: Any) -> AnyDataset:
    """The training split that the parsed flags name.

    Raises:
        ValueError: for flags that do not belong together, or a damaged corpus.
        FileNotFoundError: if a corpus or the tokenizer is missing.
    """
    if arguments.data_type == "gpt":
        for name in ("short_seq_prob", "sample_seed"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} belongs to --data-type bert")
        if arguments.shortest_piece is not None:
            return open_pieces(
                DataConfig(
                    data_path=tuple(arguments.data_path),
                    split=arguments.split,
                    seq_length=arguments.seq_length,
                    shortest_piece=arguments.shortest_piece,
                )
            )
        return open_dataset(
            GPTDataset,
            arguments.data_path,
            split_name="train",
            split=arguments.split,
            sequence_length=arguments.seq_length,
        )
    if arguments.shortest_piece is not None:
        raise ValueError("--shortest-piece belongs to --data-type gpt")
    given = {"seed": arguments.sample_seed, "short_seq_prob": arguments.short_seq_prob}
    tokenizer = named_tokenizer(arguments)
    dataset = open_dataset(
        BertDataset,
        arguments.data_path,
        BertSettings(
            sequence_length=arguments.seq_length,
            **{name: value for name, value in given.items() if value is not None},
        ),
        split_name="train",
        split=arguments.split,
        vocabulary=None if tokenizer is None else BertVocabulary.of_tokenizer(tokenizer),
    )
    if dataset.num_skipped_documents:
        logger.info(
            "%s documents with fewer than two sentences are not used",
            f"{dataset.num_skipped_documents:,}",
        )
    return dataset


def tokenizer_of_corpus(arguments: Any, dataset: AnyDataset) -> Tokenizer:
    """The tokenizer that the flags name, or else the one the corpus was made with, if it is near.

    Raises:
        ValueError: if it is not.
    """
    tokenizer = named_tokenizer(arguments)
    if tokenizer is not None:
        return tokenizer
    folder = Path(arguments.data_path[-1]).parent
    for file in (folder / "tokenizer.json", folder.parent / "tokenizer.json"):
        if file.is_file():
            tokenizer = build_tokenizer(tokenizer_file=file)
            if tokenizer.fingerprint == dataset.identity["tokenizer"]:
                return tokenizer
    raise ValueError(
        f"the tokenizer of {arguments.data_path[-1]} is not beside it: give --tokenizer-file, or "
        "--vocab-file and --merge-file"
    )
