"""The curriculum sampler beside DeepSpeed's own, and at sizes that DeepSpeed's does not reach.

    python benchmarks/sampler.py [--check] [--small] [--folder FOLDER]

Two metrics select samples: a percentile of a rarity and a length. All times are CPU seconds of the
measuring thread, so that other work on the machine does not count; figures are ratios of times taken in
turns in one run. The last line printed is one JSON object. The whole run takes some minutes and 2 GB of
disk; `--small` takes seconds and only shows that everything works: its figures mean nothing.
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed
from tqdm import tqdm

from benchmarks.deepspeed_sampler import make_deepspeed_sampler
from benchmarks.targets import Target, missed
from data_efficiency import CurriculumSampler, DifficultyIndex, load_config

BATCH_SIZE = 512
LONGEST = 2048
FOLDING = ("folded", "saw", "interleaved")


TARGETS = {
    "mean_step_ratio": Target(50, True, "a step must never be felt beside a training step"),
    "worst_step_ratio": Target(300, True, "DeepSpeed's ranks all wait while one builds a cluster"),
    "prepare_per_argsort": Target(4, False, "two metrics cost little more than reading them twice"),
    "step_at_10x_samples": Target(2, False, "a step's cost does not depend on the dataset"),
    "worst_per_median_step": Target(
        10, False, "no step waits for a cluster to be built or shuffled"
    ),
    "resume_steps": Target(100, False, "a restart goes on at once, at any step"),
    "cached_start_seconds": Target(3, False, "a restart does not prepare anything again"),
    "order_cached_start_seconds": Target(3, False, "as with a pool that grows"),
    "order_step_ratio": Target(
        2, False, "playing any order, or a mix, costs about what drawing from a pool does"
    ),
    "cached_start_anonymous_mb": Target(300, False, "every rank of a machine pays this memory"),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    compared_samples: int = 10**6
    compared_steps: int = 300
    large_samples: int = 10**7
    huge_samples: int = 10**8
    num_steps: int = 1000
    num_repeats: int = 3


SMALL = Sizes(2000, 12, 20000, 50000, 20, 1)


class Numbered:
    """A dataset of which only the number of samples matters."""

    def __init__(self, num_samples: int) -> None:
        self.identity = {"name": "numbered", "num_samples": num_samples}

    def __len__(self) -> int:
        return self.identity["num_samples"]


def make_values(num_samples: int) -> dict[str, np.ndarray]:
    """Difficulties with ties, as rarities and lengths of text have them."""
    generator = np.random.default_rng(0)
    rarity = generator.gamma(9.0, 200.0, num_samples).astype(np.uint16)
    length = np.minimum(generator.geometric(1 / 600, num_samples), LONGEST).astype(np.uint16)
    return {"rarity": rarity, "length": length}


def metrics(num_steps: int, *, rarity_step: int = 1, length_step: int = 8) -> dict[str, Any]:
    """The two metrics as JSON, their schedules reaching the end after `num_steps`."""

    def metric(kind: str, low: int, high: int, step: int) -> dict[str, Any]:
        return {
            "difficulty_type": kind,
            "clustering_type": "schedule_based",
            "min_difficulty": low,
            "max_difficulty": high,
            "schedule_type": "fixed_linear",
            "schedule_config": {"total_curriculum_step": num_steps, "difficulty_step": step},
        }

    return {
        "rarity": metric("percentile", 10, 100, rarity_step),
        "length": metric("value", 128, LONGEST, length_step),
    }


def write_indexes(folder: Path, num_samples: int) -> None:
    """Our difficulty indexes of the two metrics."""
    for name, values in make_values(num_samples).items():
        DifficultyIndex.write(
            folder / name,
            values,
            metric=name,
            dataset_identity=Numbered(num_samples).identity,
        )


class Blended(Numbered):
    """The same in two parts, of three and one quarter of the samples, drawn so."""

    def __init__(self, num_samples: int) -> None:
        super().__init__(num_samples)
        self.part_sizes = num_samples - num_samples // 4, num_samples // 4
        self.part_weights = 3.0, 1.0


class Bucketed(Numbered):
    """The same as rows of six lengths, half as many of each as of the one before."""

    part_lengths = tuple(LONGEST >> place for place in range(5, -1, -1))

    def __init__(self, num_samples: int) -> None:
        super().__init__(num_samples)
        sizes = [num_samples >> place for place in range(1, 6)]
        self.part_sizes = *sizes, num_samples - sum(sizes)


def make_sampler(
    folder: Path,
    num_samples: int,
    described: Mapping[str, Any],
    *,
    blend: Any = None,
    **learning: Any,
) -> CurriculumSampler:
    """Our sampler over the indexes in a folder.

    Args:
        blend: None: one part. A mapping: the mix of two; "buckets": rows of six lengths; else the sizes of two parts are.
        learning: more keys of the curriculum.
    """
    learning |= {
        "enabled": bool(described),
        "curriculum_metrics": {
            name: metric | {"index_path": str(folder / name)} for name, metric in described.items()
        },
    }
    more: dict[str, Any] = {"mix": blend} if isinstance(blend, Mapping) else {}
    if blend == "buckets":
        more = {"length_buckets": {"odds": "grow_p2", "num_cycles": 8}}
    section = {"data_sampling": {"curriculum_learning": learning, **more}}
    config = load_config({"data_efficiency": section}).data_efficiency
    dataset = Numbered(num_samples) if blend is None else Blended(num_samples)
    if blend == "buckets":
        # Of the shortest rows, which come first, a step has as many as of others.
        return CurriculumSampler(Bucketed(num_samples), config, micro_batch_size=BATCH_SIZE // 32)
    return CurriculumSampler(dataset, config, micro_batch_size=BATCH_SIZE)


def cpu_seconds(function: Callable[[], Any]) -> float:
    """CPU seconds that a call takes in this thread."""
    start = time.thread_time()
    function()
    return time.thread_time() - start


def anonymous_mb() -> float:
    """Memory of this process that no file stands behind."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def compare(folder: Path, sizes: Sizes) -> dict[str, float]:
    """Our steps beside DeepSpeed's, in turns, through a curriculum of two dozen clusters."""
    num_samples, num_steps = sizes.compared_samples, sizes.compared_steps
    described = metrics(num_steps * 4 // 5, rarity_step=10, length_step=128)
    write_indexes(folder, num_samples)
    ours = [make_sampler(folder, num_samples, described) for _ in range(sizes.num_repeats)]
    times, own = np.zeros(num_steps), np.zeros((sizes.num_repeats, num_steps))
    num_clusters = np.zeros(num_steps, int)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = make_deepspeed_sampler(folder, make_values(num_samples), described, BATCH_SIZE)
        for step in tqdm(range(num_steps), desc="beside DeepSpeed", disable=None):
            times[step] = cpu_seconds(theirs.get_next_global_batch)
            num_clusters[step] = len(theirs.data_clusters)
            for number, sampler in enumerate(ours):
                own[number, step] = cpu_seconds(sampler.next_global_batch)
    torch.distributed.destroy_process_group()
    mean, worst = np.median(own.mean(1)), np.median(own.max(1))
    is_plain = np.diff(num_clusters, prepend=0) == 0
    return {
        "compared_clusters": num_clusters[-1],
        "deepspeed_mean_step_ms": times.mean() * 1e3,
        "deepspeed_worst_step_ms": times.max() * 1e3,
        "mean_step_ms": mean * 1e3,
        "worst_step_ms": worst * 1e3,
        "mean_step_ratio": times.mean() / mean,
        "worst_step_ratio": times.max() / worst,
        "step_ratio_without_new_cluster": np.median(times[is_plain]) / np.median(own[:, is_plain]),
    }


def scale(folder: Path, sizes: Sizes) -> dict[str, float]:
    """Preparing, stepping and resuming at ten times the samples."""
    small_samples, num_samples = sizes.large_samples // 10, sizes.large_samples
    described = metrics(sizes.num_steps)
    for number in (small_samples, num_samples):
        write_indexes(folder / str(number), number)
    large = folder / str(num_samples)
    values = make_values(num_samples)["rarity"]
    ratios = []
    for _ in tqdm(range(sizes.num_repeats), desc="preparing", disable=None):
        argsort = cpu_seconds(lambda: np.argsort(values, kind="stable"))
        shutil.rmtree(large / "clusters", ignore_errors=True)
        ratios.append(cpu_seconds(lambda: make_sampler(large, num_samples, described)) / argsort)
    samplers = [
        make_sampler(folder / str(number), number, described)
        for number in (small_samples, num_samples)
    ]
    times = np.zeros((2, sizes.num_steps))
    for step in tqdm(range(sizes.num_steps), desc="stepping", disable=None):
        for number, sampler in enumerate(samplers):
            times[number, step] = cpu_seconds(sampler.next_global_batch)
    medians = np.median(times, axis=1)
    return {
        "prepare_per_argsort": float(np.median(ratios)),
        "large_step_ms": medians[1] * 1e3,
        "step_at_10x_samples": medians[1] / medians[0],
        "worst_per_median_step": times[1].max() / medians[1],
        "resume_steps": resume_cost(large, num_samples, described, sizes) / medians[1],
    }


def resume_cost(
    folder: Path, num_samples: int, described: Mapping[str, Any], sizes: Sizes
) -> float:
    """CPU seconds of the dearest resume: new sampler, saved state, first batch."""
    dearest = 0.0
    for step in (1, sizes.num_steps // 2, sizes.num_steps, sizes.num_steps * 3):
        stopped = make_sampler(folder, num_samples, described)
        for _ in range(step):
            stopped.next_global_batch()
        text = json.dumps(stopped.state_dict())

        def resume(text: str = text) -> None:
            sampler = make_sampler(folder, num_samples, described)
            sampler.load_state_dict(json.loads(text))
            sampler.next_global_batch()

        dearest = max(dearest, cpu_seconds(resume))
    return dearest


def start_from_cache(folder: Path, sizes: Sizes) -> dict[str, float]:
    """Wall seconds and memory of a start whose clusters are prepared, up to the first batch."""
    num_samples, described = sizes.huge_samples, metrics(sizes.num_steps)
    write_indexes(folder, num_samples)
    prepared = cpu_seconds(lambda: make_sampler(folder, num_samples, described))
    memory, start = anonymous_mb(), time.monotonic()
    sampler = make_sampler(folder, num_samples, described)
    sampler.next_global_batch()
    return {
        "huge_prepare_seconds": prepared,
        "cached_start_seconds": time.monotonic() - start,
        "cached_start_anonymous_mb": anonymous_mb() - memory,
    }


def played(num_steps: int) -> dict[str, tuple[dict[str, Any], dict[str, Any], Any]]:
    """Name -> metrics, keys of the curriculum, and weights of a blend's parts or its mix, of each way to play samples."""
    one: dict[str, Any] = {"rarity": {"clustering_type": "sorted"}}
    bands = {"rarity": one["rarity"] | {"num_bands": 10}, "length": one["rarity"]}
    halves = {name: one["rarity"] | {"num_bands": 2} for name in ("rarity", "length")}
    folds = {"num_folds": 4, "num_buckets": 1000}
    drawn = num_steps * BATCH_SIZE
    parts = [["shuffled", 333], ["ascending", 500], ["descending", 167]]
    window = metrics(num_steps)["rarity"] | {"window_size": 20}
    mix = {"weights": [[3, 1], [1, 1]], "at_samples": [0, drawn], "between": "linear"}
    return {
        "strict": (one, {"order": {"num_buckets": 2**20}}, None),
        "descending": (one, {"order": {"kind": "descending"}}, None),
        **{kind: (one, {"order": {"kind": kind} | folds}, None) for kind in FOLDING},
        "bands": (bands, {}, None),
        "quadrants": (halves, {"order": {"kind": "sequence", "sequence": [2, 3, 0, 1]}}, None),
        "stages": (one, {"order": {"kind": "stages", "stages": parts}}, None),
        "spread": (one, {"order": {"pass_samples": drawn}}, None),
        "random_rank": (one, {"random_rank": True}, None),
        "window": ({"rarity": window}, {}, None),
        "rank_buckets": (one, {"order": {"num_buckets": 376}}, "blend"),
        "mix": (one, {"order": {"num_buckets": 376, "pass_samples": drawn}}, mix),
        "length_buckets": ({}, {}, "buckets"),
        "sorted_in_buckets": (one, {}, "buckets"),
    }


def play_orders(folder: Path, sizes: Sizes) -> dict[str, float]:
    """Start and steps of every way to play samples, in turns with those of the pool that grows."""
    num_samples = sizes.huge_samples
    write_indexes(folder, num_samples)
    ways = {"pool": (metrics(sizes.num_steps), {}, None), **played(sizes.num_steps)}

    def make(name: str) -> CurriculumSampler:
        described, learning, blend = ways[name]
        return make_sampler(folder, num_samples, described, blend=blend, **learning)

    prepared = sum(cpu_seconds(lambda name=name: make(name)) for name in ways)  # type: ignore[misc]
    samplers, starts = {}, {}
    for name in ways:
        start = time.monotonic()
        samplers[name] = make(name)
        samplers[name].next_global_batch()
        starts[name] = time.monotonic() - start
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(sizes.num_steps), desc="playing orders", disable=None):
        for name, sampler in samplers.items():
            times[name].append(cpu_seconds(sampler.next_global_batch))
    medians = {name: float(np.median(each)) for name, each in times.items()}
    ratios = {name: medians[name] / medians["pool"] for name in ways if name != "pool"}
    return {
        "order_prepare_seconds": prepared,
        "order_cached_start_seconds": max(starts.values()),
        "order_step_ratio": max(ratios.values()),
        **{f"step_ratio_of_{name}": ratio for name, ratio in ratios.items()},
    }


def main() -> int:
    """Measures, prints one JSON line, and checks it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--small", action="store_true", help="tiny sizes, in seconds")
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    arguments = parser.parse_args()
    sizes = SMALL if arguments.small else Sizes()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        for part in (scale, start_from_cache, play_orders, compare):
            print(f"{part.__name__.replace('_', ' ')} ...", file=sys.stderr)
            folder = Path(temporary) / part.__name__
            folder.mkdir()
            figures |= part(folder, sizes)
            shutil.rmtree(folder)
    failures = missed(TARGETS, figures) if arguments.check else []
    for text in failures:
        print(f"missed: {text}", file=sys.stderr)
    print(json.dumps({name: round(float(figure), 4) for name, figure in figures.items()}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
