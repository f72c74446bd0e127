"""Forward and backward of causal attention within a window or inside documents, beside attention that is not limited.

    python -m benchmarks.attention_window [--device cuda] [--check] [--small]

Heads of 4 rows of 2,048 positions, on a CPU in float32 and bfloat16, by CPU seconds of the process; on a GPU, of 16 rows of 4,096 in
bfloat16, by its own events. All are taken in turns in one run; figures are medians of ratios. The last line printed is one
JSON object. `--small` only shows that everything works: its figures mean nothing.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from megatron.model.attention_window import attend_in_window, make_window
from megatron.model.document_attention import attend_in_documents
from megatron.model.optional_kernels import attend_automatically

WINDOW_SHARE = 8
"""Windows in a row."""
LIMITS = {
    "blocks_float32": 0.4,
    "blocks_bfloat16": 0.4,
    "sliding_bfloat16": 1.0,
    "documents_float32": 1.0,
    "documents_bfloat16": 1.0,
}
"""Ratio to attention that is not limited -> at most so much: of the scores, blocks compute 1/8; a window, or documents,
must never cost more than none."""


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    shape: tuple[int, int, int, int] = (4, 6, 2048, 64)
    """Rows, heads, positions and channels of a head."""
    num_repeats: int = 7
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    device: str = "cpu"


SMALL = Sizes((1, 2, 64, 8), 1)
ON_GPU = Sizes((16, 12, 4096, 64), 20, (torch.bfloat16,), "cuda")


def heads(sizes: Sizes, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key and value."""
    torch.manual_seed(0)
    made = [torch.randn(sizes.shape) for _ in range(3)]
    return [numbers.to(sizes.device, dtype).requires_grad_() for numbers in made]


def seconds(attend: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> float:
    """Of forward and backward: of a CPU's processors, or of a GPU."""
    if not inputs[0].is_cuda:
        start = time.process_time()
        forward_and_backward(attend, inputs)
        return time.process_time() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    forward_and_backward(attend, inputs)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def forward_and_backward(attend: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> None:
    """What is timed."""
    context = attend(*inputs)
    torch.autograd.grad(context, inputs, torch.ones_like(context))


def full(*inputs: torch.Tensor) -> torch.Tensor:
    """Causal attention that is not limited."""
    return attend_automatically(*inputs, attention_mask=None, dropout=0.0, is_causal=True)


def windowed(*inputs: torch.Tensor, slides: bool) -> torch.Tensor:
    """Causal attention within an eighth of the row."""
    length = inputs[0].shape[2]
    size = length // WINDOW_SHARE
    window = make_window(None if slides else size, size if slides else None, length)
    assert window is not None
    return attend_in_window(
        attend_automatically, *inputs, window=window, positions=None, dropout=0.0
    )


def blocks(*inputs: torch.Tensor) -> torch.Tensor:
    """Blocks side by side."""
    return windowed(*inputs, slides=False)


def sliding(*inputs: torch.Tensor) -> torch.Tensor:
    """A window of each token's own."""
    return windowed(*inputs, slides=True)


def documents(*inputs: torch.Tensor) -> torch.Tensor:
    """Inside documents of different lengths, an eighth of the row in the mean, as texts are (log-normal)."""
    rows, _, length, _ = inputs[0].shape
    generator = np.random.default_rng(0)
    mean, spread = np.log(length / WINDOW_SHARE) - 0.5, 1.0
    lengths = np.maximum(1, generator.lognormal(mean, spread, (rows, length)).astype(int))
    ends = lengths.cumsum(1)
    ids = np.stack([np.searchsorted(row, np.arange(length), "right") for row in ends])
    return attend_in_documents(
        attend_automatically,
        *inputs,
        document_ids=torch.from_numpy(ids).to(inputs[0].device),
        window=None,
        positions=None,
        dropout=0.0,
    )


def measure(sizes: Sizes) -> dict[str, float]:
    """Ratios of seconds to those of attention that is not limited."""
    figures = {}
    for dtype in sizes.dtypes:
        inputs, contestants = heads(sizes, dtype), (full, blocks, sliding, documents)
        times = np.array(
            [
                [seconds(attend, inputs) for attend in contestants]
                for _ in range(sizes.num_repeats + 1)
            ]
        )[1:]
        ratios = np.median(times / times[:, :1], axis=0)
        name = str(dtype).removeprefix("torch.")
        figures |= {
            f"blocks_{name}": ratios[1],
            f"sliding_{name}": ratios[2],
            f"documents_{name}": ratios[3],
        }
    return {name: round(float(figure), 3) for name, figure in figures.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints one JSON line, and checks it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 where a limit is missed")
    parser.add_argument("--small", action="store_true", help="tiny sizes, in a second")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args(argv)
    whole = ON_GPU if arguments.device == "cuda" else Sizes()
    small = replace(SMALL, dtypes=whole.dtypes, device=whole.device)
    figures = measure(small if arguments.small else whole)
    missed = [name for name, limit in LIMITS.items() if figures.get(name, 0.0) > limit]
    for name in missed if arguments.check else ():
        print(f"missed: {name} is {figures[name]}, must be at most {LIMITS[name]}", file=sys.stderr)
    print(json.dumps(figures))
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
