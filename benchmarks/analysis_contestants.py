"""The contestants of benchmarks/analysis.py, which starts a process of this file for each measurement.

    python -m benchmarks.analysis_contestants ours|published|vectorised CORPUS SAMPLE_TOKENS PROCESSES FOLDER

The last line printed is one JSON object of the figures; the difficulties found are left in FOLDER/save.values.
"""

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency import MetricSettings, analyze
from megatron.data.gpt_dataset import GPTDataset
from megatron.data.indexed_dataset import IndexedDatasetWriter

PEER_BATCH_SIZE = 1000
# A pass in pieces that stay in the processor's cache: the fastest that numpy can be.
TOKENS_PER_BINCOUNT = 2**16


@contextmanager
def stopwatch(seconds: dict[str, float], name: str = "") -> Iterator[None]:
    """Adds the CPU seconds (of children too) and wall seconds of the block under `<name>cpu`, `wall`."""

    def cpu() -> float:
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        usages = [resource.getrusage(kind) for kind in kinds]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    before_cpu, before_wall = cpu(), time.perf_counter()
    yield
    for clock, value in (("cpu", cpu() - before_cpu), ("wall", time.perf_counter() - before_wall)):
        seconds[name + clock] = seconds.get(name + clock, 0.0) + value


def timed(function: Callable[..., Any], seconds: dict[str, float], name: str) -> Callable[..., Any]:
    """The same function, with the time it takes added to `seconds`."""

    def call(*arguments: Any, **options: Any) -> Any:
        with stopwatch(seconds, name):
            return function(*arguments, **options)

    return call


def measure_ours(dataset: GPTDataset, save: Path, num_processes: int) -> dict[str, Any]:
    """Seconds of our analysis, those of checksums and file writes apart, and of one bare pass."""
    seconds: dict[str, float] = {}
    tokens, _, _ = dataset.token_spans(0, len(dataset))
    settings = MetricSettings(vocab_size=vocab_size_of(dataset))
    # What a process does once, imports and locks, is not the analysis; the peer imports before too.
    analyze(first_samples(dataset, save.with_name("few")), "vocab_rarity", save.parent, settings)
    tokens.max()  # both passes find the corpus in memory
    with stopwatch(seconds, "bincount_"):
        counts = np.bincount(tokens)
    with stopwatch(seconds, "cached_bincount_"):
        for start in range(0, len(tokens), TOKENS_PER_BINCOUNT):
            part = tokens[start : start + TOKENS_PER_BINCOUNT]
            counts -= np.bincount(part, minlength=len(counts))
    # Only in this process: with several, the workers' writes are not told apart.
    hashlib.file_digest = timed(hashlib.file_digest, seconds, "checksum_")
    np.save = timed(np.save, seconds, "write_")
    os.fsync = timed(os.fsync, seconds, "write_")
    with stopwatch(seconds):
        index = analyze(dataset, "vocab_rarity", save, settings, num_processes=num_processes)
    files = [len(list(folder.iterdir())) for folder in save.iterdir()]
    np.savetxt(save.with_suffix(".values"), index.values, fmt="%d")
    return {**seconds, "files_per_metric": max(files), "num_files": sum(files)}


def rarity_of_rows(table: Any, batch: Any) -> Any:
    """Rarity as published for GPT: sample by sample, then a line about the batch.

    Each sample's weights are looked up, added and rounded by themselves. The line (here for nobody) needs the
    smallest, the largest and the mean, by Python's own functions over the tensor.
    """
    rarities = batch.new_tensor([int(table[row].sum().item()) for row in batch])
    mean = sum(rarities) / len(rarities)
    print(f"rarity from {min(rarities)} to {max(rarities)}, mean {mean}", file=sys.stderr)
    return rarities


def rarity_at_once(table: Any, batch: Any) -> Any:
    """The same numbers by one expression over the batch."""
    return table[batch].sum(1).floor().long()


