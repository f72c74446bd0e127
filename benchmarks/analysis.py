"""Difficulty analysis beside DeepSpeed's DataAnalyzer and beside one bare pass of numpy.bincount.

    python benchmarks/analysis.py --data-path runs/quickstart/tokens/demo_text_document [--check]

Both analyzers compute token frequencies and rarity, map and reduce, of the same tokens. Each measurement
has a process of its own; the analyzers take turns and the median of the repeats counts. Times are CPU
seconds of all processes (other work on the machine does not count); wall times are printed beside
them.

DeepSpeed's analyzer leaves the metrics to its user, so it runs twice: with rarity as Megatron-DeepSpeed
publishes it for GPT, one sample after the other ("published", what its users run), and with one expression a batch
("vectorised", what a careful user could write, faster). Its log is off both times. The last line is one JSON object of the figures. `benchmarks/analysis_scale.py` shows how time and
memory grow with the corpus.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_efficiency import MetricSettings, analyze
from megatron.data.gpt_dataset import GPTDataset
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_TOKENS = (2049, 129)
PROCESSES = (1, 2)
PEER_BATCH_SIZE = 1000
# A pass in pieces that stay in the processor's cache: the fastest that numpy can be.
TOKENS_PER_BINCOUNT = 2**16


@dataclass(frozen=True)
class Target:
    """What a figure must be, and why."""

    limit: float
    at_least: bool
    reason: str

    def is_missed(self, figure: float) -> bool:
        """Whether a figure is on the wrong side of the limit."""
        return figure < self.limit if self.at_least else figure > self.limit


# The sketch was compared with the published functions. For short samples much of the peer's time is their loop: with
# the vectorised one its files and data loader remain, so that ratio is smaller, printed, and has no target.
TARGETS = {
    "times_faster_2049_published": Target(
        10, True, "a plain numpy sketch was 8 to 14 times faster"
    ),
    "times_faster_2049_vectorised": Target(10, True, "long samples hide how rarity is written"),
    "times_faster_129_published": Target(80, True, "a plain numpy sketch was 97 times faster"),
    "times_bincount": Target(
        4, False, "two passes over the tokens, one of them with a table look-up"
    ),
    "files_per_metric": Target(5, False, "any file system takes a handful of files"),
}


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
        data_analyzer,
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

    def analyze(name: str, kind: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        analyzer = data_analyzer.DataAnalyzer(
            Windows(),
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


PEERS = ("published", "vectorised")
MEASUREMENTS: dict[str, Callable[[GPTDataset, Path, int], dict[str, Any]]] = {
    "ours": measure_ours,
    "published": partial(measure_peer, rarity=rarity_of_rows),
    "vectorised": partial(measure_peer, rarity=rarity_at_once),
}


def in_own_process(
    who: str, prefix: Path, sample_tokens: int, num_processes: int, folder: Path
) -> dict[str, Any]:
    """Figures of one measurement; its difficulties are left in `<folder>/<who>.values`."""
    with tempfile.TemporaryDirectory(dir=folder) as results:
        command = [sys.executable, __file__, "--data-path", str(prefix), "--measure", who]
        command += ["--sample-tokens", str(sample_tokens), "--processes", str(num_processes)]
        command += ["--folder", results]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
        }
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{who} failed:\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}")
        (Path(results) / "save.values").replace(folder / f"{who}.values")
        return json.loads(ended.stdout.splitlines()[-1])


def beside_peers(
    prefix: Path, sample_tokens: int, num_processes: int, repeats: int, folder: Path
) -> dict[str, float]:
    """Median figures of all, in turns, and how much faster ours is than each peer.

    Raises:
        RuntimeError: if they do not find the same difficulties.
    """
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in MEASUREMENTS}
    for _ in range(repeats):
        for who, figures in runs.items():
            figures.append(in_own_process(who, prefix, sample_tokens, num_processes, folder))
    values = {who: np.loadtxt(folder / f"{who}.values", dtype=np.int64) for who in runs}
    ours = values["ours"]
    result: dict[str, float] = {
        f"{who}_{clock}_seconds": statistics.median(run[clock] for run in figures)
        for who, figures in runs.items()
        for clock in ("cpu", "wall")
    }
    for peer in PEERS:
        theirs = values[peer]
        # All sum in float64 but in another order: at a whole number the floor may differ by one.
        if (
            ours.shape != theirs.shape
            or np.abs(ours - theirs).max() > 1
            or np.mean(ours != theirs) > 1e-3
        ):
            raise RuntimeError(f"ours and {peer} found other difficulties")
        for clock in ("cpu", "wall"):
            result[f"times_faster_{peer}_{clock}"] = statistics.median(
                slow[clock] / fast[clock]
                for fast, slow in zip(runs["ours"], runs[peer], strict=True)
            )
        result[f"num_different_values_{peer}"] = int((ours != theirs).sum())
    result["num_samples"] = len(ours)
    result["ours_num_files"] = runs["ours"][0]["num_files"]
    result["peer_num_files"] = runs["published"][0]["num_files"]
    result["files_per_metric"] = runs["ours"][0]["files_per_metric"]
    return result


def beside_machine(
    prefix: Path, sample_tokens: int, repeats: int, folder: Path
) -> dict[str, float]:
    """Median CPU seconds of one bare pass and of our parts, one process."""
    names = (
        "cpu",
        "bincount_cpu",
        "cached_bincount_cpu",
        "checksum_cpu",
        "write_cpu",
        "write_wall",
    )
    runs = [in_own_process("ours", prefix, sample_tokens, 1, folder) for _ in range(repeats)]
    result = {f"{name}_seconds": statistics.median(run[name] for run in runs) for name in names}
    result["times_bincount"] = statistics.median(
        (run["cpu"] - run["checksum_cpu"] - run["write_cpu"]) / run["bincount_cpu"] for run in runs
    )
    result["times_cached_bincount"] = statistics.median(
        (run["cpu"] - run["checksum_cpu"] - run["write_cpu"]) / run["cached_bincount_cpu"]
        for run in runs
    )
    result["times_bincount_with_checksums_and_writes"] = statistics.median(
        run["cpu"] / run["bincount_cpu"] for run in runs
    )
    return result


def write_part(source: str, target: Path, num_tokens: int) -> int:
    """Tokens of a corpus made of the first documents of another, at least `num_tokens` if it has them."""
    corpus = IndexedDataset(source)
    ends = np.cumsum(corpus.sequence_lengths, dtype=np.int64)
    num = min(int(np.searchsorted(ends, num_tokens)) + 1, len(ends))
    with IndexedDatasetWriter(str(target), corpus.dtype) as writer:
        writer.add_documents(corpus.tokens[: ends[num - 1]], corpus.sequence_lengths[:num])
        writer.finish(corpus.metadata)
    return int(ends[num - 1])


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-path",
        metavar="PREFIX",
        default="runs/quickstart/tokens/demo_text_document",
        help="corpus without .bin and .idx (what `make demo` made)",
    )
    parser.add_argument(
        "--num-tokens",
        type=int,
        default=25_000_000,
        help="for both analyzers; ours alone takes all",
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--small", action="store_true", help="seconds; the figures mean nothing")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    parser.add_argument("--measure", choices=sorted(MEASUREMENTS), help=argparse.SUPPRESS)
    parser.add_argument("--sample-tokens", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", metavar="DIR", help="for the results (a temporary one)")
    return parser.parse_args(argv)


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, the ones with a target at the top."""
    repeats = 1 if arguments.small else arguments.repeats
    sample_tokens = (129,) if arguments.small else SAMPLE_TOKENS
    part = folder / "part"
    num_tokens = write_part(
        arguments.data_path, part, 20_000 if arguments.small else arguments.num_tokens
    )
    figures: dict[str, Any] = {"num_tokens": num_tokens}
    cases = [(tokens, processes) for tokens in sample_tokens for processes in PROCESSES]
    for tokens, processes in tqdm(cases, desc="beside DeepSpeed", unit=" cases"):
        case = beside_peers(part, tokens, processes, repeats, folder)
        figures[f"{tokens} tokens, {processes} processes"] = case
        for peer in PEERS if processes == 1 else ():
            figures[f"times_faster_{tokens}_{peer}"] = case[f"times_faster_{peer}_cpu"]
        figures["files_per_metric"] = case["files_per_metric"]
    whole = part if arguments.small else Path(arguments.data_path).resolve()
    machine = [beside_machine(whole, tokens, repeats, folder) for tokens in sample_tokens]
    figures["beside one bincount"] = dict(zip(map(str, sample_tokens), machine, strict=True))
    figures["times_bincount"] = max(case["times_bincount"] for case in machine)
    return figures


