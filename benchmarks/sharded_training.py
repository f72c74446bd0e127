"""Ways to hold the weights beside each other: tokens a second and memory of DDP, FSDP2 and DeepSpeed's ZeRO on a CPU.

    python -m benchmarks.sharded_training [--processes 2] [--rounds 3] [--small]

One GPT trains by each way on the same tokens, all through `initialize` and `train_step`: float32, AdamW (PyTorch's on
every side), clipping. Ways take turns, each time in new processes, one thread each; seconds are the median over steps and
rounds of the wall clock, and of CPU time, of the slowest process. Memory is what training added to a process's
peak. Losses of the last step must agree to 1e-4. The last line printed is one JSON object. `--small` takes seconds and
only shows that everything works.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.gpt_models import Shape, our_model
from benchmarks.several_processes import measured, peak_bytes
from data_efficiency import initialize, leave_ranks

SIZE = Shape(num_layers=12, hidden_size=512, num_heads=8, vocab_size=8192, num_rows=8)
SMALL = Shape(
    num_layers=2, hidden_size=32, num_heads=2, vocab_size=256, sequence_length=32, num_rows=8
)
NUM_STEPS = 6
WAYS = ("ddp", "fsdp2", "fsdp3", "zero0", "zero2", "zero3")
LOSS_TOLERANCE = 1e-4


def work(way: str, shape: Shape) -> None:
    """Train by one way, as one of its processes; process 0 prints what all came to."""
    torch.manual_seed(0)
    model = our_model(shape)
    content: dict[str, Any] = {
        "train_batch_size": shape.num_rows,
        "gradient_clipping": 1.0,
        "steps_per_print": 10**9,
    }
    if way != "ddp":
        content["zero_optimization"] = {"stage": int(way[-1])}
        content["zero_allow_untested_optimizer"] = True
    before = peak_bytes()
    engine = initialize(
        model=model,
        optimizer=partial(torch.optim.AdamW, lr=1e-4),
        config=content,
        engine="deepspeed" if way.startswith("zero") else "torch",
    )[0]
    ranks = engine.ranks
    size = shape.num_rows // ranks.data_parallel_size
    own = slice(size * ranks.data_parallel_rank, size * (ranks.data_parallel_rank + 1))
    wall, cpu, loss = [], [], 0.0
    for step in range(NUM_STEPS):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(
            0, shape.vocab_size, (shape.num_rows, shape.sequence_length + 1), generator=generator
        )
        ranks.wait()
        started, started_cpu = time.perf_counter(), time.process_time()
        loss = engine.train_step(
            [ids[own]],
            lambda rows: engine(rows[:, :-1], labels=rows[:, 1:]),
            lambda rows: rows[:, 1:].numel(),
        ).loss
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    table = ranks.table(
        [int(1e6 * statistics.median(one[1:])) for one in (wall, cpu)] + [peak_bytes() - before]
    )
    if ranks.is_first:
        seconds, cpu_seconds, added = table.max(0).tolist()
        found = {"seconds": seconds / 1e6, "cpu_seconds": cpu_seconds / 1e6, "bytes": added}
        print(json.dumps(found | {"loss": loss}))
    ranks.wait()


def measure(num_processes: int, rounds: int, *, small: bool) -> dict[str, dict[str, float]]:
    """Way -> median seconds and CPU seconds of a step, bytes a process, and the last loss."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    words = ["--small"] if small else []
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            print(f"round {number + 1} of {rounds}: {way}", file=sys.stderr, flush=True)
            one = measured(
                "benchmarks.sharded_training", ["--way", way, *words], num_processes=num_processes
            )
            found[way].append(one)
    return {
        way: {name: statistics.median(one[name] for one in ones) for name in ones[0]}
        for way, ones in found.items()
    }


def unequal(figures: dict[str, dict[str, float]]) -> list[str]:
    """A line for each way whose loss is not DDP's."""
    expected = figures["ddp"]["loss"]
    return [
        f"{way}: loss {one['loss']} instead of {expected}"
        for way, one in figures.items()
        if abs(one["loss"] - expected) > LOSS_TOLERANCE
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if a way does not train as the others do."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sharded_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--way", choices=WAYS, help="be one of the processes of a way")
    options = parser.parse_args(arguments)
    shape = SMALL if options.small else SIZE
    if options.way is not None:
        work(options.way, shape)
        leave_ranks()
        return 0
    figures = measure(options.processes, options.rounds, small=options.small)
    print(f"{'way':>6} {'tokens/s':>9} {'CPU s a step':>13} {'MiB a process':>14}")
    for way, one in figures.items():
        tokens = shape.step_tokens / one["seconds"]
        print(f"{way:>6} {tokens:>9.0f} {one['cpu_seconds']:>13.2f} {one['bytes'] / 2**20:>14.0f}")
    lines = unequal(figures)
    print("\n".join(lines), file=sys.stderr)
    print(json.dumps({"processes": options.processes, "shape": shape.name, **figures}))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
