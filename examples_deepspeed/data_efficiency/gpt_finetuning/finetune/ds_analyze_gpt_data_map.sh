#!/usr/bin/env bash
# How rare are the words of each block? The analysis for CURRICULUM=rarity of ds_finetune_gpt2_run.sh.
# A finetuning text takes seconds, so mapping and reducing are one command: this script does both, for
# frequencies and then rarity; ds_analyze_gpt_data_reduce.sh finds them done, or does what is missing.
#
#   MODEL=gpt2 TEXT=ptb_text_only TEXT_CONFIG=penn_treebank SAVE=difficulty bash ds_analyze_gpt_data_map.sh
#   SIZE=cpu bash ds_analyze_gpt_data_map.sh            Wikipedia text from packages
# Settings: METRIC=vocab_rarity, BLOCK_SIZE=1024, GROUP_ROWS=1000, NUM_PROCESSES=1, and those of
# ../../finetuning/launch.sh. The text must be cut as in training, or training refuses the index.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../../finetuning/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../finetuning/launch.sh"

if [[ "$SIZE" == cpu ]]; then
    prepare_cpu_text
    text=(--model "$DATA/smollm2" --text "$DATA/wikipedia.jsonl" --block-size 128)
    text+=(--max-train-blocks 160)
else
    text=(--model "${MODEL:-gpt2}" --text "${TEXT:-ptb_text_only}")
    text+=(--text-config "${TEXT_CONFIG:-penn_treebank}" --block-size "${BLOCK_SIZE:-1024}")
    text+=(--group-rows "${GROUP_ROWS:-1000}" --no-separator)
fi
alone gpt_finetuning.analyze_data "${text[@]}" --metric "${METRIC:-vocab_rarity}" \
    --output "${SAVE:-runs/gpt2_difficulty_$SIZE}" --num-processes "${NUM_PROCESSES:-1}"
