#!/usr/bin/env bash
# ViT-B/16 on CIFAR-10 with random-LTD: ../recipes/cifar.toml says what runs, and what was published.
#   bash run_cifar.sh --seed 1        ../../../launch.sh says how it is started
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/../../../launch.sh" \
    examples_deepspeed/data_efficiency/vit_finetuning/finetune.py --config cifar "$@"
