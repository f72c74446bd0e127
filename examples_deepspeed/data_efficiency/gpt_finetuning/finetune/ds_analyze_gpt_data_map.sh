#!/usr/bin/env bash
# How rare are the words of each block? For ../recipes/rarity.toml; a text of this size is mapped and reduced at once.
#   bash ds_analyze_gpt_data_map.sh --model gpt2-medium --text ptb_text_only --text-config penn_treebank \
#       --group-rows 1000 --no-separator --output difficulty       then: --index difficulty/vocab_rarity
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
LAUNCHER=single exec bash "$HERE/../../launch.sh" examples_deepspeed/data_efficiency/gpt_finetuning/analyze_data.py "$@"
