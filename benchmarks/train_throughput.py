"""Our GPT beside what a user would take instead on a CPU: tokens a second and peak memory of training.

    OMP_NUM_THREADS=2 python -m benchmarks.train_throughput [--check] [--write docs/performance.md] [--small]

Equal on all sides: GPT-2's architecture (learned positions, LayerNorm, tanh GELU, biases, tied
embeddings, no dropout), shape, weights' distribution, token batch, mean cross entropy, fused AdamW with
one parameter group, and precision (float32, or bfloat16 autocast around float32 weights). Ours pads the
vocabulary to a multiple of 128, which costs it a little. Each side has the environment in which its users start
it: ours that of `launch.sh`, the others none, whose threads spin: beside a busy neighbour that alone makes them several
times slower, so a ratio of code is `--same-environment`'s. The peers are Hugging Face's `GPT2LMHeadModel` as `GPT2Config`
comes, with PyTorch's fused attention; the same with its GELU replaced by PyTorch's fused one ("tuned"), which
its users have to know of; and a short plain script, uncompiled as everything here. In bfloat16 ours comes a second time, with
`--bf16-weights`, on the engine, which computes the gradient's norm besides. Every contestant has a process of its own; they take turns, with a square matrix
product as the measure of what the machine gives. The last line printed is one JSON object.
`--write` puts the table, with machine, versions and commit, in its place in a page. `--small` takes seconds and only
shows that everything works: its figures mean nothing.
`--device cuda` measures on a GPU, as `gpu_throughput.py` says, with flags of its own (`--device cuda --help`).
"""

import argparse
import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpt_models import Shape, our_model, peer_model, step_flops
from benchmarks.gpu_timing import commit
from benchmarks.interleaved import Contestant, contestants, paired_ratio, take_turns
from benchmarks.plain_gpt import PlainGPT
from data_efficiency import initialize
from megatron.study.stages import child_environment

LAYERS_DOMINATE = Shape(num_layers=6, hidden_size=384, num_heads=6, vocab_size=8192)
LOSS_DOMINATES = Shape(num_layers=4, hidden_size=256, num_heads=4, vocab_size=50257)
SMALL = Shape(
    num_layers=1, hidden_size=32, num_heads=2, vocab_size=300, sequence_length=32, num_rows=2
)
# Beside the peer as it comes. float32 is bound by matrix products that both sides need; bfloat16 makes
# those faster and the rest weighs more; where the loss dominates the peer keeps logits several times.
TARGETS = {
    (LAYERS_DOMINATE.name, "fp32"): 1.2,
    (LAYERS_DOMINATE.name, "bf16"): 1.4,
    (LOSS_DOMINATES.name, "fp32"): 1.5,
    (LOSS_DOMINATES.name, "bf16"): 1.5,
}
PRECISIONS = ("fp32", "bf16")
PEERS = ("huggingface", "huggingface_tuned", "plain")
OURS = {"fp32": ("ours",), "bf16": ("ours", "ours_bf16_weights")}


