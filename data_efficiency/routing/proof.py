"""The proof that a layer may drop tokens, or rows skip it, made when that first happens.

A layer may drop tokens if its output on the kept tokens alone is what it gives for them within the whole
sequence when nobody may look at the dropped ones. The second side comes from the layer's own code, run on
all tokens while every softmax over keys leaves the dropped ones out. Whatever mixes tokens in another way,
or asks how far apart two tokens are without being told their positions, makes the two sides differ.

Rows may skip a layer if it gives the other rows the same without them.

Both sides run in float32 on a copy with random weights: what a fresh model holds at zero, such as a table
of relative positions or a scale of the layer's update, would hide a difference. So nothing of the model
changes, no random state moves, and weights that are split between processes need no gathering.
"""

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from data_efficiency.routing.layer_copy import are_alike, copy_with_random_weights
from data_efficiency.routing.layer_interface import LayerInterface, tensors_in
from data_efficiency.routing.only_kept import OnlyKept
from data_efficiency.routing.token_ops import gather_tokens

TOLERANCE = 1e-4
"""Largest difference between the sides, as a part of the largest change that the layer makes."""
NUM_ROWS = 2
"""Rows that the proof runs on, each with tokens of its own dropped: so mixed rows or axes show too."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Those by position, the hidden states first, and those by keyword."""


class Droppable(Protocol):
    """What the proof asks of a layer that is to drop tokens."""

    layer: nn.Module
    original: Callable[..., Any]
    interface: LayerInterface
    layer_id: int
    proved_forms: set[Any]
    proved_length: int
    forms_proved_for_rows: set[Any]

    def shorten(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], positions: torch.Tensor
    ) -> Arguments:
        """The arguments beside the hidden states as the tokens at `positions` need them."""

    def choose_rows(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], rows: torch.Tensor
    ) -> Arguments:
        """The arguments beside the hidden states as these rows need them."""

    def hidden_states_in(self, result: Any, given: torch.Tensor) -> torch.Tensor:
        """The hidden states in what the layer returned for those `given`."""


