"""The commands that make the difficulty indexes which a run needs and which are not there."""

from data_efficiency import ConfigError, load_config
from data_efficiency.analysis.named_metrics import METRICS
from data_efficiency.files import location
from megatron.config import DataConfig, RunConfig
from megatron.engine_json import engine_json


def analysis_commands(config: RunConfig) -> list[list[str]]:
    """Arguments of `tools/analyze_data.py run` for each index that a run needs and that is not there.

    An index is of the metric that its folder is named after.

    Raises:
        ConfigError: for one that no metric of ours makes.
    """
    data = config.data
    dataset = ["--data-path", *data.data_path, "--split", data.split]
    dataset += ["--seq-length", str(data.seq_length), "--data-type", config.architecture]
    if data.shortest_piece is not None:
        dataset += ["--shortest-piece", str(data.shortest_piece)]
    for name in ("tokenizer_file", "vocab_file", "merge_file"):
        if getattr(data, name) is not None:
            dataset += [f"--{name.replace('_', '-')}", getattr(data, name)]
    if config.architecture == "bert":
        for name in ("short_seq_prob", "sample_seed"):
            if getattr(data, name) != getattr(DataConfig, name):
                dataset += [f"--{name.replace('_', '-')}", str(getattr(data, name))]
    section = load_config(engine_json(config)).data_efficiency
    folders = [location(selection.index_path) for selection in section.selections]
    missing = [folder for folder in folders if not (folder / "manifest.json").exists()]
    for folder in missing:
        if folder.name not in METRICS:
            raise ConfigError(
                f"the index {folder} is not there, and {folder.name} is no metric that is computed here "
                f"({', '.join(METRICS)}): make it of scores of your own, tools/analyze_data.py import --format scores "
                f"--metric {folder.name} --save {folder.parent}"
            )
    return [[*dataset, "--metric", folder.name, "--save", str(folder.parent)] for folder in missing]
