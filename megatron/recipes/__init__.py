"""Run files: whole runs in TOML, shipped ones by name, read, written, costed, and scaled down."""

from megatron.recipes.catalogue import SHIPPED, Catalogue
from megatron.recipes.cost import cost_line, counted_shape, planned_cost
from megatron.recipes.needed_indexes import analysis_commands
from megatron.recipes.run_file import (
    Layer,
    layer_of,
    read_json_layer,
    read_run_file,
    read_toml,
    write_run_file,
)
from megatron.recipes.scale_down import scale_down

__all__ = [
    "SHIPPED",
    "Catalogue",
    "Layer",
    "analysis_commands",
    "cost_line",
    "counted_shape",
    "layer_of",
    "planned_cost",
    "read_json_layer",
    "read_run_file",
    "read_toml",
    "scale_down",
    "write_run_file",
]
