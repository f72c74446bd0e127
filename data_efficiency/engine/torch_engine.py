"""The engine on plain PyTorch: one process, any device, nothing else needed.

It follows the calls of a DeepSpeed engine: `loss = engine(batch)`, `engine.backward(loss)`,
`engine.step()` for every micro-batch; the optimizer steps at the end of an accumulation.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch

from data_efficiency.config import Config
from data_efficiency.json_section import ConfigError, Section
from data_efficiency.sampling.loader import CurriculumDataLoader, PostProcess
from data_efficiency.sampling.sampler import CurriculumSampler


class TokenRouter(Protocol):
    """What the engine asks of a token router."""

    def set_position(self, step: int, first_row: int) -> None:
        """Says which step, and which row of the global batch, the next forward starts at."""


class TorchEngine:
    """A module with its optimizer, loader, precision and step counters; made by `initialize`."""

    def __init__(
        self,
        *,
        module: torch.nn.Module,
        config: Config,
        optimizer: Any,
        parameters: Iterable[Any] | None,
        training_data: Any,
        lr_scheduler: Any,
        collate_fn: Callable[[list[Any]], Any] | None,
    ) -> None:
        num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        if num_processes != 1:
            raise ValueError(
                f"WORLD_SIZE is {num_processes}: the PyTorch engine runs in one process"
            )
        sections = check_sections(config.engine_sections)
        self.config = config
        self.data_efficiency_config = config.data_efficiency
        self._micro_batch_size, self._accumulation = config.batch_sizes(data_parallel_size=1)
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")
        self.module = module.to(self.device)
        self._autocast = torch.bfloat16 if sections["bf16"] else None
        self.optimizer = _make_optimizer(module, optimizer, parameters, sections["optimizer"])
        self.lr_scheduler = lr_scheduler(self.optimizer) if callable(lr_scheduler) else lr_scheduler
        self.training_dataloader: CurriculumDataLoader | None = None
        if training_data is not None:
            self.training_dataloader = self._make_loader(training_data, collate_fn)
        self.random_ltd_scheduler: TokenRouter | None = None
        self.global_steps = 0
        self.micro_steps = 0
        self._grad_norm: float | None = None

    def _make_loader(
        self, dataset: Any, collate_fn: Callable[[list[Any]], Any] | None
    ) -> CurriculumDataLoader:
        settings = self.data_efficiency_config
        sampler = CurriculumSampler(
            dataset,
            settings,
            micro_batch_size=self._micro_batch_size,
            gradient_accumulation_steps=self._accumulation,
            drop_last=self.config.dataloader_drop_last,
        )
        return CurriculumDataLoader(
            dataset,
            sampler,
            collate_fn=collate_fn,
            num_workers=settings.num_workers,
            pin_memory=settings.pin_memory,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result; in training, token dropping is told where this micro-batch stands."""
        if self.module.training and self.random_ltd_scheduler is not None:
            number = self.micro_steps % self._accumulation
            self.random_ltd_scheduler.set_position(
                self.global_steps, number * self._micro_batch_size
            )
        with torch.autocast(
            self.device.type, dtype=self._autocast, enabled=self._autocast is not None
        ):
            return self.module(*args, **kwargs)

    forward = __call__

    def backward(self, loss: torch.Tensor, *, scale_wrt_gas: bool = True) -> torch.Tensor:
        """Adds the loss's gradients; returns the loss.

        Args:
            loss: scalar.
            scale_wrt_gas: divide by the accumulation steps, for losses that are a mean over their
                micro-batch; False for a loss that is already a share of the global batch's.
        """
        (loss / self._accumulation if scale_wrt_gas else loss).backward()
        return loss

    def step(self) -> None:
        """Counts a micro-batch; at the end of an accumulation clips, steps and clears gradients."""
        at_boundary = self.is_gradient_accumulation_boundary()
        self.micro_steps += 1
        if not at_boundary:
            return
        if self.optimizer is None:
            raise ValueError("step() needs an optimizer: give one to initialize, or in the JSON")
        self._grad_norm = self._clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.global_steps += 1
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()

    def _clip_gradients(self) -> float:
        """The norm of the whole gradient before clipping."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        limit = self.config.gradient_clipping or float("inf")
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
        """Samples of a step."""
        return self._micro_batch_size * self._accumulation

    def train_micro_batch_size_per_gpu(self) -> int:
        """Samples of a forward pass."""
        return self._micro_batch_size

    def gradient_accumulation_steps(self) -> int:
        """Forward passes of a step."""
        return self._accumulation

    def get_global_grad_norm(self) -> float | None:
        """Norm of the last step's gradient before clipping; None before the first step."""
        return self._grad_norm

    def random_ltd_enabled(self) -> bool:
        """Whether the JSON switches token dropping on."""
        return self.data_efficiency_config.random_ltd is not None

    def curriculum_enabled(self) -> bool:
        """Whether the JSON switches curriculum sampling on."""
        return bool(self.data_efficiency_config.metrics)

    def set_data_post_process_func(self, function: PostProcess) -> None:
        """As `CurriculumDataLoader.set_post_process`.

        Raises:
            ValueError: if `initialize` was given no training data.
        """
        self._loader().set_post_process(function)

    def set_custom_curriculum_learning_schedule(
        self, functions: Mapping[str, Callable[[int], int]]
    ) -> None:
        """As `CurriculumSampler.set_custom_schedules`.

        Raises:
            ValueError: if `initialize` was given no training data.
        """
        self._loader().sampler.set_custom_schedules(functions)

    def _loader(self) -> CurriculumDataLoader:
        if self.training_dataloader is None:
            raise ValueError("no training loader: give training_data to initialize")
        return self.training_dataloader

    def state_dict(self) -> dict[str, Any]:
        """Steps and the loader's place as plain JSON data; weights and optimizer are not in it.

        Raises:
            ValueError: between the micro-batches of a step, where no state is whole.
        """
        if self.micro_steps % self._accumulation:
            raise ValueError("the state is whole only between steps, not between micro-batches")
        loader = self.training_dataloader
        return {
            "global_steps": self.global_steps,
            "loader": None if loader is None else loader.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes to a saved place; the accumulation may have changed."""
        self.global_steps = int(saved["global_steps"])
        self.micro_steps = self.global_steps * self._accumulation
        if self.training_dataloader is not None and saved["loader"] is not None:
            self.training_dataloader.load_state_dict(saved["loader"])


def check_sections(sections: Mapping[str, Any]) -> dict[str, Any]:
    """What this engine does with the JSON's other sections: `bf16` (bool) and `optimizer`.

    Raises:
        ConfigError: for a section that this engine would ignore.
    """
    harmless = {"steps_per_print", "zero_allow_untested_optimizer", "prescale_gradients"}
    for name, content in sections.items():
        if name in harmless or name in ("bf16", "optimizer") or not content:
            continue
        switched_off = isinstance(content, Mapping) and (
            content.get("enabled") is False
            or (name == "zero_optimization" and not content["stage"])
        )
        if not switched_off:
            raise ConfigError(
                f"{name} is {content!r}: the PyTorch engine would ignore it; remove the section"
            )
    bf16 = Section(sections.get("bf16") or {}, "bf16")
    enabled = bf16.boolean("enabled", False)
    bf16.close()
    return {"bf16": enabled, "optimizer": sections.get("optimizer")}


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
    )
    params.close()
    section.close()
    return made
