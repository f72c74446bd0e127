#!/usr/bin/env bash
# Pretrains a GPT by a published recipe; the settings are those at the top of ../../../launch.sh.
#
#   bash ds_pretrain_gpt_1.3B_dense_run.sh list
#   DATA_PATH=tokens/my_text_document SAVE=runs/a bash ds_pretrain_gpt_1.3B_dense_run.sh [gpt_cl_ltd_300b]
set -euo pipefail

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../.." && pwd)"
if [[ "${1:-}" == list ]]; then
    PYTHONPATH="$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}" \
        exec "${PYTHON:-python}" "$REPOSITORY/tools/recipe.py" list gpt
fi
if [[ $# == 0 ]]; then set -- gpt_cl_ltd_300b; fi
exec bash "$REPOSITORY/examples_deepspeed/launch.sh" "$@"
