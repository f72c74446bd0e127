"""Tokens a second of `pretrain_gpt.py` itself, with and without what it can switch on.

    python -m benchmarks.pretrain_throughput [--shape gpt2] [--runs NAMES] [--out FILE] [--flags=FLAGS]

A corpus of random tokens, made for it, is trained on by the command as a user starts it: loader, counters,
learning rate, clipping and log included. `plain` has nothing on; `length curriculum` grows the sequence in
four lengths during the first half; `random-LTD` keeps half the tokens in all layers but the first and last.
Tokens a second are the median of the last quarter of the steps, where all run at full length, so that
`of_plain` is what remains of the speed. FLAGS go to the command, as in
`--flags='--compile layers'`. The device is the
one that the command chooses. Each run is a line of JSON, in FILE too.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dropping_gpt import dropping_settings
from benchmarks.gpt_models import Shape
from benchmarks.gpu_contestants import SHAPES
from benchmarks.gpu_timing import Budget, write_line
from megatron.data.indexed_dataset import IndexedDatasetWriter

ROOT = Path(__file__).resolve().parents[1]
_DOCUMENT_TOKENS = 1000


def write_corpus(prefix: Path, shape: Shape, num_steps: int) -> None:
    """Write random tokens for so many steps, and some for validation."""
    num_documents = 40 + 5 * num_steps * shape.step_tokens // (4 * _DOCUMENT_TOKENS)
    generator = np.random.default_rng(0)
    tokens = generator.integers(
        0, shape.vocab_size, num_documents * _DOCUMENT_TOKENS, dtype=np.uint16
    )
    with IndexedDatasetWriter(prefix, np.uint16) as writer:
        writer.add_documents(tokens, np.full(num_documents, _DOCUMENT_TOKENS, np.int32))


def sections(name: str, shape: Shape, num_steps: int) -> dict[str, Any]:
    """The DeepSpeed JSON of a run."""
    if name == "random-LTD":
        return dropping_settings(shape.num_layers, 50)
    if name == "length curriculum":
        step = shape.sequence_length // 4
        metric = {
            "difficulty_type": "value",
            "clustering_type": "single_cluster",
            "min_difficulty": step,
            "max_difficulty": shape.sequence_length,
            "schedule_type": "fixed_linear",
            "schedule_config": {"total_curriculum_step": num_steps // 2, "difficulty_step": step},
        }
        learning = {"enabled": True, "curriculum_metrics": {"seqlen_truncate": metric}}
        sampling = {"enabled": True, "curriculum_learning": learning}
        return {"data_efficiency": {"enabled": True, "data_sampling": sampling}}
    return {}


RUNS = {
    "plain": (),
    "random-LTD": ("--random-ltd",),
    "length curriculum": ("--data-efficiency-curriculum-learning",),
}
"""Name -> the flags that switch it on beside its JSON."""
_SECONDS = 50.0
"""What the first run may take, compiling included, for the budget."""


def command_line(
    name: str, shape: Shape, folder: Path, num_steps: int, flags: Sequence[str]
) -> list[str]:
    """How a user would start the run; its corpus, settings and log are in `folder`."""
    settings = folder / f"{name}.json"
    settings.write_text(json.dumps(sections(name, shape, num_steps)))
    values = {
        "--data-path": folder / "corpus",
        "--split": "9,1,0",
        "--seq-length": shape.sequence_length,
        "--num-layers": shape.num_layers,
        "--hidden-size": shape.hidden_size,
        "--num-attention-heads": shape.num_heads,
        "--vocab-size": shape.vocab_size,
        "--max-position-embeddings": shape.sequence_length,
        "--micro-batch-size": shape.num_rows,
        "--train-iters": num_steps,
        "--log-interval": 1,
        "--eval-iters": 1,
        "--save": folder / name,
        "--deepspeed_config": settings,
    }
    words = [str(word) for pair in values.items() for word in pair]
    return [sys.executable, str(ROOT / "pretrain_gpt.py"), *words, "--bf16", *RUNS[name], *flags]


def figures(name: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a run's log tells of its speed: of the last quarter, and of each length before."""
    steps = [record for record in records if record["kind"] == "train"]
    last = steps[len(steps) * 3 // 4 :]
    lengths = sorted({record["sequence_length"] for record in steps})
    return {
        "run": name,
        "tokens_per_second": round(statistics.median(step["tokens_per_second"] for step in last)),
        "step_seconds": round(statistics.median(step["step_seconds"] for step in last), 5),
        "loss": round(last[-1]["loss"], 4),
        "slowest_step_by_length": {
            length: round(
                max(step["step_seconds"] for step in steps if step["sequence_length"] == length), 2
            )
            for length in lengths
        },
    }


def measure(name: str, shape: Shape, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run, or its error."""
    started = time.monotonic()
    command = command_line(name, shape, folder, options.steps, options.flags.split())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"run": name, "error": done.stderr.strip()[-500:]}
    log = (folder / name / "log.jsonl").read_text().splitlines()
    return {
        **figures(name, [json.loads(line) for line in log]),
        "command_seconds": round(time.monotonic() - started, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if a run fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrain_throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=SHAPES, default="gpt2", help="of model and batch")
    parser.add_argument("--runs", default=";".join(RUNS), help="names with semicolons between them")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin nothing after them")
    parser.add_argument("--out", type=Path, help="file to which the JSON lines are appended")
    parser.add_argument("--flags", default="", help="for pretrain_gpt.py, in one word")
    options = parser.parse_args(arguments)
    budget = Budget(options.seconds)
    shape = SHAPES[options.shape]
    write_line(options.out, {"benchmark": "pretrain_throughput", "flags": options.flags})
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "corpus", shape, options.steps)
        for name in options.runs.split(";"):
            if budget.allows(name, "run", _SECONDS):
                result = measure(name, shape, Path(folder), options)
                plain = results.get("plain", {}).get("tokens_per_second")
                if plain and "error" not in result:
                    result["of_plain"] = round(result["tokens_per_second"] / plain, 4)
                results[name] = result
                write_line(options.out, result)
    write_line(options.out, {"left_out": budget.left_out})
    return 1 if any("error" in result for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
