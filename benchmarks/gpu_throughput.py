"""Tokens a second and peak memory of training on a GPU: ours in variants, and what a user would take instead.

    python -m benchmarks.train_throughput --device cuda [--shape gpt2] [--contestants NAMES] [--out FILE]

Contestants train one after the other, in bfloat16 on one batch, timed by the device's events; the first
one comes once more at the end, and how far its two times lie apart is the noise of all others. One that
does not fit into memory is tried with half the rows. Each result is a line of JSON, in FILE too; a table
stands at the end. With `--profile` the kernels that take most of a step follow.
`--contestants` takes names or the groups `final` (ours beside the peers), `variants` (one idea each) and
`all`. On a GPU everything needs about ten minutes for `all`; `--seconds` bounds it, and says what it
left out.
"""

import argparse
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpt_models import Shape, step_flops
from benchmarks.gpu_contestants import (
    SHAPES,
    Contestant,
    OurSteps,
    Variant,
    make_huggingface,
    make_plain,
)
from benchmarks.gpu_timing import (
    Budget,
    Timing,
    describe_machine,
    free_memory,
    time_steps,
    write_line,
)

BEST = Variant(compile="model", loss="compiled")
"""The variant that `final` stands for."""
_LAYERS = Variant(compile="layers", loss="compiled")

VARIANTS: Mapping[str, Variant] = {
    "eager": Variant(),
    "best": BEST,
    "layers": _LAYERS,
    "layers, loss in chunks": replace(_LAYERS, loss="chunks"),
    "layers, dynamic lengths": replace(_LAYERS, lengths="dynamic"),
    "eager, loss compiled": Variant(loss="compiled"),
    "layers, bf16 weights": replace(_LAYERS, weights="bf16"),
    "layers, bf16 residual": replace(_LAYERS, residual="bf16"),
    "layers, cudnn": replace(_LAYERS, attention="cudnn"),
    "layers, flash": replace(_LAYERS, attention="flash"),
    "model, loss whole": Variant(compile="model", loss="whole"),
    "layers, clip": replace(_LAYERS, clip="waiting"),
    "layers, clip on device": replace(_LAYERS, clip="on device"),
    "layers, no collector": replace(_LAYERS, collect_garbage=False),
    "layers, 2^27 logits": replace(_LAYERS, chunk_logits=2**27),
    "layers, 2^29 logits": replace(_LAYERS, chunk_logits=2**29),
    "model, bf16 weights": replace(BEST, weights="bf16"),
    "layers, foreach": replace(_LAYERS, optimizer="foreach"),
    "model, dynamic lengths": replace(BEST, lengths="dynamic"),
}
"""In the order of what is to be learned, where the time does not suffice for all."""
PEERS: Mapping[str, Callable[[Shape, torch.device], Contestant]] = {
    "plain script": make_plain,
    "huggingface": lambda shape, device: make_huggingface(shape, device, compiled=False),
    "huggingface compiled": lambda shape, device: make_huggingface(shape, device, compiled=True),
}
GROUPS: Mapping[str, tuple[str, ...]] = {
    "final": ("best", *PEERS),
    "variants": tuple(VARIANTS),
    "all": (*VARIANTS, *PEERS),
}
_SECONDS = {"none": 20.0, "layers": 35.0, "model": 75.0}
"""What the first contestant may take by how it is compiled, for the budget."""


