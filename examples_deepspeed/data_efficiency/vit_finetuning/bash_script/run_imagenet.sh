#!/usr/bin/env bash
# ViT-B/16 on ImageNet with random-LTD: ../recipes/imagenet.toml says what runs, and what was published.
#   bash run_imagenet.sh --folder /data/imagenet        ../../../launch.sh says how it is started
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/../../../launch.sh" \
    examples_deepspeed/data_efficiency/vit_finetuning/finetune.py --config imagenet "$@"
