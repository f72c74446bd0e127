#!/usr/bin/env bash
# How difficult is each sample of a GPT corpus? The reduce step: the workers' parts become one index.
#   bash ds_analyze_gpt_data_reduce.sh --data-path tokens/my_text_document --seq-length 2048 --save difficulty
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../../slurm/jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../slurm/jobs.sh"
analysis reduce --data-type gpt --metric vocab_rarity "$@"
