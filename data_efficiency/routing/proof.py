"""The proof that a layer may drop tokens, made when it first does so.

A layer may drop tokens if its output on the kept tokens alone is what it gives for them within the whole
sequence when nobody may look at the dropped ones. The second side comes from the layer's own code, run on
all tokens while every softmax over keys leaves the dropped ones out. Whatever mixes tokens in another way,
or asks how far apart two tokens are without being told their positions, makes the two sides differ.

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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from data_efficiency.routing.layer_copy import are_alike, copy_with_random_weights
from data_efficiency.routing.layer_interface import LayerInterface, tensors_in
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
    number: int | None
    proved_forms: set[Any]
    proved_length: int

    def shorten(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], positions: torch.Tensor
    ) -> Arguments:
        """The arguments beside the hidden states as the tokens at `positions` need them."""

    def hidden_states_in(self, result: Any, given: torch.Tensor) -> torch.Tensor:
        """The hidden states in what the layer returned for those `given`."""


class Proofs:
    """What is proved of a model's layers: each kind of layer once for a form of calls and a length."""

    def __init__(self, layer_ids: tuple[int, ...], always_keep: tuple[int, ...]) -> None:
        self._layer_ids = layer_ids
        self._always_keep = always_keep
        self._proved: list[tuple[Droppable, Any, int]] = []

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
            form == other_form and length <= other_length and self._are_alike(other, dropping)
            for other, other_form, other_length in self._proved
        ):
            prove(dropping, args, kwargs, self._always_keep)
            self._proved.append((dropping, form, length))
        dropping.proved_forms.add(form)

    def _are_alike(self, first: Droppable, second: Droppable) -> bool:
        numbers = [self._layer_ids[one.number] for one in (first, second) if one.number is not None]
        return are_alike(first.layer, second.layer, numbers[1] - numbers[0])


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
    sides = []
    for what, mode, (args, kwargs) in (
        (f"{length} tokens", _OnlyKept(kept), arguments),
        (f"{positions.shape[1]} of {length} tokens", _OnlyKept(None), short),
    ):
        # A new copy for each side: layers may change themselves in a call.
        forward = copy_with_random_weights(dropping.layer, dropping.original, hidden.device)
        if forward is None:
            return "its forward was replaced by a function that is no method of it"
        try:
            with mode:
                result = forward(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a foreign layer raises
            return f"called with {what} it raised {type(error).__name__}: {_one_line(error)}"
        sides.append(dropping.hidden_states_in(result, args[0]).float())
    whole = gather_tokens(sides[0], positions, axis, 1 - axis)
    gap = (whole - sides[1]).abs().max().item()
    size = (whole - short[0][0]).abs().max().item()
    if gap <= TOLERANCE * size or gap == 0:
        return None
    return (
        f"its output at the {positions.shape[1]} kept of {length} tokens is not what the whole layer gives "
        f"when nobody looks at the dropped ones (difference {gap:.1e}, the layer's own change {size:.1e}): "
        "it mixes tokens other than by a softmax over keys, or makes positions or masks itself"
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


_RANDOM = {
    *("bernoulli", "bernoulli_", "rand", "rand_like", "uniform", "uniform_", "exponential_"),
    *("normal", "normal_", "randn", "randn_like"),
}


class _OnlyKept(TorchDispatchMode):
    """Every softmax over keys leaves the dropped ones out, and nothing is random.

    Args:
        kept: which keys are kept, bool [rows, sequence]; None: all.
    """

    def __init__(self, kept: torch.Tensor | None) -> None:
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ("_softmax", "_safe_softmax", "_log_softmax"):
            scores, axis = self._without_dropped(args[0], args[1] % max(1, args[0].dim())), args[1]
            result = func(scores, axis, *args[2:], **kwargs)
            # A dropped query may be left without any key.
            return (
                result if scores is args[0] or name == "_log_softmax" else result.nan_to_num_(0.0)
            )
        if "scaled_dot_product" in name and not name.endswith("_backward"):
            return self._attention(func, args, kwargs)
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        result = func(*args, **kwargs)
        if name in _RANDOM:
            # Any constant is as good as noise; of dropout, what the kept values are divided by.
            result.fill_(args[1] if name.startswith("bernoulli") and len(args) > 1 else 1)
        return result

    def _attention(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A fused kernel's result by plain operators, a softmax among them."""
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        query, key, value = (given[name] for name in ("query", "key", "value"))
        with self:
            context, _ = torch.ops.aten._scaled_dot_product_attention_math.default.decompose(
                query,
                key,
                value,
                given.get("attn_mask", given.get("attn_bias")),
                is_causal=given.get("is_causal", False),
                scale=given.get("scale"),
                enable_gqa=query.shape[-3] != key.shape[-3],
            )
        returns, tensor = func._schema.returns, torch._C.TensorType.get()
        if len(returns) == 1:
            return context
        return tuple(context if part.type.isSubtypeOf(tensor) else 0 for part in returns)

    def _without_dropped(self, scores: torch.Tensor, axis: int) -> torch.Tensor:
        """The scores, -inf at dropped keys if `axis` goes over the sequence and perhaps a sink behind it."""
        if self.kept is None or scores.dim() < 3 or axis == 0:
            return scores
        (num_rows, length), size = self.kept.shape, scores.shape[axis]
        if size - length not in (0, 1) or scores.shape[0] % num_rows:
            return scores
        kept = nn.functional.pad(self.kept, (0, size - length), value=True)
        kept = kept.repeat_interleave(scores.shape[0] // num_rows, 0)
        shape = [scores.shape[0]] + [1] * (scores.dim() - 1)
        shape[axis] = size
        return scores.masked_fill(~kept.view(shape), float("-inf"))
