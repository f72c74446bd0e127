"""Whole runs as small TOML files: read, turned into flags and JSON, costed, and scaled down."""

from megatron.recipes.catalogue import Catalogue
from megatron.recipes.cost import cost_line, planned_cost
from megatron.recipes.recipe import Recipe, read_recipe
from megatron.recipes.rendering import PreparedRun, prepare_run
from megatron.recipes.scale_down import scale_down

__all__ = [
    "Catalogue",
    "PreparedRun",
    "Recipe",
    "cost_line",
    "planned_cost",
    "prepare_run",
    "read_recipe",
    "scale_down",
]
