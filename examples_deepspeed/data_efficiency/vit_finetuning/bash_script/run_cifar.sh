#!/usr/bin/env bash
# ViT-B/16 (ImageNet-21k -> 1k weights) on CIFAR-10 with random-LTD: 14 epochs of 391 steps of 128 images,
# SGD 1e-4, kept 32 -> 197. Published: val_acc 97.97, layer_token 305784192, which counts 32 images a step;
# 128 are trained on, and the true figure is 1223136768 (--plan prints both).
#
#   bash run_cifar.sh                              in .venv-vit where it is (make vit-test makes it)
#   VARIANT=baseline bash run_cifar.sh             without random-LTD
#   VARIANT=both SIZE=cpu bash run_cifar.sh        with plain images first, too: analyzes them before
#   SIZE=cpu START_LENGTH=24 SHARE=0.5 bash ...    keep more at first, and for a shorter part of the run
#   SIZE=cpu EPOCHS=1.02 bash ...                  three times as long; 0.34 if not given
#   DATASET=cifar100 bash run_cifar.sh
#   SIZE=cpu bash run_cifar.sh                     DINOv2 ViT-S and images from packages, without torchvision
#   PLAN=1 bash run_cifar.sh                       the accounting only
#   KEEP_CLASS_TOKEN=1 bash run_cifar.sh           no layer drops the class token
# Settings: see ../../finetuning/launch.sh
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../../finetuning/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../finetuning/launch.sh"
use_timm_environment
CONFIGS="$EXAMPLES/vit_finetuning/configs"

if [[ "$SIZE" == cpu ]]; then
    prepare_cpu_images
    flags=(--model "$DATA/dinov2" --data folder --data-folder "$DATA/cifar10")
    flags+=(--recipe "$CONFIGS/both.json" --image-size 84 --validation-share 0.05)
    flags+=(--optimizer adamw --learning-rate 1e-4 --lr-decay linear --warmup-steps 8)
    flags+=(--weight-decay 0.05 --bf16 --eval-batch-size 50 --eval-interval 40 --save-interval 40)
    flags+=(--batch-size 32 --micro-batch-size 32 --epochs "${EPOCHS:-0.34}" --budget layer_tokens --start-length "${START_LENGTH:-6}")
    flags+=(--random-ltd-share "${SHARE:-0.71}")
    flags+=(--curriculum-share 0.3 --num-samples 7600 --num-positions 37)
    if [[ "${VARIANT:-}" == both || "${VARIANT:-}" == curriculum ]]; then
        alone vit_finetuning.analyze_images --data-folder "$DATA/cifar10" --validation-share 0.05 \
            --output "$DATA/cifar10_difficulty"
        flags+=(--index "$DATA/cifar10_difficulty/compressed_size")
    fi
else
    flags=(--model timm:vit_base_patch16_224.augreg_in21k_ft_in1k --data "${DATASET:-cifar10}")
    flags+=(--data-folder "$DATA" --recipe "$CONFIGS/cifar_random_ltd.json" --validation-share 0)
    flags+=(--epochs 14 --optimizer sgd --learning-rate 1e-4 --weight-decay 5e-4)
    flags+=(--eval-batch-size 128 --eval-interval 391 --save-interval 391)
    flags+=(--num-samples 50000 --counted-batch 32)
fi
if [[ -n "${KEEP_CLASS_TOKEN:-}" ]]; then flags+=(--keep-class-token); fi
if [[ -n "${PLAN:-}" ]]; then flags+=(--plan); fi
train vit_finetuning.finetune "${flags[@]}" --variant "${VARIANT:-random_ltd}" \
    --save "${SAVE:-runs/vit_${DATASET:-cifar10}_$SIZE}" --export