class TrainingSteps:
    """One side's model, optimizer and batch."""

    def __init__(self, side: str, shape: Shape, precision: str) -> None:
        torch.manual_seed(0)
        self.precision = precision
        self.is_ours = side.startswith("ours")
        self.model = our_model(shape) if self.is_ours else _peer(shape, side)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.engine = None
        if side == "ours_bf16_weights":
            self.engine = initialize(
                model=self.model,
                optimizer=self.optimizer,
                config={
                    "train_micro_batch_size_per_gpu": shape.num_rows,
                    "bf16": {"enabled": True},
                },
                bf16_weights=True,
            )[0]
        ids = torch.randint(0, shape.vocab_size, (shape.num_rows, shape.sequence_length + 1))
        self.tokens, self.labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        self.side = side

    def step(self) -> None:
        """One optimizer step."""
        if self.engine is not None:
            loss = self.engine(self.tokens, labels=self.labels) / self.labels.numel()
            self.engine.backward(loss)
            self.engine.step()
            return
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self._loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _loss(self) -> Any:
        if self.is_ours:
            return self.model(self.tokens, labels=self.labels) / self.labels.numel()
        if self.side == "plain":
            return self.model(self.tokens, self.labels)
        return self.model(input_ids=self.tokens, shift_labels=self.labels, labels=self.labels).loss

    def describe(self) -> dict[str, float]:
        """Milliseconds of a step by operator, the ten largest and the rest, from torch.profiler."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.step()
        times = {event.key: event.self_cpu_time_total / 1e3 for event in profile.key_averages()}
        largest = sorted(times, key=lambda name: times[name], reverse=True)[:10]
        shown = {name: times.pop(name) for name in largest}
        return shown | {"all others": sum(times.values())}


def _peer(shape: Shape, side: str) -> Any:
    if side != "plain":
        return peer_model(shape, side)
    return PlainGPT(
        num_layers=shape.num_layers,
        width=shape.hidden_size,
        num_heads=shape.num_heads,
        vocab_size=shape.vocab_size,
        length=shape.sequence_length,
    )


class SquareProducts:
    """The machine's matrix products at a size that fills its cores."""

    def __init__(self, size: int, precision: str) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.left, self.right = torch.rand(2, size, size).to(dtype)
        self.result = torch.empty_like(self.left)
        self.flops = 2 * size**3

    def step(self) -> None:
        """One product."""
        torch.mm(self.left, self.right, out=self.result)

    def describe(self) -> int:
        """Floating-point operations of a step."""
        return self.flops


