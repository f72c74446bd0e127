"""The `token_superposition` section of the JSON file <-> a frozen dataclass."""

from dataclasses import dataclass
from typing import Annotated, Literal

from data_efficiency.json_section import AtLeast, ConfigError, Faults, Positive, Section


@dataclass(frozen=True, kw_only=True)
class SuperpositionConfig:
    """Token superposition: in the first steps a position of the model stands for a bag of tokens.

    Source: Peng, Gigant and Quesnelle, "Token Superposition" (arXiv 2605.06546).
    """

    bag_size: Annotated[int, AtLeast(2)]
    """Tokens of a bag, which follow one another. A row of bags is so many samples, one after the other."""
    num_steps: Positive
    """Steps from the first on that see bags; the rest of the run is plain. Published: 0.2 to 0.4 of a run."""
    bags: Literal["both", "input", "output"] = "both"
    """both: a bag in, the tokens of the next one out. input: a bag in, the token behind it out. output: a token in, the
    next tokens out, which needs no more data than a plain step."""
    label_weights: Literal["uniform", "power_law"] = "uniform"
    """How the tokens of a bag count in the loss of a position: uniform, or power_law (the k-th as k^-power). Where bags
    are input, a position has one."""
    power: float = 1.0
    """Of power_law."""
    labels_are_next: bool = True
    """Whether a label is the token behind its position. false: the token at the position itself, as Hugging Face's
    models take it; the loader then gives the next one, in every step."""

    def is_on(self, step: int) -> bool:
        """Whether `step` sees bags; steps finished, from 0."""
        return step < self.num_steps

    def samples_per_row(self, step: int) -> int:
        """Samples that become one row at `step`; steps finished, from 0."""
        return self.tokens_per_position(step)

    def tokens_per_position(self, step: int) -> int:
        """Tokens that a position of the model stands for at `step`; steps finished, from 0."""
        return self.bag_size if self.is_on(step) and self.bags != "output" else 1

    @property
    def weights(self) -> tuple[float, ...]:
        """How much each token of a bag counts in the loss, together 1.

        Example:
            >>> settings = SuperpositionConfig(bag_size=2, num_steps=1, label_weights="power_law")
            >>> [round(weight, 3) for weight in settings.weights]
            [0.667, 0.333]
        """
        power = self.power if self.label_weights == "power_law" else 0.0
        parts = [float(place) ** -power for place in range(1, self.bag_size + 1)]
        return tuple(part / sum(parts) for part in parts)


@dataclass(frozen=True, kw_only=True)
class SuperpositionKeys:
    """Keys of `data_efficiency.data_routing.token_superposition` beside the fields of `SuperpositionConfig`."""

    enabled: bool = False
    """The switch of token superposition."""


def read_superposition(section: Section, seed: int) -> SuperpositionConfig | None:
    """The parsed section; None if it is off."""
    del seed  # nothing is drawn
    if not section.boolean("enabled", False):
        return None
    faults = Faults()
    faults.ask(lambda: section.read(SuperpositionKeys))
    config = faults.ask(lambda: section.read(SuperpositionConfig))
    faults.ask(section.close)
    faults.refuse()
    assert config is not None
    if config.label_weights == "uniform" and config.power != SuperpositionConfig.power:
        raise ConfigError(
            f"{section.path}.power is {config.power:g}, but label_weights is uniform, which has none: remove it, or say "
            "power_law"
        )
    if config.bags == "input" and config.label_weights != "uniform":
        raise ConfigError(
            f"{section.path}.label_weights is {config.label_weights}, but bags is input, where a position has one label: "
            "remove it, or let bags be both or output"
        )
    return config
