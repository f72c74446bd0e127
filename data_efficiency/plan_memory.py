"""What training takes of one device's memory, by how the weights are held: known before a step is run.

Counted is what must be there at once at the end of the longest forward pass: weights, gradients, AdamW's two
averages, what the backward pass needs, the output's logits. Not counted: what a library itself takes, fragments, and
what operators take for a moment. Source of the shares of a device: ZeRO (Rajbhandari et al., arXiv 1910.02054, section 3).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from data_efficiency.accounting import ModelShape, StepShape
from data_efficiency.config import Config
from data_efficiency.json_section import Section
from data_efficiency.plan import RunPlan
from data_efficiency.plan_report import aligned
from data_efficiency.short_numbers import format_count

Precision = Literal["fp32", "half", "half_weights"]
"""float32; autocast to 16 bits around float32 weights; bfloat16 weights beside float32 ones."""
_FLOAT, _HALF = 4, 2
_LOGITS = 2**28
"""Of the output that are in memory at once; a CPU takes fewer."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the weights are held, and whether layers are recomputed."""

    stage: Literal[0, 2, 3]
    """0: each process holds all; 2, 3: parts (FSDP2)."""
    recomputes: bool
    tensor: int = 1
    """Processes that share each layer and, between layers, each row (tensor and sequence parallelism)."""

    def __str__(self) -> str:
        held = "all on each (DDP)" if self.stage == 0 else f"FSDP2, stage {self.stage}"
        if self.tensor > 1:
            held = f"TP {self.tensor}" + (f" x {held}" if self.stage else "")
        return held + (", layers recomputed" if self.recomputes else "")

    @property
    def speed(self) -> tuple[int, int, bool]:
        """Ways in this order are from the fastest to the smallest, as far as one can say so."""
        return self.tensor, self.stage, self.recomputes


