#!/usr/bin/env bash
# ViT-B/16 on CIFAR-10 with random-LTD: ../recipes/cifar.toml says what runs, and what was published.
#   bash run_cifar.sh --seeds 1 2 3        --plan prints the accounting alone, ../../../launch.sh says how it is started
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exec bash "$HERE/../../launch.sh" examples_deepspeed/data_efficiency/vit_finetuning/finetune.py \
    --recipe "$HERE/recipes/cifar.toml" "$@"
