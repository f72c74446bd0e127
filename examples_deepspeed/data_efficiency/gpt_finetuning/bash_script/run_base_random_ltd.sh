#!/usr/bin/env bash
# GPT-2 (124M) on Penn Treebank with random-LTD: 2 epochs, kept 128 -> 1024 in 400 steps.
# Published: "epoch 3 step 1344 consumed_token 2148032 best perplexity 22.552 time 0.1749 hr" on one GPU.
#
#   bash run_base_random_ltd.sh          PLAN=1 bash ... prints the accounting only
#   SIZE=cpu bash run_base_random_ltd.sh SmolLM2-135M on Wikipedia, some minutes on two cores
# Settings: see ../../finetuning/launch.sh
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=quick_recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/quick_recipe.sh"
quick_recipe gpt2 gpt2_random_ltd.json 12 4
