#!/usr/bin/env bash
# GPT-2 (124M) on Penn Treebank with random-LTD: ../recipes/gpt2_random_ltd.toml says what runs, and what was published.
#   bash run_base_random_ltd.sh --seeds 1 2 3        --plan prints the accounting alone, ../../../launch.sh says how it is started
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exec bash "$HERE/../../launch.sh" examples_deepspeed/data_efficiency/gpt_finetuning/finetune.py \
    --recipe "$HERE/recipes/gpt2_random_ltd.toml" "$@"
