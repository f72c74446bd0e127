"""DeepSpeed's engine with our loader and our token dropping.

DeepSpeed gets the JSON file without the `data_efficiency` section, which would start code of its own.
What comes back is its engine: a subclass with the methods of `EngineBase`, and with state that does not
depend on the ZeRO stage or the number of processes.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.config import DeepSpeedConfigError

from data_efficiency.accounting import Counters
from data_efficiency.config import Config
from data_efficiency.engine import deepspeed_state
from data_efficiency.engine.base import Collate, EngineBase, make_loader
from data_efficiency.engine.deepspeed_ops import guard_builds, without_needless_builds
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.sections import is_off, refuse_offloading, refuse_unsupported
from data_efficiency.engine.whole_tensor import WholeTensor
from data_efficiency.json_section import ConfigError, Section

_COUNTERS = "data_efficiency_counters"


class DeepSpeedEngine(EngineBase, deepspeed.DeepSpeedEngine):
    """A DeepSpeed engine that trains on our loader; made by `initialize`."""

    _hides_curriculum = False
    _lr_kwargs: Any = None
    global_samples: int

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result; in training, token dropping is told where this micro-batch stands."""
        args, kwargs = self._moved(args, kwargs)
        training = self.module.training
        if training:
            self._place_forward()
        result = super().forward(*args, **kwargs)
        if training:
            self._note_forward(args, kwargs)
        return result

    def step(self, lr_kwargs: Any = None) -> None:
        """As `TorchEngine.step`.

        Raises:
            NonFiniteError: for a gradient that is no finite number, but for float16 overflows.
        """
        if not self.is_gradient_accumulation_boundary():
            super().step(lr_kwargs)
            return
        self._lr_kwargs = lr_kwargs
        self._finish_step(self._reduce())

    def _update(self) -> bool:
        self._set_rates()
        num_skipped, num_samples = self.skipped_steps, self.global_samples
        counters = self.counters
        super().step(self._lr_kwargs)
        skipped = self.skipped_steps > num_skipped
        if skipped and not self._overflows.may_happen:
            self.skipped_steps, self.global_samples = num_skipped, num_samples
            self.counters = counters
            self._refuse_non_finite({}, float("inf"))
        return skipped

    def _take_model_step(self, lr_kwargs: Any) -> None:
        # Where the optimizer is not wrapped by DeepSpeed, nobody else looks at the gradients.
        if not hasattr(self.optimizer, "overflow"):
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            self._global_grad_norm = float(torch.nn.utils.get_total_norm(gradients))
            self._refuse_non_finite({}, self._global_grad_norm)
        super()._take_model_step(lr_kwargs)

    def save_checkpoint(
        self,
        save_dir: Any,
        tag: Any = None,
        client_state: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        """DeepSpeed's own checkpoint, with the counters in its client state."""
        state = {**(client_state or {}), _COUNTERS: asdict(self.counters)}
        return super().save_checkpoint(save_dir, tag, client_state=state, **settings)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """As DeepSpeed's; the counters go on where they were saved, and the learning rate with them."""
        path, client_state = super().load_checkpoint(*args, **kwargs)
        counters = (client_state or {}).pop(_COUNTERS, None)
        if counters is not None:
            self.counters = Counters(**counters)
            self._set_rates()
        return path, client_state

    def curriculum_learning_enabled(self) -> bool:
        """As `EngineBase.curriculum_learning_enabled`."""
        return not self._hides_curriculum and super().curriculum_learning_enabled()

    def gradient_accumulation_steps(self) -> int:
        """As `TorchEngine.gradient_accumulation_steps`."""
        return self._accumulation

    def deepspeed_io(self, *args: Any, **kwargs: Any) -> Any:
        """DeepSpeed's own loader, for data that the curriculum does not concern."""
        self._hides_curriculum = True
        try:
            return super().deepspeed_io(*args, **kwargs)
        finally:
            self._hides_curriculum = False

    def clip_fp32_gradients(self) -> None:
        """Clips by the norm that the present step found, which DeepSpeed would compute and forget."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = torch.tensor(self._global_grad_norm, device=self.ranks.device)
        torch.nn.utils.clip_grads_with_norm_(parameters, self.gradient_clipping(), norm)

    def get_global_grad_norm(self) -> float | None:
        """Norm of the last step's gradient before clipping, where DeepSpeed computes it."""
        norm = super().get_global_grad_norm()
        return None if norm is None else float(norm)

    def progress_state(self) -> dict[str, Any]:
        """As `EngineBase.progress_state`, with the loss scale."""
        scale = deepspeed_state.loss_scale_state(self.optimizer)
        return {**super().progress_state(), "loss_scale": scale}

    def load_progress_state(self, saved: Mapping[str, Any]) -> None:
        """As `EngineBase.load_progress_state`; a loss scale goes on where both sides have one."""
        super().load_progress_state(saved)
        self.global_samples = self.counters.steps * self.train_batch_size()
        if saved["loss_scale"] is not None:
            deepspeed_state.load_loss_scale(self.optimizer, saved["loss_scale"])

    def whole_weights(self) -> list[WholeTensor]:
        """As `TorchEngine.whole_weights`; every process must call it."""
        return deepspeed_state.whole_weights(self)

    def load_whole_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """As `TorchEngine.load_whole_weights`; every process must call it with the same tensors."""
        self._check_fit(tensors)
        deepspeed_state.load_whole_weights(self, tensors)

    def whole_optimizer_state(self) -> list[WholeTensor]:
        """As `TorchEngine.whole_optimizer_state`; every process must call it."""
        return deepspeed_state.whole_optimizer_state(self)

    def load_whole_optimizer_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """As `TorchEngine.load_whole_optimizer_state`; every process must call it."""
        self._check_optimizer_state(tensors)
        deepspeed_state.load_whole_optimizer_state(self, tensors)


def make_deepspeed_engine(
    *,
    module: torch.nn.Module,
    config: Config,
    ranks: Ranks,
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
    if config.data_efficiency.batch_size is not None:
        refuse_offloading(sections)
    if optimizer is not None and sections.get("optimizer"):
        raise ConfigError("an optimizer is given to initialize and in the JSON: remove one of them")
    micro_batch_size, accumulation = config.batch_sizes(ranks.data_parallel_size)
    if sections.get("bf16"):
        # Else ZeRO 1 and 2 take steps whose gradients are no finite numbers.
        sections["bf16"] = {"check_grad_overflow": True, **sections["bf16"]}
    content = {
        **without_needless_builds(sections, ranks.device),
        "train_batch_size": micro_batch_size * accumulation * ranks.data_parallel_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.gradient_clipping,
    }
    # DeepSpeed reads it from there, and only there, and takes the accelerator of that number.
    index = ranks.device.index
    os.environ.setdefault("LOCAL_RANK", str(ranks.local_rank if index is None else index))
    guard_builds()
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
    engine._begin(config, ranks)
    if training_data is not None:
        engine.training_dataloader = make_loader(training_data, config, ranks, collate_fn)
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
    if not is_off("tensor_parallel", sections.get("tensor_parallel")):
        raise ConfigError(
            f"tensor_parallel is {sections['tensor_parallel']!r}: DeepSpeed's engine holds whole layers here; take the "
            "PyTorch engine, or remove the section"
        )
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
        if "not been implemented" in str(error):
            raise ConfigError(
                "DeepSpeed has an operator that the JSON file needs for accelerators only (optimizers Lion and "
                "Lamb): use AdamW here"
            ) from error
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
