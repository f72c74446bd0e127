# shellcheck shell=bash
# Sourced by run_base_random_ltd.sh and run_medium_random_ltd.sh, which differ in their model alone.

# shellcheck source-path=SCRIPTDIR source=../../finetuning/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../finetuning/launch.sh"
CONFIGS="$EXAMPLES/gpt_finetuning/configs"

# quick_recipe MODEL CONFIG NUM_LAYERS EVAL_BATCH
quick_recipe() {
    local flags=(--variant random_ltd --lr-decay constant --learning-rate 5e-5 --epochs 2)
    if [[ "$SIZE" == cpu ]]; then
        prepare_cpu_text
        flags+=(--model "$DATA/smollm2" --text "$DATA/wikipedia.jsonl" --recipe "$CONFIGS/reshape.json")
        flags+=(--block-size 128 --max-train-blocks 32 --max-eval-blocks 16 --epochs 1 --bf16)
        flags+=(--warmup-steps 4 --random-ltd-share 0.76 --eval-interval 4 --eval-batch-size 8)
        flags+=(--batch-size 4 --micro-batch-size 2)
    else
        # The last --num-blocks is Penn Treebank's: needed by a plan alone, which reads no text.
        flags+=(--model "$1" --text ptb_text_only --text-config penn_treebank --recipe "$CONFIGS/$2")
        flags+=(--group-rows 1000 --no-separator --warmup-steps 100 --eval-batch-size "$4")
        flags+=(--eval-interval 10 --num-blocks 1048 --num-layers "$3")
    fi
    if [[ -n "${PLAN:-}" ]]; then flags+=(--plan); fi
    train gpt_finetuning.finetune "${flags[@]}" --save "${SAVE:-runs/$1_random_ltd_$SIZE}" --export
}
