"""The engine on plain PyTorch: one process or several data-parallel ones, any device.

It follows the calls of a DeepSpeed engine: `loss = engine(batch)`, `engine.backward(loss)`,
`engine.step()` for every micro-batch; the optimizer steps at the end of an accumulation.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from data_efficiency.config import Config
from data_efficiency.engine.data_side import Collate, DataSide, make_loader
from data_efficiency.engine.processes import Processes
from data_efficiency.engine.sections import check_torch_sections
from data_efficiency.engine.whole_tensor import WholeTensor, whole_tensors
from data_efficiency.json_section import ConfigError, Section
from data_efficiency.routing.random_ltd import save_without_random_ltd

_STEP = "step"


class TorchEngine(DataSide):
    """A module with its optimizer, loader, precision and step counters; made by `initialize`."""

    def __init__(
        self,
        *,
        module: torch.nn.Module,
        config: Config,
        processes: Processes,
        optimizer: Any,
        parameters: Iterable[Any] | None,
        training_data: Any,
        lr_scheduler: Any,
        collate_fn: Collate | None,
    ) -> None:
        sections = check_torch_sections(config.engine_sections)
        self.json_config = config
        self._micro_batch_size, self._accumulation = config.batch_sizes(processes.size)
        self._rank = self.global_rank = processes.rank
        self.dp_world_size = processes.size
        self.device = processes.device
        self.module = module.to(self.device)
        self._parallel: torch.nn.Module = self.module
        if processes.size > 1:
            self._parallel = DistributedDataParallel(self.module, gradient_as_bucket_view=True)
        self._autocast = torch.bfloat16 if sections.bf16 else None
        self.loss_scale = sections.loss_scale
        """For float16; None in other precisions."""
        if self.loss_scale is not None:
            self._autocast = torch.float16
        self.optimizer = _make_optimizer(module, optimizer, parameters, sections.optimizer)
        self.lr_scheduler = lr_scheduler(self.optimizer) if callable(lr_scheduler) else lr_scheduler
        self.training_dataloader = None
        if training_data is not None:
            self.training_dataloader = make_loader(training_data, config, processes, collate_fn)
        self.random_ltd_scheduler = None
        self.global_steps = 0
        self.micro_steps = 0
        self.skipped_steps = 0
        """Steps whose float16 gradients overflowed: their samples are consumed, weights unchanged."""
        self._grad_norm: float | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result; in training, token dropping is told where this micro-batch stands."""
        module = self.module
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                torch.autocast(
                    self.device.type, dtype=self._autocast, enabled=self._autocast is not None
                )
            )
            if module.training:
                self._place_forward()
                module = self._parallel
                if isinstance(module, DistributedDataParallel) and not (
                    self.is_gradient_accumulation_boundary()
                ):
                    # Gradients travel once a step: with the last micro-batch, as the sum of all.
                    stack.enter_context(module.no_sync())
            return module(*args, **kwargs)

    forward = __call__

    def backward(self, loss: torch.Tensor, *, scale_wrt_gas: bool = True) -> torch.Tensor:
        """Adds the loss's gradients; returns the loss.

        Gradients are averaged over the processes, as a DeepSpeed engine does.

        Args:
            loss: scalar.
            scale_wrt_gas: divide by the accumulation steps, for losses that are a mean over their
                micro-batch; False for a loss that is already a share of this process's batch.
        """
        share = loss / self._accumulation if scale_wrt_gas else loss
        scaled = share if self.loss_scale is None else share * self.loss_scale.value
        scaled.backward()
        return loss

    def step(self) -> None:
        """Counts a micro-batch; at the end of an accumulation clips, steps and clears gradients.

        Gradients that overflowed float16 are thrown away, and the step counted in `skipped_steps`.
        """
        at_boundary = self.is_gradient_accumulation_boundary()
        self.micro_steps += 1
        if not at_boundary:
            return
        if self.optimizer is None:
            raise ValueError("step() needs an optimizer: give one to initialize, or in the JSON")
        self._grad_norm = self._unscale_and_clip()
        overflow = self.loss_scale is not None and not math.isfinite(self._grad_norm)
        if overflow:
            self.skipped_steps += 1
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.loss_scale is not None:
            self.loss_scale.update(overflow)
        self.global_steps += 1
        if self.lr_scheduler is not None and not overflow:
            self.lr_scheduler.step()

    def _unscale_and_clip(self) -> float:
        """The norm of the whole gradient before clipping."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        if self.loss_scale is not None:
            gradients = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(gradients, 1.0 / self.loss_scale.value)
        limit = self.json_config.gradient_clipping or float("inf")
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))

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
        """Samples of a step, over all processes."""
        return self._micro_batch_size * self._accumulation * self.dp_world_size

    def train_micro_batch_size_per_gpu(self) -> int:
        """Samples of a forward pass."""
        return self._micro_batch_size

    def gradient_accumulation_steps(self) -> int:
        """Forward passes of a step on this process."""
        return self._accumulation

    def get_global_grad_norm(self) -> float | None:
        """Norm of the last step's gradient before clipping; None before the first step."""
        return self._grad_norm

    def progress_state(self) -> dict[str, Any]:
        """As `DataSide.progress_state`, with the loss scale."""
        scale = None if self.loss_scale is None else self.loss_scale.state_dict()
        return {
            **super().progress_state(),
            "skipped_steps": self.skipped_steps,
            "loss_scale": scale,
        }

    def load_progress_state(self, saved: Mapping[str, Any]) -> None:
        """As `DataSide.load_progress_state`; a loss scale goes on where both sides have one."""
        super().load_progress_state(saved)
        self.skipped_steps = int(saved["skipped_steps"])
        if self.loss_scale is not None and saved["loss_scale"] is not None:
            self.loss_scale.load_state_dict(saved["loss_scale"])

    def whole_weights(self) -> list[WholeTensor]:
        """Weights and buffers by their plain names, in the precision that the optimizer updates."""
        return whole_tensors(self.full_weights())

    def full_weights(self) -> dict[str, torch.Tensor]:
        """What `whole_weights` announces, all at once."""
        return save_without_random_ltd(self.module)

    def load_full_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes weights and buffers as `full_weights` gives them.

        Raises:
            ValueError: if names or shapes are not those of the module.
        """
        self._check_fit(tensors)
        self.module.load_state_dict(tensors)

    def whole_optimizer_state(self) -> list[WholeTensor]:
        """The optimizer's tensors as `<weight>.<name of the state>`; Adam's step among them."""
        return whole_tensors(self.full_optimizer_state())

    def full_optimizer_state(self) -> dict[str, torch.Tensor]:
        """What `whole_optimizer_state` announces, all at once."""
        assert self.optimizer is not None
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        tensors = {}
        for group in self.optimizer.param_groups:
            # Some optimizers count their steps once a group.
            counted = {_STEP: torch.tensor(float(group[_STEP]))} if _STEP in group else {}
            for parameter in group["params"]:
                states = self.optimizer.state.get(parameter)
                for key, value in {**states, **counted}.items() if states else ():
                    tensors[f"{names[id(parameter)]}.{key}"] = value
        return tensors

    def load_full_optimizer_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes the optimizer's tensors as `full_optimizer_state` gives them."""
        assert self.optimizer is not None
        parameters = dict(self.module.named_parameters())
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
            self.optimizer.state[parameter][key] = tensor.to(device, copy=True)


