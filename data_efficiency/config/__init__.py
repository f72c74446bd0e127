"""The JSON file in DeepSpeed's form <-> frozen dataclasses; their field docs document the keys."""

from data_efficiency.config.batch_size import BatchSize
from data_efficiency.config.data_efficiency import DataEfficiencyConfig
from data_efficiency.config.feedback import Feedback
from data_efficiency.config.file import Config, ConfigSource, load_config, read_json
from data_efficiency.config.layer_dropout import LayerDropoutConfig
from data_efficiency.config.length_buckets import LengthBuckets
from data_efficiency.config.metric_keys import paces_length
from data_efficiency.config.metrics import WINDOWS, LengthPlan, Selection
from data_efficiency.config.mix import Mix, normalised
from data_efficiency.config.order import Order
from data_efficiency.config.random_ltd import OpenRandomLTD, RandomLTDConfig, filled_random_ltd
from data_efficiency.config.routing import RoutingConfig
from data_efficiency.config.short_form import (
    Curriculum,
    LayerDropout,
    RandomLTD,
    TokenSuperposition,
)
from data_efficiency.config.superposition import SuperpositionConfig
from data_efficiency.config.written import section_of

__all__ = [
    "WINDOWS",
    "BatchSize",
    "Config",
    "ConfigSource",
    "Curriculum",
    "DataEfficiencyConfig",
    "Feedback",
    "LayerDropout",
    "LayerDropoutConfig",
    "LengthBuckets",
    "LengthPlan",
    "Mix",
    "OpenRandomLTD",
    "Order",
    "RandomLTD",
    "RandomLTDConfig",
    "RoutingConfig",
    "Selection",
    "SuperpositionConfig",
    "TokenSuperposition",
    "filled_random_ltd",
    "load_config",
    "normalised",
    "paces_length",
    "read_json",
    "section_of",
]