def measure(
    shape: Shape, precision: str, *, num_rounds: int, matrix_size: int, same: bool = False
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Figures of one shape and precision, and the profile of each side.

    Args:
        same: whether the peers get our environment too.
    """
    ours = OURS[precision]
    sides = (*ours, *PEERS)
    makers = [(TrainingSteps, (side, shape, precision)) for side in sides]
    product = (SquareProducts, (matrix_size, precision))
    environments = [child_environment()] * len(sides if same else ours)
    with contestants(*makers, product, environments=environments) as made:
        title = f"{shape.name} {precision}"
        take_turns(
            made,
            num_rounds=num_rounds,
            progress=lambda line: print(f"{title}: {line}", file=sys.stderr, flush=True),
        )
        named = dict(zip(sides, made, strict=False))
        peak = made[-1].describe() / made[-1].median("wall_seconds")
        figures = _figures(named, shape, peak)
        return figures, {side: contestant.describe() for side, contestant in named.items()}


def _figures(named: dict[str, Contestant], shape: Shape, peak: float) -> dict[str, Any]:
    flops = step_flops(shape)
    figures: dict[str, Any] = {"peak_gflops_per_second": round(peak / 1e9, 1)}
    for side, contestant in named.items():
        seconds, memory = contestant.median("wall_seconds"), contestant.peak_memory()
        figures[side] = {
            "tokens_per_second": round(shape.step_tokens / seconds),
            "share_of_peak": round(flops / seconds / peak, 3),
            "cpu_seconds": round(contestant.median("cpu_seconds"), 4),
            "peak_memory_mib": memory.resident_bytes >> 20,
            "memory_growth_mib": memory.growth_bytes >> 20,
        }
    for peer in PEERS:
        for kind in ("wall", "cpu"):
            for side in (side for side in named if side.startswith("ours")):
                ratio = paired_ratio(named[peer], named[side], f"{kind}_seconds")
                end = side.removeprefix("ours")
                figures[f"{kind}_ratio_to_{peer}{end}"] = round(ratio, 3)
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """The figures as a page shows them: ours beside each peer, in time and in memory that steps add."""
    lines = [
        f"{platform.processor() or platform.machine()} ({_processor()}), {torch.get_num_threads()} threads, PyTorch "
        f"{torch.__version__}, Python {platform.python_version()}, commit {str(commit())[:7]}:",
        "",
        "| shape, precision | side | tokens/s | times ours: wall (CPU) | memory of steps |",
        "|---|---|---|---|---|",
    ]
    for title, found in figures.items():
        for side in (*OURS["bf16"], *PEERS):
            if side not in found:
                continue
            ratio = "" if side in PEERS else "1"
            if side in PEERS:
                wall, cpu = (found[f"{kind}_ratio_to_{side}"] for kind in ("wall", "cpu"))
                ratio = f"{wall:.2f} ({cpu:.2f})"
            row = found[side]
            lines.append(
                f"| {title} | {side} | {row['tokens_per_second']:,} | {ratio} | {row['memory_growth_mib']:,} MiB |"
            )
    return "\n".join(lines)


def _processor() -> str:
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", cpu.read_text()) if cpu.exists() else None
    return found[1] if found else "unknown"


def write_table(page: Path, text: str) -> None:
    """Replace what stands between the two marks of this benchmark in a page."""
    begin, end = "<!-- train_throughput -->\n", "<!-- end of train_throughput -->"
    before, _, rest = page.read_text().partition(begin)
    if end not in rest:
        raise ValueError(f"--write is {page}: it has no line {begin.strip()} with {end} after it")
    page.write_text(f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}")


def misses(figures: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each target that the figures do not reach."""
    found = []
    for (shape, precision), target in TARGETS.items():
        ratio = figures[f"{shape} {precision}"]["wall_ratio_to_huggingface"]
        if ratio < target:
            found.append(f"{shape} {precision}: {ratio} times the peer's tokens/s, not {target}")
    for precision in PRECISIONS:
        found_here = figures[f"{LOSS_DOMINATES.name} {precision}"]
        ours = found_here["ours"]["memory_growth_mib"]
        theirs = min(found_here[peer]["memory_growth_mib"] for peer in PEERS)
        if ours >= theirs:
            found.append(f"{LOSS_DOMINATES.name} {precision}: {ours} MiB, the peer {theirs} MiB")
    return found


def _print_tables(
    title: str, figures: dict[str, Any], profiles: dict[str, dict[str, float]]
) -> None:
    print(f"\n{title} (matrix products here: {figures['peak_gflops_per_second']} GFLOP/s)")
    print(f"{'':20}{'tokens/s':>10}{'of peak':>9}{'peak MiB':>10}{'growth MiB':>12}{'ours is':>9}")
    for side in profiles:
        row = figures[side]
        ratio = figures.get(f"wall_ratio_to_{side}")
        print(
            f"{side:20}{row['tokens_per_second']:>10,}{row['share_of_peak']:>9.1%}"
            f"{row['peak_memory_mib']:>10,}{row['memory_growth_mib']:>12,}"
            f"{'' if ratio is None else f'{ratio:.2f}x':>9}"
        )
    names = list(dict.fromkeys(name for profile in profiles.values() for name in profile))
    names.sort(key=lambda name: (name == "all others", -profiles["ours"].get(name, 0.0)))
    print(f"{'ms of one step in':48}" + "".join(f"{side:>18}" for side in profiles))
    for name in names:
        cells = (profile.get(name) for profile in profiles.values())
        # Forward and backward operators of one name differ at its end.
        print(f"  {name[-46:]:46}" + "".join(f"{c:>18.1f}" if c else f"{'-':>18}" for c in cells))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 if `--check` is given and a target is missed."""
    device_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    device_parser.add_argument("--device")
    if device_parser.parse_known_args(argv)[0].device is not None:
        # Processes of the comparison on a CPU have no need of it.
        from benchmarks import gpu_throughput  # noqa: PLC0415

        return gpu_throughput.main(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--small", action="store_true", help="one tiny shape in float32")
    parser.add_argument("--rounds", type=int, default=7, help="counted steps of each side")
    parser.add_argument(
        "--same-environment", action="store_true", help="ours for the peers too: the code alone"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table there")
    options = parser.parse_args(argv)
    if options.small and options.check:
        parser.error("--check needs the full shapes: leave out --small")
    shapes = (SMALL,) if options.small else (LAYERS_DOMINATE, LOSS_DOMINATES)
    figures: dict[str, dict[str, Any]] = {}
    for shape in shapes:
        for precision in PRECISIONS[:1] if options.small else PRECISIONS:
            title = f"{shape.name} {precision}"
            figures[title], profiles = measure(
                shape,
                precision,
                num_rounds=options.rounds,
                same=options.same_environment,
                matrix_size=64 if options.small else 2048,
            )
            _print_tables(title, figures[title], profiles)
    missed = misses(figures) if options.check else []
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    if options.write is not None:
        write_table(options.write, table(figures))
    print(json.dumps(figures | {"num_threads": torch.get_num_threads()}))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