def _make_optimizer(
    module: torch.nn.Module,
    optimizer: Any,
    parameters: Iterable[Any] | None,
    description: Mapping[str, Any] | None,
) -> torch.optim.Optimizer | None:
    """The client's optimizer, or the AdamW that the JSON describes.

    "Adam" means decoupled weight decay too, as DeepSpeed's Adam does by default.
    """
    if optimizer is not None and description:
        raise ConfigError("an optimizer is given to initialize and in the JSON: remove one of them")
    chosen = list(parameters) if parameters is not None else None
    if chosen is None:
        chosen = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if optimizer is not None:
        if isinstance(optimizer, torch.optim.Optimizer):
            return optimizer
        made: torch.optim.Optimizer = optimizer(chosen)
        return made
    if not description:
        return None
    section = Section(description, "optimizer")
    section.choice("type", ("Adam", "AdamW"))
    params = section.section("params")
    made = torch.optim.AdamW(
        chosen,
        lr=params.number("lr", 1e-3, at_least=0.0),
        betas=tuple(params.take("betas", (0.9, 0.999))),
        eps=params.number("eps", 1e-8, at_least=0.0),
        weight_decay=params.number("weight_decay", 0.0, at_least=0.0),
        fused=True,
    )
    params.close()
    section.close()
    return made
