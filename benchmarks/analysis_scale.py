"""Peak memory and time of frequency, rarity and reduce on synthetic corpora of growing size.

Each size runs `tools/analyze_data.py run` in a process of its own, as a user would. One process reads
10^9 tokens of 2 bytes (2 GB) in far less memory than the corpus takes, and time grows with the size.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from megatron.data.indexed_dataset import IndexedDatasetWriter

ROOT = Path(__file__).resolve().parents[1]
VOCAB_SIZE = 50257
TOKENS_PER_DOCUMENT = 1_000_000
# A laptop analyzes any corpus if the memory does not depend on its size. 1 GB leaves room for PyTorch,
# which takes about 0.3 GB when it is imported.
MAX_PEAK_BYTES = 1e9
# Ten times the tokens take ten times as long, beyond the start-up, which hides the smaller runs.
MAX_LAST_GROWTH = 13.0


def write_corpus(prefix: Path, num_tokens: int) -> None:
    """Write a corpus of tokens whose frequency falls as those of words do."""
    generator = np.random.default_rng(num_tokens)
    with IndexedDatasetWriter(prefix, np.dtype(np.uint16)) as writer:
        for start in range(0, num_tokens, TOKENS_PER_DOCUMENT):
            num = min(TOKENS_PER_DOCUMENT, num_tokens - start)
            tokens = np.exp(generator.random(num, np.float32) * np.log(VOCAB_SIZE)).astype("<u2")
            writer.add_documents(tokens, np.array([num], np.int32), np.array([1]))


def measure(prefix: Path, save: Path, sequence_length: int) -> dict[str, float]:
    """CPU seconds and peak memory (bytes) of one analysis.

    Raises:
        RuntimeError: if it fails.
    """
    command = [sys.executable, ROOT / "tools" / "analyze_data.py", "run", "--data-path", prefix]
    command += ["--split", "1", "--seq-length", str(sequence_length), "--save", save]
    command += ["--vocab-size", str(VOCAB_SIZE)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the analysis ended with exit code {process.returncode}")
    return {"seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * 1024.0}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 where `--check` finds a target missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seq-length", type=int, default=2048, metavar="N")
    parser.add_argument("--small", action="store_true", help="10^5 to 10^6 tokens, seconds")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    parser.add_argument("--folder", metavar="DIR", help="for the corpora, 2.2 GB (a temporary one)")
    arguments = parser.parse_args(argv)
    sizes = [10**5, 10**6] if arguments.small else [10**7, 10**8, 10**9]
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        start_up = _row(Path(folder), 10 * arguments.seq_length, arguments.seq_length)
        print(f"{'tokens':>14} {'CPU seconds':>12} {'less start-up':>14} {'peak memory':>12}")
        for size in sizes:
            row = _row(Path(folder), size, arguments.seq_length)
            row["net_seconds"] = max(row["seconds"] - start_up["seconds"], 1e-3)
            rows.append(row)
            print(
                f"{size:>14,} {row['seconds']:>12.2f} {row['net_seconds']:>14.2f} "
                f"{row['peak_bytes'] / 1e6:>9.0f} MB",
                flush=True,
            )
    seconds = [row["net_seconds"] for row in rows]
    growth = [after / before for before, after in pairwise(seconds)]
    peak = max(row["peak_bytes"] for row in rows)
    print(json.dumps({"rows": rows, "growth_per_tenfold": growth, "peak_bytes": peak}))
    is_missed = peak > MAX_PEAK_BYTES or growth[-1] > MAX_LAST_GROWTH
    return int(arguments.check and is_missed)


def _row(folder: Path, num_tokens: int, sequence_length: int) -> dict[str, float]:
    """Figures of one size; its corpus is removed afterwards."""
    prefix = folder / str(num_tokens)
    write_corpus(prefix, num_tokens)
    try:
        figures = measure(prefix, folder / f"{num_tokens}.index", sequence_length)
    finally:
        for file in folder.glob(f"{num_tokens}.*"):
            if file.is_file():
                file.unlink()
    return {"tokens": num_tokens, **figures}


if __name__ == "__main__":
    raise SystemExit(main())
