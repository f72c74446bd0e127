#!/usr/bin/env bash
# Pretrains a GPT by a published recipe; `list` names them, and ../../../launch.sh says how it is started.
#   bash ds_pretrain_gpt_1.3B_dense_run.sh gpt_cl_ltd_300b --data-path tokens/my_text_document --save runs/a
set -euo pipefail

if [[ "${1:--}" == -* ]]; then set -- gpt_cl_ltd_300b "$@"; fi
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../../launch.sh" pretrain_gpt.py --config "$@"
