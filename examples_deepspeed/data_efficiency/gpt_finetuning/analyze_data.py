r"""How difficult is each block of a text? The indexes that a run's curriculum draws by.

python examples_deepspeed/data_efficiency/gpt_finetuning/analyze_data.py --config rarity

Run file and flags are those of finetune.py: the index of each metric is made where the run looks for it, below
`--difficulty`. An index of other blocks is refused there.
"""

from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

from data_efficiency import analyze
from examples_deepspeed.data_efficiency.gpt_finetuning.text_blocks import split_blocks
from megatron.arguments import parse_run_config
from megatron.engine_json import METRICS, engine_json
from megatron.finetuning.section import planned_json
from megatron.nested_keys import value_at


def main(argv: Sequence[str] | None = None) -> None:
    """Compute what is not there, and say where."""
    config = parse_run_config(
        __doc__ or "", argv, architecture="gpt_finetuning", json_of=planned_json
    )
    metrics = value_at(engine_json(config), METRICS) or {}
    folders = [Path(one["index_path"]) for one in metrics.values() if one.get("index_path")]
    if not folders:
        raise ValueError("the run file has no metric that selects samples: nothing to analyze")
    blocks = split_blocks(config)["train"]
    for folder in folders:
        processes = max(1, config.data.num_workers)
        analyze(blocks, folder.name, str(folder.parent), num_processes=processes)
        print(f"{len(blocks)} blocks: {folder}")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
