"""Preprocessing beside the usual way: each document encoded by itself, each appended by itself.

    python -m benchmarks.preprocessing --input my.jsonl --vocab-file vocab.json --merge-file merges.txt [--check]

The other side is a stand-in for NVIDIA's tools/preprocess_data.py: a pool of processes gets the lines of the file,
32 at a time, parses each and encodes it with the same tokenizer from the same library; one process receives the ids
as Python lists and writes document after document. It is a little faster than the original, which also asks
several Python layers for each document and prints. Both sides start their processes anew in each round, use two
of them, take turns, and have to write the same bytes. Wall times count; CPU times of all processes are printed
too. The last line printed is one JSON object.
"""

import argparse
import functools
import hashlib
import json
import multiprocessing
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interleaved import contestants, paired_ratio, take_turns
from megatron.corpus.preprocessing import PreprocessingJob, preprocess
from megatron.corpus.text_sources import find_sources, read_blocks
from megatron.tokenizer import Tokenizer, build_tokenizer

OURS, PEER = SIDES = ("ours", "per_document")
NUM_WORKERS = 2
# Encoding a word again costs about ten times as much as looking it up, and ours also parses and cuts.
LEAST_RATIO = 3.0
_LINES_PER_TASK = 32

TokenizerFactory = Callable[[], Tokenizer]


class Ours:
    """This project's preprocessing."""

    def __init__(self, text: Path, prefix: Path, factory: TokenizerFactory) -> None:
        self.job = PreprocessingJob(
            sources=find_sources([text])[0],
            json_keys=["text"],
            output_prefix=str(prefix),
            tokenizer_factory=factory,
            append_eod=True,
            num_workers=NUM_WORKERS,
            overwrite=True,
        )

    def step(self) -> None:
        """Write the corpus once."""
        preprocess(self.job)

    def describe(self) -> tuple[str, int]:
        """Checksum of the corpus, and its tokens."""
        return checksum(self.job.corpus_prefix("text"))


class _Encoder:
    """What a process of the other side holds."""

    tokenizer: Tokenizer

    @classmethod
    def start(cls, factory: TokenizerFactory) -> None:
        cls.tokenizer = factory()

    @classmethod
    def encode(cls, line: str) -> tuple[dict[str, list[int]], dict[str, list[int]], int]:
        """Token ids and lengths of sequences under each key, and the characters read."""
        text = json.loads(line)["text"]
        ids = cls.tokenizer.encode(text) if text.strip() else []
        if ids:
            ids.append(cls.tokenizer.eod)
        return {"text": ids}, {"text": [len(ids)]}, len(line)


class PerDocument:
    """The usual way."""

    def __init__(self, text: Path, prefix: Path, factory: TokenizerFactory) -> None:
        self.text, self.prefix, self.factory = text, prefix, factory

    def step(self) -> None:
        """Write the corpus once."""
        lengths: list[int] = []
        documents = [0]
        context = multiprocessing.get_context("fork")
        with (
            context.Pool(NUM_WORKERS, _Encoder.start, (self.factory,)) as pool,
            self.text.open(encoding="utf-8") as lines,
            open(f"{self.prefix}.bin", "wb") as tokens,
        ):
            for ids, sizes, _ in pool.imap(_Encoder.encode, lines, _LINES_PER_TASK):
                for key in ids:
                    if ids[key]:
                        tokens.write(np.array(ids[key], dtype=np.uint16).tobytes(order="C"))
                        lengths.extend(sizes[key])
                        documents.append(len(lengths))
        offsets, place = [], 0
        for length in lengths:
            offsets.append(place)
            place += 2 * length
        with open(f"{self.prefix}.idx", "wb") as index:
            index.write(struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, len(lengths), len(documents)))
            index.write(np.array(lengths, dtype=np.int32).tobytes(order="C"))
            index.write(np.array(offsets, dtype=np.int64).tobytes(order="C"))
            index.write(np.array(documents, dtype=np.int64).tobytes(order="C"))

    def describe(self) -> tuple[str, int]:
        """Checksum of the corpus, and its tokens."""
        return checksum(str(self.prefix))


def checksum(prefix: str) -> tuple[str, int]:
    """SHA-256 of both files of a corpus, and the number of its tokens of two bytes."""
    digest = hashlib.sha256()
    for ending in ("bin", "idx"):
        digest.update(Path(f"{prefix}.{ending}").read_bytes())
    return digest.hexdigest(), Path(f"{prefix}.bin").stat().st_size // 2


def write_first_lines(source: str, target: Path, num_bytes: int) -> None:
    """Write the first full blocks of a JSON-lines file that come to `num_bytes`, or all it has."""
    with target.open("wb") as file:
        for block in read_blocks(find_sources([source])[0]):
            file.write(block.content.rstrip(b"\n") + b"\n")
            if file.tell() >= num_bytes:
                return


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures."""
    factory = functools.partial(
        build_tokenizer,
        tokenizer_file=options.tokenizer_file,
        vocab_file=options.vocab_file,
        merge_file=options.merge_file,
    )
    text = folder / "text.jsonl"
    write_first_lines(options.input, text, options.num_bytes)
    makers = [
        (kind, (text, folder / side, factory))
        for kind, side in zip((Ours, PerDocument), SIDES, strict=True)
    ]
    with contestants(*makers) as made:
        take_turns(
            made,
            num_rounds=options.rounds,
            num_warmup_rounds=0,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
        sums = [contestant.describe() for contestant in made]
        num_tokens = sums[0][1]
        figures: dict[str, Any] = {
            f"{side}_tokens_per_second": round(num_tokens / contestant.median("wall_seconds"))
            for side, contestant in zip(SIDES, made, strict=True)
        }
        for clock in ("wall", "cpu"):
            ratio = paired_ratio(made[1], made[0], f"{clock}_seconds")
            figures[f"times_faster_{clock}"] = round(ratio, 2)
    return figures | {
        "equal": sums[0] == sums[1],
        "num_tokens": num_tokens,
        "num_bytes": text.stat().st_size,
        "num_workers": NUM_WORKERS,
    }


def misses(figures: dict[str, Any], *, timed: bool = True) -> list[str]:
    """A line for each target that the figures do not reach; `timed` False: for equality alone."""
    found = [] if figures["equal"] else ["the two sides wrote different corpora"]
    if timed and figures["times_faster_wall"] < LEAST_RATIO:
        found.append(f"{figures['times_faster_wall']} times as fast, not {LEAST_RATIO}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 if corpora differ, or if `--check` is given and a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="JSON lines, of which the first are taken"
    )
    parser.add_argument("--tokenizer-file", metavar="FILE", help="a tokenizer.json")
    parser.add_argument("--vocab-file", metavar="FILE", help="with --merge-file, GPT-2's tokenizer")
    parser.add_argument("--merge-file", metavar="FILE")
    parser.add_argument(
        "--num-bytes",
        type=int,
        default=100_000_000,
        help="of the input to take; with little, the start of the processes and words not yet seen count most",
    )
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each side")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--folder", metavar="DIR", help="for the corpora (a temporary one)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(options, Path(folder))
    missed = misses(figures, timed=options.check)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    print(json.dumps(figures))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
