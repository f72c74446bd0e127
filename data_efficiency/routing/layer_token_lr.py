"""A learning rate that follows the tokens that layers really processed.

Source: the `LayerToken` learning-rate schedule of Yao et al. 2022 (arXiv 2211.11586), section 3.3, and
the keys of DeepSpeed's `layer_token_lr_schedule`, which DeepSpeed reads and refuses.
"""

from collections.abc import Mapping
from typing import Any

from data_efficiency.config import LayerTokenLRConfig
from data_efficiency.routing.router import Router


class LayerTokenLR:
    """A learning-rate scheduler whose clock is the layer tokens of the global batches so far.

    The rate rises linearly from 0 to each group's own over the warm-up and then falls linearly to 0 at
    the total. Dropping tokens slows the clock, so the same rates are spent on the same work.

    Args:
        optimizer: anything with `param_groups`.
        router: counts this process's layer tokens.
        settings: warm-up and total.
        data_parallel_size: processes; each of them trains on as many tokens.
    """

    def __init__(
        self,
        optimizer: Any,
        router: Router,
        settings: LayerTokenLRConfig,
        data_parallel_size: int = 1,
    ) -> None:
        self.optimizer = optimizer
        self.router = router
        self.settings = settings
        self.data_parallel_size = data_parallel_size
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self._set_rates()

    @property
    def layer_tokens(self) -> int:
        """Layer tokens of all processes so far."""
        return self.router.layer_tokens * self.data_parallel_size

    def step(self, *_: Any, **__: Any) -> None:
        """Sets the rates for what has been processed up to now; to be called after each step."""
        self._set_rates()

    def get_last_lr(self) -> list[float]:
        """The rates of all groups."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    get_lr = get_last_lr

    def state_dict(self) -> dict[str, Any]:
        """The clock and the groups' own rates, as plain JSON data."""
        return {"layer_tokens": self.layer_tokens, "base_rates": list(self.base_rates)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on at the saved clock, with any number of processes."""
        self.base_rates = [float(rate) for rate in saved["base_rates"]]
        self.router.layer_tokens = int(saved["layer_tokens"]) // self.data_parallel_size
        self._set_rates()

    def _set_rates(self) -> None:
        factor = self.settings.factor(self.layer_tokens)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor


def attach_layer_token_lr(model_or_engine: Any, router: Router) -> None:
    """Gives an engine the schedule that the settings ask for.

    Raises:
        ValueError: if they ask for one and it is no engine with an optimizer, or has another schedule.
    """
    settings = router.settings.layer_token_lr
    if settings is None:
        return
    engine = model_or_engine
    if getattr(engine, "optimizer", None) is None:
        raise ValueError(
            "layer_token_lr_schedule is enabled, but there is no engine with an optimizer: disable it "
            "and make a LayerTokenLR yourself"
        )
    if getattr(engine, "lr_scheduler", None) is not None:
        raise ValueError(
            "layer_token_lr_schedule is enabled, but the engine has a learning-rate scheduler: remove "
            "one of them"
        )
    micro = engine.train_micro_batch_size_per_gpu() * engine.gradient_accumulation_steps()
    engine.lr_scheduler = LayerTokenLR(
        engine.optimizer, router, settings, engine.train_batch_size() // micro
    )
