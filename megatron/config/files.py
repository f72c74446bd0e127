"""What a run is read from."""

from dataclasses import dataclass

from megatron.setting_rules import Settings


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Settings):
    """What a run is read from; flags override what a run file says."""

    config: str | None = None
    """Run file (.toml), or the name of a shipped one; `--config list` names them."""
    deepspeed_config: str | None = None
    """JSON file in DeepSpeed's form. What it says of a setting, no flag may contradict."""
    print_json: bool = False
    """Print the JSON object that the engine gets, and train nothing."""


@dataclass(frozen=True, kw_only=True)
class FilesConfig(SourceConfig):
    """What a run is read from; flags override what a run file says."""

    model: str | None = None
    """Name, or .toml file, of another model than the run file's; `gpt_125m` for example."""
    scale_down: bool = False
    """The same shape so small that a CPU runs it in seconds; flags count after it."""
    print_analysis: bool = False
    """Print the flags of `tools/analyze_data.py run`, a line for each difficulty index that is needed and not
    there, and train nothing."""
