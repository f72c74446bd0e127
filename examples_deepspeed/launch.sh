#!/usr/bin/env bash
# Starts a recipe, or goes on with it, on what it finds: one process, torchrun, deepspeed, or srun.
#
#   DATA_PATH=tokens/my_text_document SAVE=runs/a bash launch.sh gpt_cl_ltd_300b [--flag of the trainer ...]
#   SCALE_DOWN=1 ...       the same shape in seconds on a CPU
#   DRY_RUN=1 ...          prints the commands, and the recipe in full, and does nothing
#
#   DIFFICULTY=difficulty  folder of the difficulty indexes
#   LAUNCHER=              single, torchrun, deepspeed or srun; by default srun inside a SLURM job,
#                          deepspeed where HOSTFILE is set, torchrun with several accelerators
#   NUM_PROCESSES=         on this machine (torchrun); of the job, by default what srun starts
#   EVALUATE=1             measures a finished run on the whole validation split, and trains no step
#   MODEL= ENGINE= SEED= MICRO_BATCH_SIZE=   instead of the recipe's
#   PYTHON=python
set -euo pipefail

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python}"
DRY_RUN="${DRY_RUN:-}"
LAUNCHER="${LAUNCHER:-}"
HOSTFILE="${HOSTFILE:-}"
export PYTHONPATH="$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}"

fail() {
    echo "error: $*" >&2
    exit 1
}

if [[ $# == 0 ]]; then fail "name a recipe; python tools/recipe.py list shows all"; fi
RECIPE="$1"
shift
for name in DATA_PATH SAVE; do
    if [[ -z "${!name:-}" ]]; then
        fail "$name is not set; it is described at the top of ${0##*/}"
    fi
done

num_accelerators() {
    "$PYTHON" -c 'import torch; print(torch.accelerator.device_count())'
}

if [[ -z "$LAUNCHER" ]]; then
    if [[ -n "${SLURM_JOB_ID:-}" ]]; then
        LAUNCHER=srun
    elif [[ -n "$HOSTFILE" ]]; then
        LAUNCHER=deepspeed
    elif [[ "${NUM_PROCESSES:-$(num_accelerators)}" -gt 1 ]]; then
        LAUNCHER=torchrun
    else
        LAUNCHER=single
    fi
fi
case "$LAUNCHER" in
single)
    NUM_PROCESSES=1
    start=("$PYTHON")
    ;;
torchrun)
    NUM_PROCESSES="${NUM_PROCESSES:-$(num_accelerators)}"
    start=("$PYTHON" -m torch.distributed.run --standalone "--nproc_per_node=$NUM_PROCESSES")
    ;;
deepspeed)
    if [[ -z "${NUM_PROCESSES:-}" ]]; then fail "NUM_PROCESSES is not set: all slots of the hostfile"; fi
    start=(deepspeed --no_local_rank ${HOSTFILE:+--hostfile "$HOSTFILE"})
    if [[ -z "$HOSTFILE" ]]; then start+=(--num_gpus "$NUM_PROCESSES"); fi
    ;;
srun)
    NUM_PROCESSES="${NUM_PROCESSES:-${SLURM_NTASKS:-1}}"
    # The batch script runs on the job's first node, as process 0 does.
    MASTER_ADDR="${MASTER_ADDR:-$(hostname)}"
    MASTER_PORT="${MASTER_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 20000))}"
    export MASTER_ADDR MASTER_PORT
    start=(srun --kill-on-bad-exit=1 "--ntasks=$NUM_PROCESSES" "$PYTHON")
    ;;
*)
    fail "LAUNCHER is $LAUNCHER: must be single, torchrun, deepspeed or srun"
    ;;
esac

corpora=("$DATA_PATH")
# Only a blend, which begins with a weight, is several words; a path may have spaces.
if [[ "$DATA_PATH" =~ ^[0-9.]+\  ]]; then read -r -a corpora <<<"$DATA_PATH"; fi
options=("$RECIPE" --num-processes "$NUM_PROCESSES" --data-path "${corpora[@]}"
    --difficulty "${DIFFICULTY:-difficulty}" --save "$SAVE"
    ${SCALE_DOWN:+--scale-down} ${MODEL:+--model "$MODEL"} ${ENGINE:+--engine "$ENGINE"}
    ${SEED:+--seed "$SEED"} ${MICRO_BATCH_SIZE:+--micro-batch-size "$MICRO_BATCH_SIZE"})
if [[ -n "${EVALUATE:-}" ]]; then
    if [[ ! -e "$SAVE/latest" ]]; then fail "SAVE is $SAVE: it has no checkpoint to evaluate"; fi
    # A finished run takes no step more; the interval makes sure that it is evaluated.
    set -- "$@" --eval-iters 0 --eval-interval 2147483647
fi
if [[ -n "$DRY_RUN" ]]; then
    printf '%q ' "${start[@]}"
    "$PYTHON" "$REPOSITORY/tools/recipe.py" show "${options[@]}"
    exit
fi
"$PYTHON" "$REPOSITORY/tools/recipe.py" write "${options[@]}"
mapfile -t command <"$SAVE/recipe/command"
exec "${start[@]}" "$REPOSITORY/${command[0]}" "${command[@]:1}" "$@"
