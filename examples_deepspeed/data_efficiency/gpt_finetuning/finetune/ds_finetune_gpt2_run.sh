#!/usr/bin/env bash
# The published sweep: baseline, random-LTD, curriculum, and both, on one budget of consumed_token; then one report.
#   SAVE=runs/sweep bash ds_finetune_gpt2_run.sh --seeds 1 2 3      [--recipe ../recipes/truncate.toml]
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" SAVE="${SAVE:-runs/gpt2_sweep}" LAUNCH=../../launch.sh
bash "$HERE/$LAUNCH" examples_deepspeed/data_efficiency/gpt_finetuning/finetune.py --recipe "$HERE/recipes/reshape.toml" \
    --save "$SAVE" "$@" --variant baseline random_ltd curriculum both
[[ " $* " == *" --plan "* ]] || LAUNCHER=single bash "$HERE/$LAUNCH" tools/report.py --output "$SAVE/comparison" --run \
    baseline="$SAVE/baseline" --run random_ltd="$SAVE/random_ltd" --run curriculum="$SAVE/curriculum" --run both="$SAVE/both"
