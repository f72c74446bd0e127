#!/usr/bin/env bash
# The published sweep: baseline, random-LTD, curriculum, and both, on one budget of consumed_token; then
# one table, JSON and picture. GPT-2 medium on Penn Treebank, 5 epochs (1310 steps of 4 x 1024 tokens),
# rate 1e-4 falling linearly to 0 on consumed_token. Published medians of 5 seeds, validation perplexity:
# baseline 16.08, curriculum 15.9, random-LTD 15.91 to 15.95, both 15.83.
#
#   bash ds_finetune_gpt2_run.sh                        DRY_RUN=1 prints the commands; PLAN=1 the accounting
#   SEEDS="1 2 3" SIZE=cpu bash ds_finetune_gpt2_run.sh SmolLM2-135M on Wikipedia: about 50 minutes a seed
#   EPOCHS=0.25 SIZE=cpu bash ds_finetune_gpt2_run.sh  a quarter of that, to see it work
#   CURRICULUM=truncate|reshape|rarity                  rarity analyzes the text first
#   VARIANTS="baseline random_ltd"                      only some of the four
# Other settings: see ../../finetuning/launch.sh. Started again, it goes on where it stopped.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../../finetuning/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../finetuning/launch.sh"

CURRICULUM="${CURRICULUM:-reshape}"
SAVE="${SAVE:-runs/gpt2_sweep_$SIZE}"
read -r -a variants <<<"${VARIANTS:-baseline random_ltd curriculum both}"
[[ "$CURRICULUM" =~ ^(truncate|reshape|rarity)$ ]] || fail "CURRICULUM is $CURRICULUM: truncate, reshape or rarity"

if [[ "$SIZE" == cpu ]]; then
    prepare_cpu_text
    text=(--model "$DATA/smollm2" --text "$DATA/wikipedia.jsonl" --block-size 128)
    text+=(--max-train-blocks 160 --max-eval-blocks 48)
    flags=(--epochs "${EPOCHS:-1}" --batch-size 4 --micro-batch-size 4 --eval-batch-size 8 --curriculum-start 16)
    flags+=(--warmup-steps 4 --bf16 --eval-interval 20 --save-interval 20)
else
    text=(--model "${MODEL:-gpt2-medium}" --text ptb_text_only --text-config penn_treebank)
    text+=(--group-rows 1000 --no-separator)
    flags=(--epochs 5 --batch-size 4 --micro-batch-size 2 --eval-batch-size 2 --eval-interval 26)
    flags+=(--num-blocks 1048)
    # A plan reads no model from the hub.
    if [[ -z "${MODEL:-}" ]]; then flags+=(--num-layers 24); fi
fi
flags+=(--learning-rate 1e-4 --lr-decay linear --recipe "$EXAMPLES/gpt_finetuning/configs/$CURRICULUM.json")
if [[ "$CURRICULUM" == rarity ]]; then
    alone gpt_finetuning.analyze_data "${text[@]}" --output "$SAVE/difficulty"
    flags+=(--index "$SAVE/difficulty/vocab_rarity")
fi
if [[ -n "${PLAN:-}" ]]; then flags+=(--plan); fi

compared=()
for variant in "${variants[@]}"; do
    # Composed with random-LTD the best curriculum is much shorter than alone.
    share=0.7
    if [[ "$variant" == both ]]; then share=0.1; fi
    train gpt_finetuning.finetune "${text[@]}" "${flags[@]}" --variant "$variant" \
        --random-ltd-share 0.3 --curriculum-share "$share" --save "$SAVE"
    compared+=(--run "$variant=$SAVE/$variant")
done
if [[ -z "${PLAN:-}" ]]; then
    start "$PYTHON" "$REPOSITORY/tools/report.py" "${compared[@]}" --baseline "${variants[0]}" --output "$SAVE/comparison"
fi
