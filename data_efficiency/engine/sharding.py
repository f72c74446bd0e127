"""FSDP2 and tensor parallelism: each process keeps a part of every weight, of its gradient and of its optimizer state.

What is gathered at a time are the weights of one unit, a layer as a rule; those outside all units (embeddings,
output) are gathered together. Stage 3 gathers a unit for its forward and again for its backward, stage 2 once
for both. Source: PyTorch FSDP2 (`torch.distributed.fsdp.fully_shard`); the stages' names are ZeRO's.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from data_efficiency.engine.masters import is_half
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.sections import ZeroSettings
from data_efficiency.engine.tensor_parallel import (
    RowGroup,
    RowOrders,
    TensorParallel,
    complete_gradients,
)
from data_efficiency.json_section import ConfigError

_ADVICE = "torch.distributed.tensor._redistribute"
"""Logger of PyTorch's."""


class Sharding:
    """A module whose weights are spread over the processes, from process 0's.

    Over those of a tensor group as the model is cut, and over the data-parallel ones where the settings have a stage.

    Args:
        module: changed in place: its parameters become parts (DTensors), its classes keep their names.
        settings: the stage, and the units where they are named.
        bf16_weights: layers read bfloat16 weights; parts and sums of gradients stay float32.
        tensor_parallel: how the module is cut; None: it is not.

    Raises:
        ConfigError: if no units are found and none named, or a weight belongs to two of them.
    """

    def __init__(
        self,
        module: nn.Module,
        ranks: Ranks,
        settings: ZeroSettings,
        *,
        bf16_weights: bool,
        tensor_parallel: TensorParallel | None = None,
    ) -> None:
        units = find_units(module, settings)
        is_spread = settings.stage > 0 and ranks.data_parallel_size > 1
        if is_spread:
            refuse_shared_weights(module, units)
        whole = dict(module.named_parameters(remove_duplicate=False))
        mesh = init_device_mesh(
            ranks.device.type,
            (ranks.data_parallel_size, ranks.tensor_parallel_size),
            mesh_dim_names=("data", "tensor"),
        )
        self.row_group: RowGroup | None = None
        orders = RowOrders()
        if tensor_parallel is not None:
            # It advises against two collectives one after the other, where rows cut twice leave no other way.
            logging.getLogger(_ADVICE).setLevel(logging.ERROR)
            self.row_group = RowGroup(mesh["tensor"])
            orders = RowOrders(tensor_parallel.fused, ranks.tensor_parallel_size)
            orders.arrange(module)
        self._orders = orders
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        if bf16_weights:
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        for unit in (*units, module):
            # One after the other, so that a device never holds more than a unit beside the parts.
            unit.to(ranks.device)
            if bf16_weights:
                _widen(unit)
            own = (*unit.parameters(), *unit.buffers())
            ranks.share(one for one in own if not isinstance(one, DTensor))
            if tensor_parallel is not None:
                tensor_parallel.cut(unit, mesh["tensor"])
            if not is_spread:
                continue
            after_forward = settings.stage == 3 and unit is not module
            fully_shard(
                unit, mesh=mesh["data"], reshard_after_forward=after_forward, mp_policy=policy
            )
            _keep_name(type(unit))
        self._units: list[FSDPModule] = [
            one for one in module.modules() if isinstance(one, FSDPModule)
        ]
        parts = dict(module.named_parameters(remove_duplicate=False))
        self._part_of = {id(tensor): parts[name] for name, tensor in whole.items()}
        replicas = None if is_spread or ranks.data_parallel_size == 1 else mesh["data"].get_group()
        self._replicas, self._num_replicas = replicas, ranks.data_parallel_size

    def parts_of(self, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
        """What stands in the place of the module's parameters now; others as they are."""
        return [self._part_of.get(id(one), one) for one in parameters]

    def put_into(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer of the whole weights update the parts.

        Raises:
            ValueError: if it has made steps already.
        """
        if optimizer.state:
            raise ValueError("the optimizer has a state already: give initialize a new one")
        for group in optimizer.param_groups:
            group["params"] = self.parts_of(group["params"])

    def finish_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Have each weight's gradient be that of the global batch, where FSDP2 has not seen to it."""
        if not self._units:
            complete_gradients(parameters, self._replicas, self._num_replicas)

    def restored(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """A weight that was put together, or what has its shape, in the order that checkpoints have."""
        return self._orders.restored(name, whole)

    def part_of(self, name: str, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """As `spread`, of a weight as checkpoints have it or of what has its shape."""
        return self.spread(self._orders.arranged(name, whole), like)

    @staticmethod
    def spread(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """This process's part of a whole tensor, spread as `like`; the tensor itself where that is whole.

        Nothing travels: each process has the whole, which may be mapped from a file, and reads its part alone.

        Raises:
            ValueError: for another shape.
        """
        if not isinstance(like, DTensor) or whole.ndim == 0:
            return whole
        if whole.shape != like.shape:
            raise ValueError(
                f"a tensor of shape {tuple(whole.shape)} belongs to a weight of shape {tuple(like.shape)}: only "
                "what has the weight's shape can be spread as it is"
            )
        sizes, starts = compute_local_shape_and_global_offset(
            like.shape, like.device_mesh, like.placements
        )
        own = whole[tuple(slice(s, s + n) for s, n in zip(starts, sizes, strict=True))]
        return DTensor.from_local(
            own.to(like.device),
            like.device_mesh,
            like.placements,
            shape=like.shape,
            stride=like.stride(),
        )

    def rest(self) -> None:
        """Free what is gathered: the module's parameters are the parts that the optimizer knows."""
        for unit in self._units:
            unit.reshard()

    def forget_step(self) -> None:
        """Be ready for a new step wherever the present one was broken off."""
        # The root comes first among a module's modules. Before its first forward it does not know that it is one, and
        # there is nothing to forget.
        root = self._units[0] if self._units else None
        if root is not None and root._get_fsdp_state()._is_root is not None:
            root.reset_iter_state()


def _widen(unit: nn.Module) -> None:
    """Have trained weights be float32, of which bfloat16 ones are made where a layer reads them."""
    for weight in unit.parameters():
        if weight.requires_grad and is_half(weight):
            weight.data = weight.data.float()


def find_units(module: nn.Module, settings: ZeroSettings) -> list[nn.Module]:
    """The modules whose weights are gathered together, outermost first, each once."""
    if settings.names_units:
        return list(dict.fromkeys(_named_units(module, settings)))
    found = list(dict.fromkeys(_layers_in(module)))
    if not found and settings.stage == 3:
        raise ConfigError(
            f"zero_optimization.stage is 3, but no layers are found in {type(module).__name__} (no ModuleList or "
            "Sequential of modules of one class), so that all weights would be gathered at once: name them by "
            'zero_optimization.leaf_module ({"classes": [...]} or {"names": [...]})'
        )
    return found


def _layers_in(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists whose members have weights and one class."""
    children = list(module.children())
    if isinstance(module, nn.ModuleList | nn.Sequential) and children:
        have_weights = all(any(True for _ in child.parameters()) for child in children)
        if have_weights and len({type(child) for child in children}) == 1:
            yield from children
            return
    for child in children:
        yield from _layers_in(child)


def _named_units(module: nn.Module, settings: ZeroSettings) -> Iterator[nn.Module]:
    """The outermost modules that the settings name.

    Raises:
        ConfigError: for a name that is that of no module.
    """
    wanted = {
        **{("names", name): lambda n, _, w=name: n == w for name in settings.leaf_names},
        **{
            ("name_suffixes", suffix): lambda n, _, w=suffix: n.endswith(w)
            for suffix in settings.leaf_name_suffixes
        },
        **{("classes", one): lambda _, m, w=one: _is_of(m, w) for one in settings.leaf_classes},
    }
    unseen, inside = set(wanted), ""
    for name, one in module.named_modules():
        matching = {key for key, matches in wanted.items() if name and matches(name, one)}
        unseen -= matching
        if matching and not (inside and name.startswith(inside)):
            inside = name + "."
            yield one
    for key, value in sorted(unseen):
        raise ConfigError(
            f"zero_optimization.leaf_module.{key} names {value!r}, but {type(module).__name__} has no such module"
        )


def _is_of(module: nn.Module, name: str) -> bool:
    """Whether a class is called so, with or without its module's name."""
    own = type(module)
    return name in (own.__name__, f"{own.__module__}.{own.__qualname__}")


def refuse_shared_weights(module: nn.Module, units: list[nn.Module]) -> None:
    """Raise ConfigError if a weight belongs to two units, or to one and to what is outside."""
    owners: dict[int, set[int]] = defaultdict(set)
    place = {id(part): id(unit) for unit in units for part in unit.modules()}
    names: dict[int, str] = {}
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(prefix, recurse=False):
            owners[id(parameter)].add(place.get(id(part), 0))
            names[id(parameter)] = name
    shared = sorted(names[parameter] for parameter, of in owners.items() if len(of) > 1)
    if shared:
        raise ConfigError(
            f"{shared[0]} is shared by layers that are gathered apart: name a module that holds all of them by "
            "zero_optimization.leaf_module.names, or take stage 0"
        )


def _keep_name(of: type) -> None:
    """Let a class that FSDP2 derived be called as the user's, for whoever asks whose a module is."""
    original = of.__mro__[2]
    of.__name__, of.__qualname__ = original.__name__, original.__qualname__
    of.__module__ = original.__module__
