"""DeepSpeed's published names that do nothing here, so that what was written for it runs."""

from typing import Self


class PublishedRouterNames:
    """What DeepSpeed's engine calls on a model's `random_ltd_scheduler`."""

    def update_seq(self, global_steps: int) -> None:
        """Do nothing: the kept length follows the position that the router was told."""


class PublishedLoaderNames:
    """What DeepSpeed's checkpoints ask of its `training_dataloader`."""

    @property
    def data_sampler(self) -> Self:
        """The loader itself: its state is all there is."""
        return self


def refuse_analyzer_hooks(**hooks: object) -> None:
    """Raise ValueError if one of the hooks of DeepSpeed's DataAnalyzer is given."""
    for name, hook in hooks.items():
        if hook is not None:
            raise ValueError(f"{name} is not supported; write a metric function instead")