def measure_peer(
    dataset: GPTDataset,
    save: Path,
    num_processes: int,
    rarity: Callable[[Any, Any], Any],
) -> dict[str, Any]:
    """Seconds of DeepSpeed's analysis of the same samples; `rarity` of a table and a batch of tokens."""
    import torch  # noqa: PLC0415 - our own measurement does without the two
    from deepspeed.runtime.data_pipeline.data_sampling import (  # noqa: PLC0415, TID251
        indexed_dataset,
    )
    from deepspeed.utils import logger  # noqa: PLC0415, TID251

    logger.setLevel("ERROR")
    torch.set_num_threads(1)
    tokens, starts, lengths = dataset.token_spans(0, len(dataset))
    vocab_size = vocab_size_of(dataset)

    class Windows(torch.utils.data.Dataset):
        """The samples as DeepSpeed's analyzer reads them: one tensor each."""

        def __len__(self) -> int:
            return len(starts)

        def __getitem__(self, item: int) -> torch.Tensor:
            window = tokens[starts[item] : starts[item] + lengths[item]]
            return torch.from_numpy(window.astype(np.int64))

    analyze = partial(_analyze_by_deepspeed, Windows(), save, num_processes)

    def rows_of(name: str, kind: str) -> Any:
        prefix = str(save / name / f"{name}_{kind}")
        return indexed_dataset.MMapIndexedDataset(prefix, skip_warmup=True)

    seconds: dict[str, float] = {}
    with stopwatch(seconds):
        analyze(
            "total_vocab_freq",
            "accumulate_value_over_samples",
            lambda batch: torch.bincount(batch.view(-1), minlength=vocab_size + 1),
        )
        frequencies = rows_of("total_vocab_freq", "metric_value")
        seen = torch.from_numpy(np.array(frequencies[0], np.float64)).clamp(min=1)
        table = -torch.log(seen / seen.sum())
        analyze(
            "vocab_rarity",
            "single_value_per_sample",
            partial(rarity, table),
        )
    values = rows_of("vocab_rarity", "sample_to_metric")
    np.savetxt(
        save.with_suffix(".values"), [values[row][0] for row in range(len(values))], fmt="%d"
    )
    return {**seconds, "num_files": sum(len(files) for _, _, files in os.walk(save))}


def _analyze_by_deepspeed(
    windows: Any,
    save: Path,
    num_processes: int,
    name: str,
    kind: str,
    function: Callable[[Any], Any],
) -> None:
    """Map and reduce of one metric by DeepSpeed's analyzer."""
    import torch  # noqa: PLC0415
    from deepspeed.runtime.data_pipeline.data_sampling import (  # noqa: PLC0415, TID251
        data_analyzer,
    )

    analyzer = data_analyzer.DataAnalyzer(
        windows,
        num_threads=num_processes,
        num_threads_reduce=num_processes,
        batch_size=PEER_BATCH_SIZE,
        metric_names=[name],
        metric_functions=[function],
        metric_types=[kind],
        metric_dtypes=[torch.int64],
        save_path=str(save),
    )
    analyzer.run_map()
    analyzer.run_reduce()


def first_samples(dataset: GPTDataset, target: Path) -> GPTDataset:
    """A dataset of the first ten samples."""
    tokens, _, _ = dataset.token_spans(0, 10)
    with IndexedDatasetWriter(str(target), tokens.dtype) as writer:
        writer.add_documents(tokens, [len(tokens)])
        writer.finish()
    return GPTDataset(str(target), split="1", sequence_length=dataset.sequence_length)


def vocab_size_of(dataset: GPTDataset) -> int:
    """Entries of the vocabulary: what the corpus says, or else as many as its tokens need."""
    if dataset.vocab_size is not None:
        return dataset.vocab_size
    return int(dataset.token_spans(0, len(dataset))[0].max()) + 1


MEASUREMENTS: dict[str, Callable[[GPTDataset, Path, int], dict[str, Any]]] = {
    "ours": measure_ours,
    "published": partial(measure_peer, rarity=rarity_of_rows),
    "vectorised": partial(measure_peer, rarity=rarity_at_once),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    who, corpus, sample_tokens, num_processes, folder = sys.argv[1:] if argv is None else argv
    dataset = GPTDataset(corpus, split="1", sequence_length=int(sample_tokens) - 1)
    figures = MEASUREMENTS[who](dataset, Path(folder) / "save", int(num_processes))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
