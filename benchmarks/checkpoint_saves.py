"""What a checkpoint costs: a save by one process and by several, and steps while one is written in the background.

    python -m benchmarks.checkpoint_saves [--processes 4] [--rounds 3] [--folder DIR] [--check] [--small]

A model whose weights and AdamW state are 1 GB is saved by one process, by several that hold it whole (DDP) and in parts
(FSDP2); ways take turns, each time in new processes of one thread. Seconds are the slowest process's from the call to the
renamed folder; beside them stand the bytes that the busiest process wrote, and the seconds of writing as many bytes to the
same folder in one stream, which no way can beat by more than the disk allows. Then steps of one process are timed
without a save and during one in the background. The last line printed is one JSON object. `--small` takes seconds and only shows that
everything works.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.several_processes import measured
from data_efficiency import initialize, leave_ranks
from megatron.checkpoint import shares
from megatron.checkpoint.engine_state import begin_save

WIDTH, NUM_LAYERS = 2048, 20
SMALL_WIDTH, SMALL_LAYERS = 64, 4
# Checksums and copies are shared, and a disk that takes several streams is faster with them; it is not four times.
SHARE_OF_ONE = 0.4
STEPS_BESIDE_A_SAVE = 1.1
NUM_PLAIN_STEPS = 10


def make_engine(stage: int, *, small: bool) -> Any:
    """An engine with a state of 1 GB after its first step."""
    width, num_layers = (SMALL_WIDTH, SMALL_LAYERS) if small else (WIDTH, NUM_LAYERS)
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(num_layers)))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    content: dict[str, Any] = {"train_batch_size": 8 * world}
    if stage:
        content["zero_optimization"] = {"stage": stage}
    optimizer = partial(torch.optim.AdamW, lr=1e-4, fused=True)
    return initialize(model=model, optimizer=optimizer, config=content)[0], width


def take_step(engine: Any, width: int) -> float:
    """Seconds of a step on 8 x 64 random rows."""
    rows = torch.randn(8, 64, width)
    started = time.perf_counter()
    engine.train_step(
        [rows], lambda rows: engine(rows).square().sum(), len, shape=lambda rows: rows.shape[:2]
    )
    return time.perf_counter() - started


def work(stage: int, folder: Path, *, small: bool) -> None:
    """Save as one of several processes; process 0 prints what it took."""
    if small:
        shares.LEAST_BYTES = 1
    engine, width = make_engine(stage, small=small)
    take_step(engine, width)
    ranks = engine.ranks
    ranks.wait()
    started = time.perf_counter()
    path = begin_save(engine, folder, {}).finish(keep_last=1)
    table = ranks.table([int(1e6 * (time.perf_counter() - started))])
    if ranks.is_first:
        sizes = [file.stat().st_size for file in path.glob("*.safetensors")]
        most = max(
            sum(file.stat().st_size for file in path.glob(f"*-{k:05}-of-*.safetensors"))
            for k in range(1, ranks.world + 1)
        )
        seconds = int(table.max()) / 1e6
        print(json.dumps({"seconds": seconds, "bytes": sum(sizes), "most": most or sum(sizes)}))
    ranks.wait()


def steps_beside_a_save(folder: Path, *, small: bool) -> dict[str, float]:
    """Median seconds of steps without a save, and of those during one in the background."""
    engine, width = make_engine(0, small=small)
    take_step(engine, width)
    plain = [take_step(engine, width) for _ in range(NUM_PLAIN_STEPS)]
    saving = begin_save(engine, folder, {}, in_background=True)
    beside = [take_step(engine, width)]
    while not saving.is_written:
        beside.append(take_step(engine, width))
    saving.finish(keep_last=1)
    plain += [take_step(engine, width) for _ in range(NUM_PLAIN_STEPS)]
    return {
        "plain_seconds": statistics.median(plain),
        "beside_seconds": statistics.median(beside),
        "num_beside": len(beside),
    }


def one_stream(folder: Path, num_bytes: int) -> float:
    """Seconds of writing so many bytes to a file of the folder, synced."""
    block = os.urandom(2**24)
    started = time.perf_counter()
    path = folder / "stream"
    with path.open("wb") as file:
        for start in range(0, num_bytes, len(block)):
            file.write(block[: num_bytes - start])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def measure(num_processes: int, rounds: int, folder: Path, *, small: bool) -> dict[str, Any]:
    """Way -> medians of a save, and the steps beside one."""
    ways = {"one": (1, 0), "ddp": (num_processes, 0), "fsdp3": (num_processes, 3)}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    streams = []
    words = ["--small"] if small else []
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            size, stage = ways[way]
            run = Path(tempfile.mkdtemp(dir=folder))
            place = ["--worker", str(stage), "--folder", str(run), *words]
            found[way].append(measured("benchmarks.checkpoint_saves", place, num_processes=size))
            shutil.rmtree(run)
        streams.append(one_stream(folder, int(found["one"][0]["bytes"])))
    figures: dict[str, Any] = {
        way: {name: statistics.median(one[name] for one in ones) for name in ones[0]}
        for way, ones in found.items()
    }
    figures["stream_seconds"] = statistics.median(streams)
    run = Path(tempfile.mkdtemp(dir=folder))
    figures["steps"] = steps_beside_a_save(run, small=small)
    shutil.rmtree(run)
    return figures


def missed(figures: dict[str, Any]) -> list[str]:
    """A line for each target that is not reached."""
    lines = []
    for way in ("ddp", "fsdp3"):
        share = figures[way]["seconds"] / figures["one"]["seconds"]
        if share > SHARE_OF_ONE:
            lines.append(f"{way}: a save takes {share:.2f} of one process's, above {SHARE_OF_ONE}")
    steps = figures["steps"]
    ratio = steps["beside_seconds"] / steps["plain_seconds"]
    if ratio > STEPS_BESIDE_A_SAVE:
        lines.append(
            f"a step beside a save takes {ratio:.2f} of one without, above {STEPS_BESIDE_A_SAVE}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if `--check` finds a target missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoint_saves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; a temporary one")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--worker", type=int, metavar="STAGE", help="be one of the processes")
    options = parser.parse_args(arguments)
    if options.worker is not None:
        work(options.worker, options.folder, small=options.small)
        leave_ranks()
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(options.processes, options.rounds, Path(folder), small=options.small)
    for way in ("one", "ddp", "fsdp3"):
        one = figures[way]
        print(
            f"{way:>6} {one['seconds']:>7.2f} s, {one['most'] / 1e6:>6.0f} MB on the busiest process"
        )
    print(f"stream {figures['stream_seconds']:>7.2f} s for {figures['one']['bytes'] / 1e6:.0f} MB")
    steps = figures["steps"]
    print(f"a step {steps['plain_seconds']:.3f} s, beside a save {steps['beside_seconds']:.3f} s")
    lines = missed(figures) if options.check else []
    print("\n".join(lines), file=sys.stderr)
    print(json.dumps({"processes": options.processes, **figures}))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
