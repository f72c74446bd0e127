"""A GPT whose layers but the first and last are routed: its sizes, its operations, and what switches it on."""

from dataclasses import dataclass
from typing import Any, Literal

from data_efficiency import training_flops
from data_efficiency.config import load_config
from megatron.config import ModelConfig
from megatron.run_state import model_shape

KEPT_PERCENT = (25, 50, 75)
Route = Literal["random_ltd", "span", "layer_dropout"]
"""What the layers but the first and last do: each drops tokens of its own, all drop the same, or rows skip them."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The model, its batch and the number of rounds."""

    num_layers: int = 12
    hidden_size: int = 512
    num_heads: int = 8
    vocab_size: int = 8192
    sequence_length: int = 1024
    num_rows: int = 2
    num_rounds: int = 7

    def config(self) -> ModelConfig:
        """The model's settings."""
        return ModelConfig(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_heads,
            vocab_size=self.vocab_size,
            max_position_embeddings=self.sequence_length,
        )

    def flops(self, percent: int, route: Route = "random_ltd") -> int:
        """Operations of a step when the routed layers keep so many percent of the tokens, or rows."""
        settings = route_settings(self.num_layers, percent, route, self.num_rows)
        routing = load_config(settings).data_efficiency.routing(self.num_layers)
        assert routing is not None
        rows = routing.shape(0, self.num_rows, self.sequence_length)
        # A causal query looks at half the keys on average: half of 12 x length^2 x hidden size a layer.
        squares = (self.num_layers - rows.num_dropping_layers) * rows.sequence_length**2
        squares += rows.num_dropping_layers * rows.dropped_sequence_length**2
        squares *= self.num_rows
        squares -= sum(one * length**2 for length, one in rows.skipped_by_length.items())
        return training_flops(rows, model_shape(self.config())) - 6 * self.hidden_size * squares


def route_settings(num_layers: int, percent: int, route: Route, num_rows: int) -> dict[str, Any]:
    """The configuration by which all layers but the first and last keep so many percent of the tokens, or rows."""
    layers = [*range(1, num_layers - 1)]
    if route == "layer_dropout":
        section = {
            "enabled": True,
            "rows_per_group": num_rows,
            "layer_id": layers,
            "depth": "uniform",
            "keep_schedule": {"schedule_type": "constant", "min_value": percent},
        }
        return {"data_efficiency": {"data_routing": {"layer_dropout": section}}}
    settings = dropping_settings(num_layers, percent)
    if route == "span":
        routing = settings["data_efficiency"]["data_routing"]
        routing["random_ltd"]["random_ltd_layer_id"] = [layers]
    return settings


def dropping_settings(num_layers: int, percent: int) -> dict[str, Any]:
    """The configuration by which all layers but the first and last keep so many percent of the tokens."""
    return {
        "data_efficiency": {
            "data_routing": {
                "random_ltd": {
                    "enabled": True,
                    "total_layer_num": num_layers,
                    "random_ltd_layer_num": num_layers - 2,
                    "random_ltd_layer_id": list(range(1, num_layers - 1)),
                    "model_mask_name": "attention_mask",
                    "model_type": "decoder",
                    "hidden_state_order": "batch_seq_dim",
                    "random_ltd_schedule": {
                        "schedule_type": "constant",
                        "unit": "percent",
                        "min_value": percent,
                    },
                }
            }
        }
    }
