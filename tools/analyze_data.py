"""Makes, shows, checks, imports and exports the difficulty index of a token corpus."""

import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megatron.command import run_command

from data_efficiency.analysis.reference_loss import LoadModel
from data_efficiency.analysis.source_ranks import sources_of_parts
from data_efficiency.command import index_commands
from data_efficiency.command.data_flags import Examples, FilesAndFolders, Sources
from data_efficiency.command.parser import command_parser
from data_efficiency.difficulty_index import DifficultyIndex
from megatron.checkpoint import model as checkpoint_model
from megatron.corpus_flags import add_corpus_flags, open_corpus, tokenizer_of_corpus
from megatron.migration import ANALYSIS, own_words


class TrainerData:
    """The corpora and the models that the trainer trains; `NamedData` says what each method is for."""

    naming = "--data-path and --seq-length"

    def add_flags(self, parser: Any, *, is_required: bool) -> None:
        """Corpora as training names them."""
        add_corpus_flags(parser, is_required=is_required)

    def open(self, arguments: Namespace, save: Path | None) -> Any:
        """Nothing of it is kept in the folder of the results."""
        is_named = arguments.data_path is not None and arguments.seq_length is not None
        return open_corpus(arguments) if is_named else None

    def examples(self, arguments: Namespace, index: Path) -> Examples | None:
        """Only where the corpus is named as in `run`."""
        dataset = self.open(arguments, None)
        if dataset is None:
            if arguments.data_path or arguments.tokenizer_file or arguments.vocab_file:
                raise ValueError("examples need --data-path, --split and --seq-length as in `run`")
            return None
        tokenizer = tokenizer_of_corpus(arguments, dataset)
        return Examples(dataset, lambda tokens: tokenizer.decode(tokens.tolist()))

    def add_source_flags(self, parser: Any) -> None:
        """The corpora of --data-path are the sources."""

    def sources(self, arguments: Namespace, index: Path) -> Sources:
        """The parts of the blend."""
        dataset = self.open(arguments, None)
        sizes = getattr(dataset, "part_sizes", None)
        if sizes is None:
            raise ValueError(
                "the sources of a mix are --data-path W1 PATH1 W2 PATH2, with --seq-length"
            )
        DifficultyIndex.open(index, is_checked=False).check_dataset(dataset)
        return Sources(sources_of_parts(sizes), arguments.data_path[1::2])

    def reference_model(self, folder: Path) -> tuple[LoadModel, Mapping[str, Any]]:
        """A run or checkpoint of ours, or else a Hugging Face model."""
        checkpoint = checkpoint_model.checkpoint_in(folder)
        if checkpoint is None:
            return FilesAndFolders().reference_model(folder)
        load = partial(checkpoint_model.load_reference_model, checkpoint=checkpoint)
        return load, checkpoint_model.identity_of_checkpoint(checkpoint)


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    """The command line as parsed by argparse."""
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    index_commands.add_to(commands, TrainerData(), analyze="run")
    return parser.parse_args(None if argv is None else own_words(argv, ANALYSIS))


def carry_out(words: list[str]) -> None:
    """Do what a command line says."""
    arguments = parse_arguments(words)
    arguments.action(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 after an error, 130 after Ctrl-C or SIGTERM."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for own in ("data_efficiency", "megatron"):
        logging.getLogger(own).setLevel(logging.INFO)
    return run_command(carry_out, argv, when_stopped="stopped")


if __name__ == "__main__":
    raise SystemExit(main())