def print_tables(figures: dict[str, Any]) -> None:
    """Prints the figures for people."""
    print(f"{figures['num_tokens']:,} tokens; CPU seconds, wall seconds in brackets; files")
    for name, case in figures.items():
        if isinstance(case, dict) and "ours_cpu_seconds" in case:
            seconds = {
                who: f"{case[f'{who}_cpu_seconds']:.2f} ({case[f'{who}_wall_seconds']:.2f})"
                for who in MEASUREMENTS
            }
            print(
                f"  {name}: ours {seconds['ours']}; files {case['ours_num_files']}, DeepSpeed's "
                f"{case['peer_num_files']}"
            )
            for peer in PEERS:
                print(
                    f"    DeepSpeed, {peer} rarity: {seconds[peer]}, "
                    f"{case[f'times_faster_{peer}_cpu']:.1f} "
                    f"({case[f'times_faster_{peer}_wall']:.1f}) times slower"
                )
    print("Beside one bare pass of numpy.bincount over all tokens, one process")
    for tokens, case in figures["beside one bincount"].items():
        print(
            f"  {tokens} tokens: {case['times_bincount']:.2f} times; with checksums "
            f"({case['checksum_cpu_seconds']:.3f} s) and file writes "
            f"({case['write_cpu_seconds']:.3f} s, {case['write_wall_seconds']:.3f} s of wall time) "
            f"{case['times_bincount_with_checksums_and_writes']:.2f} times; "
            f"{case['times_cached_bincount']:.2f} times a pass that stays in the cache"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 where `--check` finds a target missed."""
    arguments = parse_arguments(argv)
    if arguments.measure:
        dataset = GPTDataset(
            arguments.data_path, split="1", sequence_length=arguments.sample_tokens - 1
        )
        save = Path(arguments.folder) / "save"
        figures = MEASUREMENTS[arguments.measure](dataset, save, arguments.processes)
        print(json.dumps(figures))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = compare(arguments, Path(folder))
    print_tables(figures)
    missed = [
        f"{name} is {figures[name]:.2f}, must be at {'least' if target.at_least else 'most'} "
        f"{target.limit}: {target.reason}"
        for name, target in TARGETS.items()
        if name in figures and target.is_missed(figures[name])
    ]
    print("\n".join(missed), end="\n" if missed else "")
    print(json.dumps(figures))
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