class Proofs:
    """What is proved of a model's layers: each kind of layer once for a form of calls and a length."""

    def __init__(self, always_keep: tuple[int, ...]) -> None:
        self._always_keep = always_keep
        self._proved: list[tuple[Droppable, Any, int]] = []
        self._proved_for_rows: list[tuple[Droppable, Any]] = []

    def prove(
        self, dropping: Droppable, form: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Raise ValueError unless the layer may drop tokens in calls of this form, as long as this one."""
        length = args[0].shape[dropping.interface.sequence_axis]
        if length > dropping.proved_length:
            dropping.proved_forms.clear()
            dropping.proved_length = length
        if form in dropping.proved_forms:
            return
        if not any(
            form == other_form and length <= other_length and _are_alike(other, dropping)
            for other, other_form, other_length in self._proved
        ):
            prove(dropping, args, kwargs, self._always_keep)
            self._proved.append((dropping, form, length))
        dropping.proved_forms.add(form)

    def prove_rows(
        self, skipped: Droppable, form: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Raise ValueError unless rows may skip the layer in calls of this form."""
        if form in skipped.forms_proved_for_rows:
            return
        if not any(
            form == other_form and _are_alike(other, skipped)
            for other, other_form in self._proved_for_rows
        ):
            prove_rows(skipped, args, kwargs)
            self._proved_for_rows.append((skipped, form))
        skipped.forms_proved_for_rows.add(form)


def _are_alike(first: Droppable, second: Droppable) -> bool:
    return are_alike(first.layer, second.layer, second.layer_id - first.layer_id)


def form_of(value: Any) -> Any:
    """What an argument is, apart from numbers and sizes."""
    if isinstance(value, torch.Tensor):
        return value.dim(), value.is_floating_point()
    if isinstance(value, list | tuple):
        return tuple(form_of(one) for one in value)
    if isinstance(value, Mapping):
        return tuple((key, form_of(one)) for key, one in value.items())
    return value if isinstance(value, bool | str | None) else type(value).__name__


def prove(
    dropping: Droppable, args: tuple[Any, ...], kwargs: dict[str, Any], always_keep: tuple[int, ...]
) -> None:
    """Raise ValueError naming the layer's class unless the layer may drop tokens in such calls.

    Args:
        args: of a training call, the hidden states [rows, sequence, hidden] or [sequence, rows, hidden]
            first; their values do not matter.
        kwargs: of the same call.
        always_keep: positions that are never dropped.
    """
    batch_axis = dropping.interface.batch_axis
    num_rows = args[0].shape[batch_axis]
    with _undisturbed(args[0].device):
        # A tensor of unknown meaning may have the batch's size on another axis: then all rows serve.
        for rows in (NUM_ROWS, num_rows):
            arguments = _first_rows(args, kwargs, batch_axis, rows)
            problem = _difference(dropping, arguments, always_keep)
            if problem is None:
                return
    raise ValueError(
        f"{type(dropping.layer).__name__} may not drop tokens: {problem}. Leave such layers out of "
        "random_ltd_layer_id, describe how they are called in a LayerInterface, or, if you have tested "
        "that dropping is right for the class, say so with LayerInterface(proved=True)"
    )


def _difference(
    dropping: Droppable,
    arguments: Arguments,
    always_keep: tuple[int, ...],
) -> str | None:
    """What keeps the layer from dropping tokens; None if nothing does."""
    arguments = _with_a_length_of_its_own(dropping, arguments)
    (hidden, *_), interface = arguments[0], dropping.interface
    axis, num_rows = interface.sequence_axis, hidden.shape[interface.batch_axis]
    length = hidden.shape[axis]
    positions = _subset(num_rows, length, always_keep, hidden.device)
    kept = torch.zeros(num_rows, length, dtype=torch.bool, device=hidden.device)
    kept.scatter_(1, positions, True)
    short = _shortened(dropping, arguments, positions)
    sides = _outputs(
        dropping,
        (f"{length} tokens", OnlyKept(kept), arguments),
        (f"{positions.shape[1]} of {length} tokens", OnlyKept(None), short),
    )
    if isinstance(sides, str):
        return sides
    whole = gather_tokens(sides[0], positions, axis, 1 - axis)
    gap = _gap(whole, sides[1], short[0][0])
    if gap is None:
        return None
    return (
        f"its output at the {positions.shape[1]} kept of {length} tokens is not what the whole layer gives "
        f"when nobody looks at the dropped ones ({gap}): it mixes tokens other than by a softmax over keys, "
        "or makes positions or masks itself"
    )


def _outputs(layer: Droppable, *calls: tuple[str, OnlyKept, Arguments]) -> list[torch.Tensor] | str:
    """The hidden states that each call gives, in float32; what went wrong, if something did."""
    found = []
    for what, mode, (args, kwargs) in calls:
        # A new copy for each side: layers may change themselves in a call.
        forward = copy_with_random_weights(layer.layer, layer.original, args[0].device)
        if forward is None:
            return "its forward was replaced by a function that is no method of it"
        try:
            with mode:
                result = forward(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a foreign layer raises
            return f"called with {what} it raised {type(error).__name__}: {_one_line(error)}"
        found.append(layer.hidden_states_in(result, args[0]).float())
    return found


def _gap(whole: torch.Tensor, part: torch.Tensor, given: torch.Tensor) -> str | None:
    """How far apart two outputs are for the same hidden states; None: no farther than rounding explains."""
    gap = (whole - part).abs().max().item()
    size = (whole - given).abs().max().item()
    if gap <= TOLERANCE * size or gap == 0:
        return None
    return f"difference {gap:.1e}, the layer's own change {size:.1e}"


def prove_rows(skipped: Droppable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise ValueError naming the layer's class unless rows may skip the layer in such calls.

    A row may skip a layer if the others' output is the same with and without it. Arguments are as of `prove`.
    """
    axis = skipped.interface.batch_axis
    num_rows = args[0].shape[axis]
    rows = torch.arange(0, num_rows, 2, device=args[0].device)
    with _undisturbed(args[0].device):
        arguments = _first_rows(args, kwargs, axis, num_rows)
        others, keywords = skipped.choose_rows(*arguments, rows)
        given = arguments[0][0].index_select(axis, rows)
        sides = _outputs(
            skipped,
            (f"{num_rows} rows", OnlyKept(None), arguments),
            (f"{len(rows)} of {num_rows} rows", OnlyKept(None), ((given, *others), keywords)),
        )
        problem = sides if isinstance(sides, str) else None
        if not isinstance(sides, str):
            gap = _gap(sides[0].index_select(axis, rows), sides[1], given)
            problem = (
                None
                if gap is None
                else (f"its output for a row depends on the other rows of the batch ({gap})")
            )
    if problem is not None:
        raise ValueError(
            f"rows may not skip {type(skipped.layer).__name__}: {problem}. Leave such layers out of "
            "layer_dropout.layer_id, describe how they are called in a LayerInterface, or, if you have tested that "
            "it is right for the class, say so with LayerInterface(proved=True)"
        )


def _with_a_length_of_its_own(dropping: Droppable, arguments: Arguments) -> Arguments:
    """The arguments, cut a little where another size, as of another sequence, could be taken for the length."""
    hidden, interface = arguments[0][0], dropping.interface
    axis, num_rows = interface.sequence_axis, hidden.shape[interface.batch_axis]
    length = hidden.shape[axis]

    def cut_to(size: int) -> Arguments:
        first = torch.arange(size, device=hidden.device).expand(num_rows, -1)
        return _shortened(dropping, arguments, first)

    # What is cut with the tokens is the sequence; a size of one more would be taken for it and a sink.
    rest = tensors_in(cut_to(length - 1)) if length > 3 else ()
    others = {size for tensor in rest for size in tensor.shape}
    free = (n for n in (length, *range(length - 2, length // 2, -1)) if not {n, n + 1} & others)
    return cut_to(next(free, length))


def _shortened(dropping: Droppable, arguments: Arguments, positions: torch.Tensor) -> Arguments:
    args, kwargs = arguments
    axis = dropping.interface.sequence_axis
    others, keywords = dropping.shorten(args, kwargs, positions)
    return (gather_tokens(args[0], positions, axis, 1 - axis), *others), keywords


def _subset(
    num_rows: int, length: int, always_keep: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    """Half of the positions of each row, ascending: int64 [num_rows, kept_length].

    The ends of every other row are kept, so that the largest distance counts, those of the rest dropped.
    """
    always = [position for position in always_keep if position < length]
    scores = torch.rand(
        num_rows, length, generator=torch.Generator(device).manual_seed(2), device=device
    )
    for end in (0, length - 1):
        scores[::2, end], scores[1::2, end] = -1, 1
    scores[:, always] = -2
    kept_length = max(length // 2, len(always), 1)
    return scores.topk(kept_length, largest=False).indices.sort().values


def _first_rows(
    args: tuple[Any, ...], kwargs: dict[str, Any], batch_axis: int, rows: int
) -> Arguments:
    """The arguments of so many rows in float32, random numbers for the hidden states; one row is repeated."""
    num_rows = args[0].shape[batch_axis]

    def part(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() and tensor.shape[0] == num_rows:
            tensor = tensor[:rows] if num_rows > 1 else tensor.expand(rows, *tensor.shape[1:])
        # float64's lowest numbers, in masks, would become infinite.
        largest = torch.finfo(torch.float32).max
        return tensor.clamp(-largest, largest).float() if tensor.is_floating_point() else tensor

    shape = list(args[0].shape)
    shape[batch_axis] = rows
    generator = torch.Generator(args[0].device).manual_seed(1)
    hidden = torch.randn(shape, generator=generator, device=args[0].device)
    others, keywords = tree_map_only(torch.Tensor, part, (args[1:], kwargs))
    return (hidden, *others), keywords


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def uncompiled() -> AbstractContextManager[None]:
    """Let compiled functions and modules that are called here run uncompiled."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Run in exact float32, uncompiled and without gradients; put all random states back."""
    state = random.getstate()
    mkldnn: Any = torch.backends.mkldnn
    matmuls: list[Any] = [torch.backends.cuda.matmul, mkldnn.matmul]
    precisions = [matmul.fp32_precision for matmul in matmuls]
    devices = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.random.fork_rng(devices, device_type=kind))
        stack.enter_context(uncompiled())
        try:
            for matmul in matmuls:
                matmul.fp32_precision = "ieee"
            yield
        finally:
            for matmul, precision in zip(matmuls, precisions, strict=True):
                matmul.fp32_precision = precision
            random.setstate(state)
