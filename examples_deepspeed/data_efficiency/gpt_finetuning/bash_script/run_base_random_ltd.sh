#!/usr/bin/env bash
# GPT-2 (124M) on Penn Treebank with random-LTD: ../recipes/gpt2_random_ltd.toml says what runs, and what was published.
#   bash run_base_random_ltd.sh --seed 1        ../../../launch.sh says how it is started
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/../../../launch.sh" \
    examples_deepspeed/data_efficiency/gpt_finetuning/finetune.py --config gpt2_random_ltd "$@"
