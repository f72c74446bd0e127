#!/usr/bin/env bash
# A BERT finetuned on the eight GLUE tasks with the published hyperparameters: 4 learning rates x 5 seeds.
#
#   CHECKPOINT=runs/bert DATA=glue SAVE=results/bert bash ds_finetune_bert_glue_run.sh
#
#   CHECKPOINT=            a run of ours or a Hugging Face BERT
#   DATA=                  folder of the tasks' folders (docs/glue.md), or hub
#   SAVE=                  one JSON file a run; finished ones are left as they are
#   TASKS= SEEDS= LEARNING_RATES=   with commas; all published ones if not given
#   DEVICES=               with spaces: one program for each of them, such as "0 1" (as CUDA_VISIBLE_DEVICES
#                          counts GPUs) or "cpu"; one program on the GPU, or the CPU, if not given
#   NPROC=1                processes that share each run, where DEVICES is not given
#   DEEPSPEED_CONFIG=      JSON file: drop tokens as it says, ZeRO stage
#   FLAGS="..."            more flags for tools/finetune_bert.py, such as --bf16
#   PYTHON=python          interpreter
#   DRY_RUN=1              print the commands and do nothing
set -euo pipefail

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../.." && pwd)"
PYTHON="${PYTHON:-python}"
read -r -a MORE_FLAGS <<<"${FLAGS:-}"
read -r -a PLACES <<<"${DEVICES:-}"

for name in CHECKPOINT DATA SAVE; do
    if [[ -z "${!name:-}" ]]; then
        echo "error: $name is not set; it is described at the top of ${0##*/}" >&2
        exit 1
    fi
done

environment=("PYTHONPATH=$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}")
launcher=("$PYTHON")
if [[ "${NPROC:-1}" != 1 && ${#PLACES[@]} == 0 ]]; then
    launcher+=(-m torch.distributed.run --standalone --nproc_per_node "$NPROC")
fi

# execute ARGUMENT...: becomes tools/finetune_bert.py, or prints its command line
execute() {
    set -- env "${environment[@]}" "${launcher[@]}" "$REPOSITORY/tools/finetune_bert.py" --output "$SAVE" "$@"
    if [[ -n "${DRY_RUN:-}" ]]; then
        printf '%q ' "$@"
        printf '\n'
    else
        exec "$@"
    fi
}

flags=(--checkpoint "$CHECKPOINT" --data "$DATA"
    ${TASKS:+--tasks "$TASKS"} ${SEEDS:+--seeds "$SEEDS"}
    ${LEARNING_RATES:+--learning-rates "$LEARNING_RATES"}
    ${DEEPSPEED_CONFIG:+--deepspeed-config "$DEEPSPEED_CONFIG"} ${MORE_FLAGS[@]+"${MORE_FLAGS[@]}"})
# only_on DEVICE: what follows sees no other
only_on() { environment+=("CUDA_VISIBLE_DEVICES=${1#cpu}"); }

if [[ ${#PLACES[@]} -le 1 ]]; then
    if [[ ${#PLACES[@]} == 1 ]]; then only_on "${PLACES[0]}"; fi
    execute "${flags[@]}"
    exit
fi
processes=()
for i in "${!PLACES[@]}"; do
    (only_on "${PLACES[i]}" && execute "${flags[@]}" --num-workers "${#PLACES[@]}" --worker-id "$i") &
    processes+=($!)
    # Printed commands keep their order.
    if [[ -n "${DRY_RUN:-}" ]]; then wait "${processes[i]}"; fi
done
# What runs in the background does not hear of an interrupt by itself.
trap 'kill "${processes[@]}" 2>/dev/null; echo "Stopped; the same command goes on from here." >&2; exit 130' INT TERM
for process in "${processes[@]}"; do
    wait "$process"
done
execute --table
