#!/usr/bin/env bash
# GPT-2 medium (355M) on Penn Treebank with random-LTD: 2 epochs, kept 128 -> 1024 in 400 steps.
# Published: "epoch 3 step 1373 consumed_token 2147024 best perplexity 17.332 time 0.4661 hr" on one GPU.
#
#   bash run_medium_random_ltd.sh          PLAN=1 bash ... prints the accounting only
#   SIZE=cpu bash run_medium_random_ltd.sh SmolLM2-135M on Wikipedia, some minutes on two cores
# Settings: see ../../finetuning/launch.sh
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=quick_recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/quick_recipe.sh"
quick_recipe gpt2-medium gpt2_medium_random_ltd.json 24 2