def measure(
    name: str, shape: Shape, device: torch.device, options: argparse.Namespace
) -> dict[str, Any]:
    """The figures of one contestant, with fewer rows where the memory asks for it."""
    while True:
        error = "does not fit into memory with one row"
        try:
            figures = _measure_once(name, shape, device, options)
        except torch.cuda.OutOfMemoryError:
            figures = None
        except Exception as raised:
            # One variant that this PyTorch or this device cannot take must not cost the others.
            figures = None
            error = f"{type(raised).__name__}: {raised}"[:500]
            shape = replace(shape, num_rows=1)
        torch.compiler.reset()
        free_memory(device)
        if figures is not None:
            return figures
        if shape.num_rows == 1:
            return {"contestant": name, "error": error}
        shape = replace(shape, num_rows=shape.num_rows // 2)


def _measure_once(
    name: str, shape: Shape, device: torch.device, options: argparse.Namespace
) -> dict[str, Any]:
    variant = VARIANTS.get(name)
    contestant: Contestant = (
        PEERS[name](shape, device) if variant is None else OurSteps(shape, variant, device)
    )
    timing = time_steps(
        contestant.step,
        device,
        num_steps=options.steps,
        collect_garbage=variant is None or variant.collect_garbage,
    )
    figures = _figures(name, shape, timing)
    if options.profile:
        figures["kernel_milliseconds"] = _kernels(contestant, device)
    return figures


def _figures(name: str, shape: Shape, timing: Timing) -> dict[str, Any]:
    tokens_per_second = shape.step_tokens / timing.median
    return {
        "contestant": name,
        "shape": shape.name,
        "sequence_length": shape.sequence_length,
        "rows": shape.num_rows,
        "tokens_per_second": round(tokens_per_second),
        "spread": round(timing.spread, 4),
        "tflops_per_second": round(step_flops(shape) / timing.median / 1e12, 4),
        "peak_memory_gib": round(timing.peak_bytes / 2**30, 2),
        "warmup_seconds": round(timing.warmup_seconds, 1),
    }


def _kernels(contestant: Contestant, device: torch.device) -> dict[str, float]:
    """Milliseconds of a step in each of the 25 kernels that take most of it."""
    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as recorded:
        contestant.step()
        if on_gpu:
            torch.cuda.synchronize()
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = {event.key: getattr(event, field) / 1e3 for event in recorded.key_averages()}
    largest = sorted(times, key=lambda key: times[key], reverse=True)[:25]
    return {key[:100]: round(times[key], 3) for key in largest}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, unless no contestant could be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", required=True, help="cuda, or cpu to try it out")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2", help="of model and batch")
    parser.add_argument("--rows", type=int, help="of a micro-batch; default: the shape's")
    parser.add_argument(
        "--contestants", default="final", help="names or groups, with semicolons between them"
    )
    parser.add_argument("--steps", type=int, default=20, help="counted steps of each")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin nothing after them")
    parser.add_argument("--profile", action="store_true", help="show the kernels of a step")
    parser.add_argument("--out", type=Path, help="file to which the JSON lines are appended")
    options = parser.parse_args(arguments)
    try:
        # The compiler's cache does not tell apart which attention was chosen when it was filled.
        with functorch_config.patch(enable_autograd_cache=False):
            return _run(options)
    except ValueError as error:
        parser.error(str(error))


def chosen(names: str) -> list[str]:
    """The contestants that are asked for, without those whose package is missing.

    Raises:
        ValueError: for a name that there is not.
    """
    found: list[str] = []
    for word in names.split(";"):
        found += GROUPS.get(word.strip(), (word.strip(),))
    known = {**VARIANTS, **PEERS}
    for name in found:
        if name not in known:
            raise ValueError(f"--contestants has {name!r}: one of {'; '.join((*GROUPS, *known))}")
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: its models are left out")
        found = [name for name in found if not name.startswith("huggingface")]
    return list(dict.fromkeys(found))


def _run(options: argparse.Namespace) -> int:
    device = torch.device(options.device)
    shape = SHAPES[options.shape]
    shape = replace(shape, num_rows=options.rows or shape.num_rows)
    names = chosen(options.contestants)
    budget = Budget(options.seconds)
    machine = describe_machine(device, matrix_size=8192 if device.type == "cuda" else 64)
    write_line(options.out, {"benchmark": "train_throughput", **machine})
    results = []
    for name in names if len(names) == 1 else (*names, names[0]):
        kind = VARIANTS[name].compile if name in VARIANTS else "model"
        kind = "none" if name == "huggingface" else kind
        if budget.allows(name, kind, _SECONDS[kind]):
            results.append(measure(name, shape, device, options))
            write_line(options.out, results[-1])
    write_line(options.out, {"left_out": budget.left_out})
    _print_table(results)
    return 0 if any("error" not in result for result in results) else 1


def _print_table(results: Sequence[Mapping[str, Any]]) -> None:
    print(f"\n{'':28}{'tokens/s':>10}{'TFLOP/s':>9}{'rows':>6}{'peak GiB':>10}{'start s':>9}")
    for result in results:
        if "error" in result:
            print(f"{result['contestant']:28}{result['error'][:100]}")
            continue
        print(
            f"{result['contestant']:28}{result['tokens_per_second']:>10,}"
            f"{result['tflops_per_second']:>9.1f}{result['rows']:>6}"
            f"{result['peak_memory_gib']:>10.1f}{result['warmup_seconds']:>9.0f}"
        )
