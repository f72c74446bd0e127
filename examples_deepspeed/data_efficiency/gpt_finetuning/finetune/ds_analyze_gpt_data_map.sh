#!/usr/bin/env bash
# How rare are the words of each block? For ../recipes/rarity.toml; a text of this size is mapped and reduced at once.
#   bash ds_analyze_gpt_data_map.sh --difficulty difficulty      then: finetune.py --config rarity --difficulty difficulty
set -euo pipefail

LAUNCHER=single exec bash "$(dirname "${BASH_SOURCE[0]}")/../../../launch.sh" \
    examples_deepspeed/data_efficiency/gpt_finetuning/analyze_data.py --config rarity "$@"
