"""The engine on plain PyTorch: one process or several data-parallel ones, each with all weights or a part.

`train_step` is the step (see `base.py`). For scripts written for DeepSpeed it follows the calls of its
engine, too: `loss = engine(batch)`, `engine.backward(loss)`, `engine.step()` for every micro-batch; the
optimizer steps at the end of an accumulation.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from data_efficiency.config import Config
from data_efficiency.engine.base import Collate, EngineBase, make_loader
from data_efficiency.engine.masters import Masters, refuse_half_weights
from data_efficiency.engine.optimizer import (
    make_optimizer,
    refuse_foreign_weights,
    refuse_unreached_weights,
    updated_by,
)
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.sections import ZeroSettings, check_torch_sections
from data_efficiency.engine.whole_tensor import WholeTensor, whole_of, whole_tensors
from data_efficiency.json_section import ConfigError
from data_efficiency.routing.random_ltd import save_without_random_ltd

if TYPE_CHECKING:
    from data_efficiency.engine import sharding
    from data_efficiency.engine.tensor_parallel import RowGroup, TensorParallel

_STEP = "step"


class TorchEngine(EngineBase):
    """A module with its optimizer, loader and precision; made by `initialize`."""

    def __init__(  # noqa: PLR0913 - what initialize was given
        self,
        *,
        module: torch.nn.Module,
        config: Config,
        ranks: Ranks,
        optimizer: Any,
        parameters: Iterable[Any] | None,
        training_data: Any,
        lr_scheduler: Any,
        collate_fn: Collate | None,
        bf16_weights: bool = False,
        tensor_parallel: "TensorParallel | None" = None,
    ) -> None:
        sections = check_torch_sections(config.engine_sections)
        if tensor_parallel is not None and bf16_weights:
            raise ConfigError(
                "bf16_weights is true, and the model is cut over processes (tensor parallelism), of whose weights no "
                "float32 copy is kept: leave it out, bf16 alone computes in bfloat16"
            )
        self._begin(config, ranks)
        self.global_rank, self.dp_world_size = ranks.rank, ranks.data_parallel_size
        self.device = ranks.device
        if bf16_weights and not sections.bf16:
            raise ConfigError("bf16_weights is true, but bf16.enabled is not: switch it on")
        precision = "bf16" if sections.bf16 else "fp16" if sections.loss_scale else None
        if precision is not None and not bf16_weights:
            refuse_half_weights(module, precision)
        chosen = list(parameters) if parameters is not None else None
        self.module = module
        self._hold_weights(sections.zero, bf16_weights, tensor_parallel)
        if self._sharding is not None and chosen is not None:
            chosen = self._sharding.parts_of(chosen)
        self._autocast = torch.bfloat16 if sections.bf16 else None
        self.loss_scale = sections.loss_scale
        """For float16; None in other precisions."""
        if self.loss_scale is not None:
            self._autocast = torch.float16
        self.optimizer = make_optimizer(module, optimizer, chosen, sections.optimizer)
        # Who makes the optimizer may have listed the weights before they became others.
        owner = self._masters or self._sharding
        if owner is not None and self.optimizer is not None:
            owner.put_into(self.optimizer)
        if self.optimizer is not None:
            name = type(module).__name__
            refuse_foreign_weights(self.optimizer, self._updated_parameters(), name)
        self.lr_scheduler = lr_scheduler(self.optimizer) if callable(lr_scheduler) else lr_scheduler
        if training_data is not None:
            self.training_dataloader = make_loader(training_data, config, ranks, collate_fn)
        self.micro_steps = 0
        self._grad_norm: float | None = None

    def _hold_weights(
        self, zero: ZeroSettings, bf16_weights: bool, tensor_parallel: "TensorParallel | None"
    ) -> None:
        """Put the module's weights on the device, whole or this process's part of them."""
        self._sharding: sharding.Sharding | None = None
        self._masters: Masters | None = None
        self._parallel: torch.nn.Module = self.module
        self.row_shares: RowGroup | None = None
        """Of the processes that share each row; None where each process has whole ones."""
        ranks = self.ranks
        if (zero.stage and ranks.data_parallel_size > 1) or tensor_parallel is not None:
            # Imported here: it takes longer than all the rest, and only who shards needs it.
            from data_efficiency.engine.sharding import Sharding  # noqa: PLC0415

            self._sharding = Sharding(
                *(self.module, ranks, zero),
                bf16_weights=bf16_weights,
                tensor_parallel=tensor_parallel,
            )
            self.row_shares = self._sharding.row_group
            return
        self.module.to(self.device)
        if bf16_weights:
            # The masters are made before DistributedDataParallel would share the weights.
            ranks.share(self.module.parameters())
            self._masters = Masters(self.module)
        if ranks.data_parallel_size > 1:
            self._parallel = DistributedDataParallel(self.module, gradient_as_bucket_view=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result; in training, token dropping is told where this micro-batch stands."""
        args, kwargs = self._moved(args, kwargs)
        module = self.module
        training = module.training
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                torch.autocast(
                    self.device.type, dtype=self._autocast, enabled=self._autocast is not None
                )
            )
            if training:
                self._place_forward()
                module = self._parallel
                adds_up = self._masters is None and not self.is_gradient_accumulation_boundary()
                if isinstance(module, DistributedDataParallel) and adds_up:
                    # Gradients travel once a step: with the last micro-batch, as the sum of all.
                    stack.enter_context(module.no_sync())
            result = module(*args, **kwargs)
        if training:
            self._note_forward(args, kwargs)
        else:
            # Else what is gathered would stay until the next backward pass.
            self._rest()
        return result

    forward = __call__

    def backward(self, loss: torch.Tensor, *, scale_wrt_gas: bool = True) -> torch.Tensor:
        """Add the loss's gradients; returns the loss.

        For scripts written for DeepSpeed. A step's gradient is then the mean over processes and
        micro-batches of what each loss gives: with losses that are means over different numbers of
        tokens a mean of means, which depends on the split. `train_step` is exact.

        Args:
            loss: scalar.
            scale_wrt_gas: divide by the accumulation steps, for losses that are a mean over their
                micro-batch; False for a loss that is already a share of this process's batch.
        """
        share = loss / self._accumulation if scale_wrt_gas else loss
        scaled = share if self.loss_scale is None else share * self.loss_scale.value
        scaled.backward()
        if self._masters is not None:
            self._masters.take_gradients()
        return loss

    def step(self) -> None:
        """End a micro-batch; the last one of a step updates the weights and counts the step.

        For scripts written for DeepSpeed, after `backward`; `train_step` does it all. Tokens in the
        loss are not known here and not counted. Gradients that overflowed float16 are thrown away, and
        the step counted in `skipped_steps`.

        Raises:
            NonFiniteError: for a gradient that is no finite number in other precisions.
        """
        if self.is_gradient_accumulation_boundary():
            self._finish_step(self._reduce())
        else:
            self.micro_steps += 1

    def _update(self) -> bool:
        self._require_optimizer()
        self._set_rates()
        if self._sharding is not None:
            self._sharding.finish_gradients(self.parameters())
        if isinstance(self._parallel, DistributedDataParallel):
            refuse_unreached_weights(self._updated_parameters())
        self._grad_norm = self._unscale_and_clip()
        self._refuse_non_finite({}, self._grad_norm)
        overflow = not math.isfinite(self._grad_norm)
        if overflow:
            self.skipped_steps += 1
        else:
            self.optimizer.step()
            if self._masters is not None:
                self._masters.give_weights()
        self._forget_gradients()
        if self.loss_scale is not None:
            self.loss_scale.update(overflow)
        if self.lr_scheduler is not None and not overflow:
            self.lr_scheduler.step()
        self.micro_steps += 1
        return overflow

    def _unscale_and_clip(self) -> float:
        """The norm before clipping of the whole gradient of what the optimizer updates."""
        updated = set(map(id, updated_by(self.optimizer)))
        # In the module's order, which the sum of their squares is rounded in.
        parameters = [
            p
            for p in self._updated_parameters().values()
            if p.grad is not None and id(p) in updated
        ]
        if self.loss_scale is not None:
            gradients = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(gradients, 1.0 / self.loss_scale.value)
        limit = self.json_config.gradient_clipping or float("inf")
        return float(whole_of(torch.nn.utils.clip_grad_norm_(parameters, limit)))

    def _give_up_step(self) -> None:
        if self._sharding is not None:
            self._sharding.forget_step()
        super()._give_up_step()
        self._forget_gradients()
        self.module.zero_grad()

    def _forget_gradients(self) -> None:
        """Free all of them, those of weights that have one and no optimizer updates among them."""
        for parameter in self._updated_parameters().values():
            parameter.grad = None

    def _updated_parameters(self) -> dict[str, torch.Tensor]:
        self._rest()
        return super()._updated_parameters() if self._masters is None else self._masters.named()

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the present micro-batch is the last of its step."""
        return (self.micro_steps + 1) % self._accumulation == 0

    def train(self, mode: bool = True) -> "TorchEngine":
        """The engine, its module in training mode."""
        self.module.train(mode)
        return self

    def eval(self) -> "TorchEngine":
        """The engine, its module in evaluation mode: no token is dropped."""
        return self.train(False)

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """The module's parameters."""
        return self.module.parameters()

    def train_batch_size(self) -> int:
        """Samples of a step over all processes, where `batch_size` does not say it."""
        return self._micro_batch_size * self._plain_accumulation * self.ranks.data_parallel_size

    def train_micro_batch_size_per_gpu(self) -> int:
        """Samples of a forward pass."""
        return self._micro_batch_size

    def gradient_accumulation_steps(self) -> int:
        """Forward passes of the present step on this process."""
        return self._accumulation

    def get_global_grad_norm(self) -> float | None:
        """Norm of the last step's gradient before clipping; None before the first step."""
        return self._grad_norm

    def progress_state(self) -> dict[str, Any]:
        """As `EngineBase.progress_state`, with the loss scale."""
        scale = None if self.loss_scale is None else self.loss_scale.state_dict()
        return {**super().progress_state(), "loss_scale": scale}

    def load_progress_state(self, saved: Mapping[str, Any]) -> None:
        """As `EngineBase.load_progress_state`; a loss scale goes on where both sides have one."""
        super().load_progress_state(saved)
        if self.loss_scale is not None and saved["loss_scale"] is not None:
            self.loss_scale.load_state_dict(saved["loss_scale"])

    def whole_weights(self) -> list[WholeTensor]:
        """Weights and buffers by their plain names, in the precision that the optimizer updates."""
        tensors = self._own_tensors()
        masters = {} if self._masters is None else self._masters.named(every_name=True)
        return self._in_their_order(
            whole_tensors({name: masters.get(name, own) for name, own in tensors.items()})
        )

    def load_whole_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take weights and buffers by the names of `whole_weights`.

        Raises:
            ValueError: if names or shapes are not those of the module.
        """
        self._check_fit(tensors)
        own = self._own_tensors()
        self.module.load_state_dict(
            {name: self._part_of(name, tensor, own[name]) for name, tensor in tensors.items()}
        )
        if self._masters is not None:
            self._masters.load(tensors)

    def whole_optimizer_state(self) -> list[WholeTensor]:
        """The optimizer's tensors as `<weight>.<name of the state>`; Adam's step among them."""
        assert self.optimizer is not None
        names = {id(parameter): name for name, parameter in self._updated_parameters().items()}
        tensors = {}
        for group in self.optimizer.param_groups:
            # Some optimizers count their steps once a group.
            counted = {_STEP: torch.tensor(float(group[_STEP]))} if _STEP in group else {}
            for parameter in group["params"]:
                states = self.optimizer.state.get(parameter)
                for key, value in {**states, **counted}.items() if states else ():
                    tensors[f"{names[id(parameter)]}.{key}"] = value
        return self._in_their_order(
            whole_tensors(tensors), weight_of=lambda name: name.rpartition(".")[0]
        )

    def load_whole_optimizer_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the optimizer's tensors by the names of `whole_optimizer_state`.

        Raises:
            ValueError: if some are missing, or are of no weight of the module.
        """
        assert self.optimizer is not None
        self._check_optimizer_state(tensors)
        parameters = self._updated_parameters()
        on_device = self.optimizer.defaults.get("fused") or self.optimizer.defaults.get(
            "capturable"
        )
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        for full_name, tensor in tensors.items():
            name, _, key = full_name.rpartition(".")
            parameter = parameters[name]
            group = groups[id(parameter)]
            if key == _STEP and _STEP in group:
                group[_STEP] = int(tensor)
                continue
            # Unless the optimizer is fused, its step count stays on the host.
            device = parameter.device if tensor.ndim or on_device else torch.device("cpu")
            part = self._part_of(name, tensor, parameter)
            self.optimizer.state[parameter][key] = part.to(device, copy=True)

    def _own_tensors(self) -> dict[str, torch.Tensor]:
        """Weights and buffers by their plain names, as this process holds them."""
        self._rest()
        return save_without_random_ltd(self.module)

    def _rest(self) -> None:
        """Have the module's parameters be what the optimizer updates, where they may be gathered ones."""
        if self._sharding is not None:
            self._sharding.rest()

    def _part_of(self, name: str, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """What this process holds of a whole weight, or of what has its shape."""
        if self._sharding is None:
            return whole
        return self._sharding.part_of(name, whole, like)

    def _in_their_order(
        self, tensors: list[WholeTensor], weight_of: Callable[[str], str] = str
    ) -> list[WholeTensor]:
        """The tensors, which will be gathered as checkpoints have them."""
        sharding = self._sharding
        if sharding is None:
            return tensors
        return [one.then(partial(sharding.restored, weight_of(one.name))) for one in tensors]
