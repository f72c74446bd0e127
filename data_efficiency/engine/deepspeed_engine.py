"""DeepSpeed's engine with our loader and our token dropping.

DeepSpeed gets the JSON file without the `data_efficiency` section, which would start code of its own.
What comes back is its engine: a subclass with the methods of `DataSide`, and with state that does not
depend on the ZeRO stage or the number of processes.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.config import DeepSpeedConfigError

from data_efficiency.config import Config
from data_efficiency.engine import deepspeed_state
from data_efficiency.engine.data_side import Collate, DataSide, make_loader
from data_efficiency.engine.processes import Processes
from data_efficiency.engine.sections import refuse_unsupported
from data_efficiency.engine.whole_tensor import WholeTensor, gather_all
from data_efficiency.json_section import ConfigError, Section


class DeepSpeedEngine(DataSide, deepspeed.DeepSpeedEngine):
    """A DeepSpeed engine that trains on our loader; made by `initialize`."""

    _hides_curriculum = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result; in training, token dropping is told where this micro-batch stands."""
        if self.module.training:
            self._place_forward()
        return super().forward(*args, **kwargs)

    def curriculum_learning_enabled(self) -> bool:
        """As `DataSide.curriculum_learning_enabled`."""
        return not self._hides_curriculum and super().curriculum_learning_enabled()

    def deepspeed_io(self, *args: Any, **kwargs: Any) -> Any:
        """DeepSpeed's own loader, for data that the curriculum does not concern."""
        self._hides_curriculum = True
        try:
            return super().deepspeed_io(*args, **kwargs)
        finally:
            self._hides_curriculum = False

    def clip_fp32_gradients(self) -> None:
        """Clips, and keeps the norm for `get_global_grad_norm`, which DeepSpeed forgets here."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        limit = self.gradient_clipping()
        self._global_grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))

    def get_global_grad_norm(self) -> float | None:
        """Norm of the last step's gradient before clipping, where DeepSpeed computes it."""
        norm = super().get_global_grad_norm()
        return None if norm is None else float(norm)

    def progress_state(self) -> dict[str, Any]:
        """As `DataSide.progress_state`, with the loss scale."""
        return {
            **super().progress_state(),
            "skipped_steps": self.skipped_steps,
            "loss_scale": deepspeed_state.loss_scale_state(self.optimizer),
        }

    def load_progress_state(self, saved: Mapping[str, Any]) -> None:
        """As `DataSide.load_progress_state`; a loss scale goes on where both sides have one."""
        super().load_progress_state(saved)
        self.global_samples = self.global_steps * self.train_batch_size()
        self.skipped_steps = int(saved["skipped_steps"])
        if saved["loss_scale"] is not None:
            deepspeed_state.load_loss_scale(self.optimizer, saved["loss_scale"])

    def whole_weights(self) -> list[WholeTensor]:
        """As `TorchEngine.whole_weights`; every process must call it."""
        return deepspeed_state.whole_weights(self)

    def full_weights(self) -> dict[str, torch.Tensor]:
        """As `TorchEngine.full_weights`; every process must call it, process 0 gets the tensors."""
        return gather_all(self.whole_weights(), keep=self.global_rank == 0)

    def load_full_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """As `TorchEngine.load_full_weights`; every process must call it with the same tensors."""
        self._check_fit(tensors)
        deepspeed_state.load_full_weights(self, tensors)

    def whole_optimizer_state(self) -> list[WholeTensor]:
        """As `TorchEngine.whole_optimizer_state`; every process must call it."""
        return deepspeed_state.whole_optimizer_state(self)

    def full_optimizer_state(self) -> dict[str, torch.Tensor]:
        """As `TorchEngine.full_optimizer_state`; every process must call it, process 0 gets them."""
        return gather_all(self.whole_optimizer_state(), keep=self.global_rank == 0)

    def load_full_optimizer_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes the optimizer's tensors as `full_optimizer_state` gives them."""
        deepspeed_state.load_full_optimizer_state(self, tensors)


def make_deepspeed_engine(
    *,
    module: torch.nn.Module,
    config: Config,
    processes: Processes,
    optimizer: Any,
    parameters: Iterable[Any] | None,
    training_data: Any,
    lr_scheduler: Any,
    collate_fn: Collate | None,
) -> DeepSpeedEngine:
    """DeepSpeed's engine for what `initialize` was given; a process group must exist.

    Raises:
        ConfigError: for JSON that DeepSpeed would ignore or does not understand.
    """
    sections = check_deepspeed_sections(config.engine_sections)
    if optimizer is not None and sections.get("optimizer"):
        raise ConfigError("an optimizer is given to initialize and in the JSON: remove one of them")
    micro_batch_size, accumulation = config.batch_sizes(processes.size)
    content = {
        **sections,
        "train_batch_size": micro_batch_size * accumulation * processes.size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.gradient_clipping,
    }
    # DeepSpeed reads it from there, and only there, and takes the accelerator of that number.
    index = processes.device.index
    os.environ.setdefault("LOCAL_RANK", str(processes.local_rank if index is None else index))
    # On CPUs DeepSpeed would compile collectives that only its inference calls: a start would need a
    # compiler, and a build that was killed leaves a lock for which every later start waits for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with _configuration_errors():
        engine = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            model_parameters=None if parameters is None else list(parameters),
            lr_scheduler=lr_scheduler,
            collate_fn=collate_fn,
            config=content,
        )[0]
    deepspeed_state.undo_empty_step(engine)
    # DeepSpeed builds its own class; ours adds methods to it and no state of its own.
    engine.__class__ = DeepSpeedEngine
    engine.json_config = config
    engine._rank = processes.rank
    engine._micro_batch_size, engine._accumulation = micro_batch_size, accumulation
    engine.random_ltd_scheduler = None
    if training_data is not None:
        engine.training_dataloader = make_loader(training_data, config, processes, collate_fn)
    made: DeepSpeedEngine = engine
    return made


def check_deepspeed_sections(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections for DeepSpeed, those that it reads without checking checked.

    Most sections are pydantic models of the installed DeepSpeed, which refuse unknown keys
    themselves.

    Raises:
        ConfigError: for a section that is refused, or a key that would be ignored.
    """
    refuse_unsupported(sections)
    known = {
        "activation_checkpointing": (
            "partition_activations",
            "number_checkpoints",
            "contiguous_memory_optimization",
            "synchronize_checkpoint_boundary",
            "profile",
            "cpu_checkpointing",
        ),
        "optimizer": ("type", "params", "legacy_fusion"),
        "scheduler": ("type", "params"),
    }
    for name, keys in known.items():
        section = Section(sections.get(name) or {}, name)
        section.close(also_known=keys)
    return dict(sections)


@contextlib.contextmanager
def _configuration_errors() -> Iterator[None]:
    """Turns what DeepSpeed raises for a configuration into one clear line."""
    try:
        yield
    except DeepSpeedConfigError as error:
        raise ConfigError(
            f"DeepSpeed {deepspeed.__version__} refuses the JSON file: {error}"
        ) from error
    except ValueError as error:
        # pydantic's errors are ValueErrors with a list of places.
        if not hasattr(error, "errors"):
            raise
        places = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
        name = getattr(error, "title", "")
        raise ConfigError(
            f"DeepSpeed {deepspeed.__version__} refuses the JSON file ({name}): {places}"
        ) from error
