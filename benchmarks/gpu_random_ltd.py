"""What a route saves on a GPU, by length and kept share, and from which kept share on it costs.

    python -m benchmarks.random_ltd --device cuda [--route span|layer_dropout] [--lengths 512,1024,...] [--out FILE]

A GPT trains in bfloat16 with all its layers but the first and last keeping 25, 50 and 75 % of the tokens (with
layer dropout, of the rows), beside the same model without a route, at equal tokens a step. The saving of time stands beside that of
operations, in which causal attention counts as half its square. Moving tokens costs the same whatever is
kept: the straight line through the measured times says at which kept share nothing is saved any more
(`break_even_percent`). Each measurement is a line of JSON, in FILE too; a table stands at the end.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from benchmarks.dropping_gpt import KEPT_PERCENT, Route, Size, route_settings
from benchmarks.gpt_models import Shape
from benchmarks.gpu_contestants import SHAPES, OurSteps, Variant
from benchmarks.gpu_throughput import VARIANTS
from benchmarks.gpu_timing import (
    Budget,
    Timing,
    describe_machine,
    free_memory,
    time_steps,
    write_line,
)
from data_efficiency import convert_to_random_ltd
from megatron.model.transformer import TransformerLayer

_SECONDS = 40.0
"""What the first length may take, compiling included, for the budget; kept shares share their code."""


class DroppingSteps(OurSteps):
    """Our step with a route around its layers.

    Args:
        shape: of model and batch.
        variant: as for `OurSteps`.
        device: where.
        percent: of the tokens, or rows, kept in the routed layers.
        compile_kept_lengths: let the compiler take the kept length for a constant.
    """

    def __init__(
        self,
        shape: Shape,
        variant: Variant,
        device: torch.device,
        percent: int,
        *,
        compile_kept_lengths: bool,
        route: Route = "random_ltd",
    ) -> None:
        super().__init__(shape, variant, device)
        settings = route_settings(shape.num_layers, percent, route, shape.num_rows)
        convert_to_random_ltd(self.model, TransformerLayer, settings)
        self.router: Any = self.model.random_ltd_scheduler
        self.num_steps = 0
        if compile_kept_lengths:
            self.model.register_forward_pre_hook(self._forget_dynamic_marks)

    def step(self) -> None:
        """One optimizer step."""
        self.router.set_position(self.num_steps, 0)
        super().step()
        self.num_steps += 1

    def _forget_dynamic_marks(self, _: nn.Module, __: Any) -> None:
        # A copy does not say that its length is dynamic.
        draw = self.router.draw
        self.router.draw = replace(draw, positions=draw.positions.clone())


def measure_length(
    shape: Shape, variant: Variant, device: torch.device, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The plain model's figures, then those of each kept share beside it."""
    size = Size(**asdict(shape))
    plain = _timing(OurSteps(shape, variant, device), device, options)
    free_memory(device)
    row = {"sequence_length": shape.sequence_length, "rows": shape.num_rows}
    rows: list[dict[str, Any]] = [{**row, "kept_percent": None, **_figures(plain)}]
    for percent in KEPT_PERCENT:
        contestant = DroppingSteps(
            shape,
            variant,
            device,
            percent,
            compile_kept_lengths=options.compile_kept_lengths,
            route=options.route,
        )
        timing = _timing(contestant, device, options)
        del contestant
        free_memory(device)
        time_saving = 1 - timing.median / plain.median
        flop_saving = 1 - size.flops(percent, options.route) / size.flops(100, options.route)
        rows.append(
            {
                **row,
                "kept_percent": percent,
                **_figures(timing),
                "speedup": round(plain.median / timing.median, 3),
                "time_saving": round(time_saving, 4),
                "flop_saving": round(flop_saving, 4),
                "share": round(time_saving / flop_saving, 3),
            }
        )
    return rows


def break_even_percent(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The kept percent at which dropping costs as much as it saves; None if more kept costs no more.

    Args:
        rows: as `measure_length` gives them.

    Example:
        >>> times = {None: 10.0, 25: 5.0, 50: 7.0, 75: 9.0}
        >>> rows = [{"kept_percent": kept, "step_seconds": time} for kept, time in times.items()]
        >>> break_even_percent(rows)
        87.5
    """
    plain, *dropping = rows
    slope, start = np.polyfit(
        [row["kept_percent"] for row in dropping], [row["step_seconds"] for row in dropping], 1
    )
    return round(float((plain["step_seconds"] - start) / slope), 1) if slope > 0 else None


def _timing(contestant: OurSteps, device: torch.device, options: argparse.Namespace) -> Timing:
    return time_steps(contestant.step, device, num_steps=options.steps)


def _figures(timing: Timing) -> dict[str, Any]:
    return {
        "step_seconds": round(timing.median, 6),
        "spread": round(timing.spread, 4),
        "peak_memory_gib": round(timing.peak_bytes / 2**30, 2),
        "warmup_seconds": round(timing.warmup_seconds, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, unless no length could be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.random_ltd",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", required=True, help="cuda, or cpu to try it out")
    parser.add_argument("--route", choices=[*get_args(Route)], default="random_ltd")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2", help="of the model")
    parser.add_argument("--variant", choices=VARIANTS, default="layers", help="of our step")
    parser.add_argument("--lengths", default="1024,2048,4096,8192,512", help="the first ones first")
    parser.add_argument("--tokens", type=int, help="of a step; default: the shape's")
    parser.add_argument("--steps", type=int, default=12, help="counted steps of each")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin nothing after them")
    parser.add_argument(
        "--compile-kept-lengths", action="store_true", help="compile for each kept length"
    )
    parser.add_argument("--out", type=Path, help="file to which the JSON lines are appended")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    budget = Budget(options.seconds)
    machine = describe_machine(device, matrix_size=8192 if device.type == "cuda" else 64)
    write_line(options.out, {"benchmark": options.route, "variant": options.variant, **machine})
    shape = SHAPES[options.shape]
    tokens = options.tokens or shape.step_tokens
    found = []
    for length in map(int, options.lengths.split(",")):
        if not budget.allows(str(length), "length", _SECONDS):
            continue
        there = replace(shape, sequence_length=length, num_rows=max(1, tokens // length))
        try:
            rows = measure_length(there, VARIANTS[options.variant], device, options)
        except torch.cuda.OutOfMemoryError:
            write_line(options.out, {"sequence_length": length, "error": "out of memory"})
            continue
        for row in rows:
            write_line(options.out, row)
        even = break_even_percent(rows)
        write_line(options.out, {"sequence_length": length, "break_even_percent": even})
        found.append((rows, even))
    write_line(options.out, {"left_out": budget.left_out})
    _print_table(found)
    return 0 if found else 1


def _print_table(found: Sequence[tuple[Sequence[Mapping[str, Any]], float | None]]) -> None:
    print(f"\n{'length':>7}{'kept':>6}{'ms':>9}{'operations':>12}{'time':>8}{'share':>7}{'GiB':>7}")
    for rows, even in found:
        for row in rows:
            saved = (
                f"{'':27}"
                if row["kept_percent"] is None
                else f"{-row['flop_saving']:>12.1%}{-row['time_saving']:>8.1%}{row['share']:>7.0%}"
            )
            kept = "all" if row["kept_percent"] is None else f"{row['kept_percent']} %"
            print(
                f"{row['sequence_length']:>7}{kept:>6}{1e3 * row['step_seconds']:>9.2f}"
                f"{saved}{row['peak_memory_gib']:>7.1f}"
            )
        if even is not None:
            print(f"{'':7}nothing is saved from {even} % kept tokens on")
