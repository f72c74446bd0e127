#!/usr/bin/env bash
# How difficult is each sample of a GPT corpus? The reduce step: the workers' parts become one index.
#
#   DATA_PATH=tokens/my_text_document SEQ_LENGTH=2048 SAVE=difficulty bash ds_analyze_gpt_data_reduce.sh
#
# The settings are those of ds_analyze_gpt_data_map.sh, which with LAUNCHER=slurm submits this step too.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../analysis_jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/../analysis_jobs.sh"
set_dataset gpt
reduce_step "$METRIC" "${DATASET[@]}"
