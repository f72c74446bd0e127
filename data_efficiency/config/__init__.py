"""The JSON file in DeepSpeed's form <-> frozen dataclasses; their field docs document the keys."""

from data_efficiency.config.curriculum import LengthPlan, Selection
from data_efficiency.config.data_efficiency import DataEfficiencyConfig
from data_efficiency.config.file import Config, load_config, read_json
from data_efficiency.config.random_ltd import RandomLTDConfig

__all__ = [
    "Config",
    "DataEfficiencyConfig",
    "LengthPlan",
    "RandomLTDConfig",
    "Selection",
    "load_config",
    "read_json",
]
