"""Difficulty analysis beside DeepSpeed's DataAnalyzer and beside one bare pass of numpy.bincount.

    python -m benchmarks.analysis [--data-path PREFIX] [--check] [--alone]

The limit is the bare pass: everything that an analysis does, files and checks included, has to stay within 1.5 of
its time. `--alone` measures that only. Both analyzers compute token frequencies and rarity, map and reduce, of the same tokens. Each measurement
has a process of its own; the analyzers take turns and the median of the repeats counts. Times are CPU
seconds of all processes (other work on the machine does not count); wall times are printed beside
them.

DeepSpeed's analyzer leaves the metrics to its user, so it runs twice: with rarity as Megatron-DeepSpeed
publishes it for GPT, one sample after the other ("published", what its users run), and with one expression a batch
("vectorised", what a careful user could write, faster). Its log is off both times. The last line is one JSON object of the figures.
`benchmarks/analysis_scale.py` shows how time and memory grow with the corpus.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.targets import Target, missed
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("published", "vectorised")
SIDES = ("ours", *PEERS)
SAMPLE_TOKENS = (2049, 129)
PROCESSES = (1, 2)


# What users would run instead has to be far slower, and the machine's own limit near. For short samples most of the
# peer's time is the published loop, so that ratio says little and has no target.
TARGETS = {
    "times_faster_2049_published": Target(
        10, True, "a plain numpy sketch was 8 to 14 times faster"
    ),
    "times_faster_2049_vectorised": Target(10, True, "long samples hide how rarity is written"),
    "times_bincount": Target(
        1.5, False, "both passes, checksums, checks and files, beside one bare pass over the tokens"
    ),
    "files_per_metric": Target(5, False, "any file system takes a handful of files"),
}
DEMO_CORPUS = "runs/quickstart/tokens/demo_text_document"


def write_corpus(prefix: Path, num_tokens: int) -> Path:
    """The path of a corpus of made-up words, as often as words are: documents of 1,000 tokens."""
    generator = np.random.default_rng(0)
    lengths = np.full(num_tokens // 1000, 1000, np.int32)
    with IndexedDatasetWriter(str(prefix), np.dtype("uint16")) as writer:
        tokens = (generator.zipf(1.2, int(lengths.sum())) % 50257).astype(np.uint16)
        writer.add_documents(tokens, lengths)
        writer.finish({"vocab_size": 50257})
    return prefix


def in_own_process(
    who: str, prefix: Path, sample_tokens: int, num_processes: int, folder: Path
) -> dict[str, Any]:
    """Figures of one measurement; its difficulties are left in `<folder>/<who>.values`."""
    with tempfile.TemporaryDirectory(dir=folder) as results:
        command = [sys.executable, "-m", "benchmarks.analysis_contestants", who, str(prefix)]
        command += [str(sample_tokens), str(num_processes), results]
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
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in SIDES}
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
    for limit in ("bincount", "cached_bincount"):
        result[f"times_{limit}"] = statistics.median(
            run["cpu"] / run[f"{limit}_cpu"] for run in runs
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
        help="corpus without .bin and .idx; not given: what `make demo` made, else made-up words",
    )
    parser.add_argument(
        "--num-tokens",
        type=int,
        default=25_000_000,
        help="for both analyzers; ours alone takes all",
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument(
        "--alone", action="store_true", help="beside the bare pass only, without DeepSpeed"
    )
    parser.add_argument("--small", action="store_true", help="seconds; the figures mean nothing")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    parser.add_argument("--folder", metavar="DIR", help="for the results (a temporary one)")
    arguments = parser.parse_args(argv)
    chosen = arguments.data_path or DEMO_CORPUS
    arguments.is_there = Path(f"{chosen}.idx").is_file()
    if arguments.data_path and not arguments.is_there:
        parser.error(
            f"--data-path is {chosen!r}: there is no {chosen}.idx; leave it out, or make one"
        )
    arguments.data_path = chosen
    return arguments


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, the ones with a target at the top."""
    repeats = 1 if arguments.small else arguments.repeats
    sample_tokens = (129,) if arguments.small else SAMPLE_TOKENS
    part = folder / "part"
    if not arguments.is_there:
        print(f"{arguments.data_path} is not there: a corpus of made-up words is measured")
        arguments.data_path = str(write_corpus(folder / "words", arguments.num_tokens))
    num_tokens = write_part(
        arguments.data_path, part, 20_000 if arguments.small else arguments.num_tokens
    )
    figures: dict[str, Any] = {"num_tokens": num_tokens}
    processes_of_peers = () if arguments.alone else PROCESSES
    cases = [(tokens, processes) for tokens in sample_tokens for processes in processes_of_peers]
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
                for who in SIDES
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
            f"  {tokens} tokens: {case['times_bincount']:.2f} times, checksums "
            f"({case['checksum_cpu_seconds']:.3f} s) and file writes "
            f"({case['write_cpu_seconds']:.3f} s, {case['write_wall_seconds']:.3f} s of wall time) "
            f"among it; {case['times_cached_bincount']:.2f} times a pass that stays in the cache"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 where `--check` finds a target missed."""
    arguments = parse_arguments(argv)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = compare(arguments, Path(folder))
    print_tables(figures)
    failures = missed(TARGETS, figures)
    print("\n".join(failures), end="\n" if failures else "")
    print(json.dumps(figures))
    return int(arguments.check and bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
