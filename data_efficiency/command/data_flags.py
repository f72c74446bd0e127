"""How a command line names a dataset: a Megatron corpus, JSON lines, or a folder of `datasets`."""

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data_efficiency.analysis.executors import Executor
from data_efficiency.analysis.huggingface_model import (
    identity_of_huggingface_model,
    load_huggingface_model,
)
from data_efficiency.analysis.map_reduce import executor_for
from data_efficiency.analysis.named_metrics import TOKENS_FOLDER
from data_efficiency.analysis.reference_loss import LoadModel
from data_efficiency.analysis.source_ranks import sources_of_rows
from data_efficiency.analysis.text_tokenizer import TextTokenizer
from data_efficiency.analysis.token_rows import TokenRows, token_rows
from data_efficiency.analysis.token_windows import MEGATRON_SPLIT, TokenWindows
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files import parse_json, reading
from data_efficiency.files.indexed_dataset import readable_path
from data_efficiency.files.local_copy import local_folder
from data_efficiency.files.remote import Location, location
from data_efficiency.files.result_folder import is_result, sha256_of_file

JSON_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
DATASET_CLASS = "Dataset"
"""What JSON lines and saved folders are trained on as: the class of `datasets`."""


class Examples(NamedTuple):
    """A dataset, and how its tokens become text."""

    dataset: Any
    decode: Callable[[Any], str]


class Sources(NamedTuple):
    """Which source each sample is of, int64 [N], and what the sources are called."""

    numbers: NDArray[np.int64]
    names: Sequence[str]


class NamedData(Protocol):
    """What a program lets its command line name: datasets, and models that measure them."""

    naming: str
    """The flags that name a dataset, for messages."""

    def add_flags(self, parser: Any, *, is_required: bool) -> None:
        """Add the flags that name a dataset to a parser of argparse."""

    def open(self, arguments: Any, save: Location | None) -> Any:
        """The dataset that the flags name, what is made of it in the folder of the results; None where they
        name none.
        """

    def examples(self, arguments: Any, index: Location) -> Examples | None:
        """The dataset of an index with its texts; None where the flags do not name one."""

    def reference_model(self, folder: Path) -> tuple[LoadModel, Mapping[str, Any]]:
        """What loads the model of a folder, and which one it is."""

    def add_source_flags(self, parser: Any) -> None:
        """Add the flags that say which source a sample is of, where that takes more than the dataset."""

    def sources(self, arguments: Any, index: Location) -> Sources:
        """Which source each sample of an index's dataset is of."""


