"""Data-efficient training of transformers: curriculum sampling and random layerwise token dropping.

The three steps of a run, each usable alone:

    DataAnalyzer(dataset, ...).run_map_reduce()           how hard is each sample? -> DifficultyIndex
    engine, _, loader, _ = initialize(model=model, training_data=dataset, config="config.json")
    convert_to_random_ltd(engine, TransformerLayer)       chosen layers see a random part of the tokens
"""

from data_efficiency import files, hashing
from data_efficiency.accounting import (
    IGNORED_LABEL,
    Clock,
    Counters,
    LearningRate,
    ModelShape,
    StepShape,
    actual_seq_length,
    layer_tokens,
    training_flops,
)
from data_efficiency.analysis.data_analyzer import DataAnalyzer
from data_efficiency.analysis.named_metrics import MetricSettings, analyze
from data_efficiency.analysis.reference_loss import ReferenceModel
from data_efficiency.config import DataEfficiencyConfig, load_config, read_json
from data_efficiency.differences import differing_leaves
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.engine import initialize
from data_efficiency.engine.protocol import Engine
from data_efficiency.engine.ranks import Ranks, leave_ranks, naming_lost_processes, start_ranks
from data_efficiency.engine.step import NonFiniteError, StepResult, mean_losses_over
from data_efficiency.engine.watch import watching_processes
from data_efficiency.engine.whole_tensor import WholeTensor, gather_all, whole_tensors
from data_efficiency.files import mmididx, result_folder
from data_efficiency.json_section import ConfigError, refuse_unknown
from data_efficiency.plan import RunPlan, plan_run, planned_totals
from data_efficiency.plan_warnings import DecayEnd, plan_warnings
from data_efficiency.progress import Progress
from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.routing.layer_presets import known_layer_class
from data_efficiency.routing.random_ltd import (
    convert_to_random_ltd,
    remove_random_ltd_state_dict,
    save_without_random_ltd,
)
from data_efficiency.sampling.loader import CurriculumDataLoader
from data_efficiency.sampling.sampler import CurriculumSampler, SamplerIdentity
from data_efficiency.schedule import Schedule, register_schedule

__all__ = [
    "IGNORED_LABEL",
    "Clock",
    "ConfigError",
    "Counters",
    "CurriculumDataLoader",
    "CurriculumSampler",
    "DataAnalyzer",
    "DataEfficiencyConfig",
    "DecayEnd",
    "DifficultyIndex",
    "Engine",
    "LayerInterface",
    "LearningRate",
    "MetricSettings",
    "ModelShape",
    "NonFiniteError",
    "Progress",
    "Ranks",
    "ReferenceModel",
    "RunPlan",
    "SamplerIdentity",
    "Schedule",
    "StepResult",
    "StepShape",
    "WholeTensor",
    "actual_seq_length",
    "analyze",
    "convert_to_random_ltd",
    "differing_leaves",
    "files",
    "gather_all",
    "hashing",
    "initialize",
    "known_layer_class",
    "layer_tokens",
    "leave_ranks",
    "load_config",
    "mean_losses_over",
    "mmididx",
    "naming_lost_processes",
    "plan_run",
    "plan_warnings",
    "planned_totals",
    "read_json",
    "refuse_unknown",
    "register_schedule",
    "remove_random_ltd_state_dict",
    "result_folder",
    "save_without_random_ltd",
    "start_ranks",
    "training_flops",
    "watching_processes",
    "whole_tensors",
]
