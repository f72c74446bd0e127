#!/usr/bin/env bash
# How difficult is each sample of a GPT corpus? The map step; with LAUNCHER=slurm the reduce step, too.
#   bash ds_analyze_gpt_data_map.sh --data-path tokens/my_text_document --seq-length 2048 --save difficulty
# Flags are those of tools/analyze_data.py map, settings those at the top of ../../slurm/jobs.sh.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../../slurm/jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../slurm/jobs.sh"
analyze --data-type gpt --metric vocab_rarity "$@"