class FilesAndFolders:
    """What the library reads by itself."""

    naming = "--data"

    def add_flags(self, parser: Any, *, is_required: bool) -> None:
        """As `NamedData.add_flags`."""
        add = parser.add_argument_group("data").add_argument
        text = (
            "Megatron corpus (path without .bin and .idx), JSON lines, or a folder that datasets saved or loads; "
            "a path, or a URL such as s3://bucket/corpus"
        )
        if is_required:
            add("data", metavar="DATA", help=text)
        else:
            add("--data", metavar="DATA", help=text)
        add(
            "--seq-length",
            type=int,
            metavar="N",
            help="corpus: tokens of a sample, as in training",
        )
        add(
            "--split",
            metavar="PART",
            help=f"corpus: proportions of train, valid, test ({MEGATRON_SPLIT}); folder of several datasets: "
            "name of one (train)",
        )
        add(
            "--column", metavar="NAME", help="holds the tokens or the text of a row (found by name)"
        )
        add(
            "--tokenizer",
            metavar="FILE",
            help="tokenizer.json, or a folder that has one, for texts",
        )

    def open(self, arguments: Any, save: Location | None) -> Any:
        """As `NamedData.open`.

        Raises:
            FileNotFoundError: if there is nothing of the name.
            ValueError: if it is of another kind, or a flag that it needs is missing.
        """
        if arguments.data is None:
            return None
        path, made_from = location(arguments.data), dict[str, Any]()
        if getattr(arguments, "reads", None) == "items":
            return folder_dataset(local_folder(path), arguments.split)
        if readable_path(path, "idx").is_file():
            return self._corpus(arguments)
        if save is None:
            raise ValueError("rows are named by --save, the folder that their tokens are kept in")
        if path.is_file() and path.name.endswith(JSON_ENDINGS):
            made_from["sha256"] = sha256_of_file(path)
            return self._rows(arguments, json_rows(path), made_from, save)
        if path.is_dir():
            folder = local_folder(path)
            dataset = folder_dataset(folder, arguments.split)
            if not is_saved(folder):
                made_from["files"] = _files_of(folder)
            return self._rows(arguments, dataset, made_from or None, save)
        if path.exists():
            raise ValueError(f"{path}: JSON lines end with {', '.join(JSON_ENDINGS)}")
        raise FileNotFoundError(
            f"{path}: no such corpus (.bin and .idx), file of JSON lines, or folder of datasets"
        )

    def examples(self, arguments: Any, index: Location) -> Examples | None:
        """As `NamedData.examples`; rows are found beside the index."""
        named = None if arguments.tokenizer is None else TextTokenizer(arguments.tokenizer)
        kept = index.parent / TOKENS_FOLDER
        dataset = None
        if arguments.data is not None:
            dataset = self.open(arguments, index.parent)
        elif is_result(kept):
            dataset = TokenRows(kept)
        tokenizer = named or getattr(dataset, "tokenizer", None)
        if dataset is not None and tokenizer is not None:
            return Examples(dataset, tokenizer.decode)
        if arguments.data is None and named is None:
            return None
        missing = "--data and --seq-length" if dataset is None else "--tokenizer"
        raise ValueError(f"{missing} are missing: texts are shown of the data and by its tokenizer")

    def reference_model(self, folder: Path) -> tuple[LoadModel, Mapping[str, Any]]:
        """As `NamedData.reference_model`: a Hugging Face model."""
        identity = identity_of_huggingface_model(folder)
        return partial(load_huggingface_model, folder=folder), identity

    def add_source_flags(self, parser: Any) -> None:
        """As `NamedData.add_source_flags`."""
        parser.add_argument(
            "--source-field",
            metavar="KEY.KEY",
            help="rows: column or JSON keys that name a row's source, such as meta.set",
        )

    def sources(self, arguments: Any, index: Location) -> Sources:
        """As `NamedData.sources`: what each row says.

        Raises:
            ValueError: if the data are no rows, or a row names no source.
        """
        if arguments.data is None or arguments.source_field is None:
            raise ValueError(
                "--data and --source-field are missing: rows say which source they are of"
            )
        path = location(arguments.data)
        if readable_path(path, "idx").is_file():
            raise ValueError(
                f"{path} is a corpus, whose samples name no source: rank a blend with tools/analyze_data.py"
            )
        # That these are the rows of the index is checked as they are opened.
        dataset = self.open(arguments, index.parent)
        DifficultyIndex.open(index, is_checked=False).check_dataset(dataset)
        rows: Iterable[Mapping[str, Any]] = (
            json_rows(path)
            if path.is_file()
            else folder_dataset(local_folder(path), arguments.split)
        )
        return Sources(*sources_of_rows(rows, arguments.source_field))

    def _corpus(self, arguments: Any) -> TokenWindows:
        if arguments.seq_length is None:
            raise ValueError(
                f"{arguments.data} is a corpus, which is cut into samples: give --seq-length as in training"
            )
        return TokenWindows(
            arguments.data,
            split=arguments.split or MEGATRON_SPLIT,
            sequence_length=arguments.seq_length,
        )

    def _rows(
        self, arguments: Any, rows: Any, made_from: Mapping[str, Any] | None, save: Location
    ) -> TokenRows:
        if arguments.seq_length is not None:
            raise ValueError("--seq-length belongs to a corpus: rows are as long as they are")
        return token_rows(
            rows,
            save / TOKENS_FOLDER,
            column=arguments.column,
            tokenizer=arguments.tokenizer,
            made_from=made_from,
            dataset_class=getattr(arguments, "dataset_class", None) or DATASET_CLASS,
            executor=_executor(arguments),
            overwrite=getattr(arguments, "overwrite", False),
        )


def _executor(arguments: Any) -> Executor | None:
    """What reads a stream's shards, where the command computes something."""
    if getattr(arguments, "executor", None) is None:
        return None
    return executor_for(arguments.num_processes, arguments.executor)


def json_rows(path: Location) -> Iterator[Mapping[str, Any]]:
    """The object of each line of a file, empty lines left out.

    Raises:
        ValueError: naming the file and the line that is no object.
    """
    with ExitStack() as stack:
        stack.enter_context(reading(path))
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        lines = stack.enter_context(gzip.open(file)) if path.suffix == ".gz" else file
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = parse_json(line, f"{path}, line {number}")
            if not isinstance(row, dict):
                raise ValueError(
                    f'{path}, line {number} is no JSON object, such as {{"text": ...}}'
                )
            yield row


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` has written a folder."""
    names = ("dataset_dict.json", "dataset_info.json", "state.json")
    return any((folder / name).is_file() for name in names)


def _files_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256_of_file(file) for file in files}


def folder_dataset(folder: Path, split: str | None) -> Any:
    """The dataset of a folder: what `datasets` has saved, or a stream of files that it loads (Parquet, JSON, ...).

    Args:
        split: of several datasets, which; None: train.

    Raises:
        ModuleNotFoundError: if datasets is not installed.
        ValueError: if it is another folder, or has no such dataset.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of datasets")
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "folders of datasets need it: pip install 'data-efficiency[datasets]'"
        ) from error
    with reading(folder):
        found: Any = (
            datasets.load_from_disk(str(folder))
            if is_saved(folder)
            else datasets.load_dataset(str(folder), streaming=True)
        )
    if not isinstance(found, datasets.DatasetDict | datasets.IterableDatasetDict):
        if split is not None:
            raise ValueError(f"--split is {split}: {folder} holds one dataset")
        return found
    if (split or "train") not in found:
        raise ValueError(
            f"--split is {split or 'not given'}: {folder} holds {', '.join(map(str, found))}"
        )
    return found[split or "train"]