WAYS = tuple(
    Way(stage=stage, recomputes=recomputes) for stage in (0, 2, 3) for recomputes in (False, True)
)
"""From the fastest to the smallest, as far as one can say so: gathering and recomputing take time."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device."""

    weights: int
    """What the optimizer updates, and 16-bit copies that stay."""
    gathered: int
    """Of weights in parts, what is whole at once."""
    gradients: int
    optimizer: int
    activations: int
    """What the backward pass needs, 16-bit copies of weights among it, and logits."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


def layer_numbers(model: ModelShape) -> int:
    """Numbers in the matrices of one layer."""
    attention = 2 * model.hidden_size * (model.query_size + model.key_value_size)
    return attention + model.num_ffn_matrices * model.hidden_size * model.ffn_size


def memory_of(
    model: ModelShape,
    shape: StepShape,
    way: Way,
    *,
    precision: Precision,
    num_processes: int,
    outside: int | None = None,
) -> Memory:
    """What a process needs.

    Args:
        shape: of one micro-batch.
        num_processes: all of them, each with a device; a whole number of those that share a layer.
        outside: numbers of weights outside the layers; None: one matrix of the vocabulary. Of them, what is no
            matrix of the vocabulary is on each process that shares a layer.
    """
    words = model.vocab_size * model.hidden_size
    outside = words if outside is None else outside
    positions = outside % words
    outside = (outside - positions) // way.tensor + positions
    of_layer = layer_numbers(model) // way.tensor
    own = model.num_layers * of_layer + outside
    parts = num_processes // way.tensor if way.stage else 1
    share = -(-own // parts)
    read = _HALF if precision == "half_weights" else _FLOAT
    gathered = 0
    if parts > 1:
        # Stage 3 holds a layer while it gathers the next one.
        layers = min(2, model.num_layers) if way.stage == 3 else model.num_layers
        gathered = read * (layers * of_layer + outside)
    copies = _HALF * own if precision == "half_weights" and parts == 1 else 0
    return Memory(
        weights=_FLOAT * share + copies,
        gathered=gathered,
        gradients=_FLOAT * share,
        optimizer=2 * _FLOAT * share,
        activations=_activations(model, shape, way, precision),
    )


def _activations(model: ModelShape, shape: StepShape, way: Way, precision: Precision) -> int:
    """Bytes that a micro-batch's forward pass leaves for its backward pass.

    A layer with three matrices in its feed-forward part is taken to have RMSNorm and rotary positions.
    """
    tokens, kept = (
        shape.num_rows * length
        for length in (shape.sequence_length, _shared(shape.dropped_sequence_length, way.tensor))
    )
    computed = _FLOAT if precision == "fp32" else _HALF
    stream = _FLOAT if precision != "half_weights" else _HALF
    hidden, dropping, share = model.hidden_size, shape.num_dropping_layers, way.tensor
    in_layers = dropping * kept + (model.num_layers - dropping) * tokens
    # Behind the layers: the last norm's, and both gradients of the output, which are made in its forward pass.
    behind = tokens * (_norm_bytes(model, stream) // share + hidden * stream)
    behind += stream * model.vocab_size * hidden // share
    logits = min(tokens, max(1, share * _LOGITS // model.vocab_size)) * model.vocab_size // share
    logits *= computed + _FLOAT
    if way.recomputes:
        # Each layer's input, and one layer at a time as without: by then the logits are gone.
        once = _token_bytes(model, computed, stream, share) * tokens
        return stream * hidden * in_layers // share + behind + max(once, logits)
    total = _token_bytes(model, computed, stream, share) * in_layers
    if precision == "half":
        # Autocast's copies of the matrices wait for the backward pass, whoever holds the originals.
        total += _HALF * model.num_layers * layer_numbers(model) // share
    return total + behind + logits


def _shared(length: int, num_processes: int) -> int:
    """Tokens of a row that so many processes share evenly."""
    return -(-length // num_processes) * num_processes


def _norm_bytes(model: ModelShape, stream: int) -> int:
    """Of one token, what a norm keeps: its input, or of RMSNorm both that and the quotient in float32."""
    return model.hidden_size * (2 * _FLOAT if _is_gated(model) else stream)


def _is_gated(model: ModelShape) -> bool:
    return model.num_ffn_matrices == 3


def _token_bytes(model: ModelShape, computed: int, stream: int, share: int) -> int:
    """Of one token in one layer that keeps all that its backward pass needs.

    Args:
        share: processes that share the layer; what the first maps of its halves read is whole on each.
    """
    hidden, query, keys = model.hidden_size, model.query_size, model.key_value_size
    # What the linear maps behind norms and attention read; queries, keys and values, and rotated ones.
    numbers = query + (query + 2 * keys)
    numbers += query + keys if _is_gated(model) else 0
    # Before and behind the activation; of a gate both sides and what it gives.
    numbers += (4 if _is_gated(model) else 2) * model.ffn_size
    cut = 2 * _norm_bytes(model, stream) + numbers * computed
    return cut // share + 2 * hidden * computed


def precision_of(config: Config, *, bf16_weights: bool = False) -> Precision:
    """What a configuration trains in.

    Args:
        bf16_weights: as in `initialize`.
    """
    if bf16_weights:
        return "half_weights"
    sections = Section(config.engine_sections, "", is_quiet=True)
    on = [sections.section(name).take("enabled", False) for name in ("bf16", "fp16")]
    return "half" if any(on) else "fp32"


def format_memory(
    plan: RunPlan,
    *,
    num_processes: int,
    device_bytes: float,
    precision: Precision,
    outside: int | None = None,
    tensor_sizes: Iterable[int] = (),
) -> str:
    """A table of all ways, each at the step that takes most, and the first way that fits.

    Args:
        num_processes: data-parallel ones; the others that the plan has share layers with them.
        device_bytes: of one device.
        outside: as in `memory_of`.
        tensor_sizes: numbers of processes that can share the model's layers, beside that of the plan.
    """
    micro, _ = plan.config.batch_sizes(num_processes)
    shapes = [_of_a_micro_batch(one.shape, one.num_micro_batches) for one in plan.stretches]
    share = plan.config.data_efficiency.row_shares
    num_processes *= share
    titles = ("weights", "gathered", "gradients", "optimizer", "activations", "total")
    rows, fitting = [["bytes on one device", *titles]], None
    for way in _ways(num_processes, {share, *tensor_sizes}):
        found = max(
            (
                memory_of(
                    plan.model,
                    shape,
                    way,
                    precision=precision,
                    num_processes=num_processes,
                    outside=outside,
                )
                for shape in shapes
            ),
            key=lambda memory: memory.total,
        )
        rows.append([str(way), *(format_count(getattr(found, title)) for title in titles)])
        if fitting is None and found.total <= device_bytes:
            fitting = way
    return "\n".join([*aligned(rows), _advice(fitting, device_bytes, micro)])


def _ways(num_processes: int, tensor_sizes: Iterable[int]) -> list[Way]:
    """All ways that so many processes have, from the fastest to the smallest."""
    sizes = sorted({1, *(size for size in tensor_sizes if num_processes % size == 0)})
    ways = [replace(way, tensor=size) for size in sizes for way in WAYS]
    possible = [way for way in ways if not way.stage or num_processes > way.tensor]
    return sorted(possible, key=lambda way: way.speed)


def _of_a_micro_batch(shape: StepShape, number: int) -> StepShape:
    """The shape of the largest of so many micro-batches of a step."""
    return StepShape(
        num_rows=math.ceil(shape.num_rows / number),
        sequence_length=shape.sequence_length,
        num_dropping_layers=shape.num_dropping_layers,
        kept_length=shape.kept_length,
    )


def _advice(fitting: Way | None, device_bytes: float, micro: int) -> str:
    size = format_count(device_bytes)
    if fitting is not None:
        return f"the first that fits {size}: {fitting}"
    smaller = f"a micro-batch below {micro}, " if micro > 1 else ""
    return f"none fits {size}: take {smaller}more processes, or DeepSpeed with offloading"
