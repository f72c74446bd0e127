#!/usr/bin/env bash
# Submits a recipe as SLURM jobs that wait for each other: an analysis array, its reduce step, pretraining on
# several nodes, evaluation. An index that DIFFICULTY already has is not made again.
#
#   DATA_PATH=tokens/my_text_document SAVE=runs/a PRETRAIN_FLAGS="--nodes=8 --ntasks-per-node=8 --gpus-per-task=1" \
#       bash submit.sh gpt_cl_ltd_300b [--flag of the trainer ...]
#
#   SEEDS=1234,1235        an array of pretrainings, one a seed
#   NUM_WORKERS=1          tasks of the analysis array
#   SBATCH_FLAGS="..."     for all jobs: account, partition, time
#   PRETRAIN_FLAGS="..."   for pretraining and evaluation besides: nodes, tasks, graphics cards
#   DRY_RUN=1              print the commands, as a script that bash can run, and do nothing
#   ... and the settings at the top of ../launch.sh
set -euo pipefail

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PYTHON="${PYTHON:-python}"
DRY_RUN="${DRY_RUN:-}"
DIFFICULTY="${DIFFICULTY:-difficulty}"
AFTER=""

fail() {
    echo "error: $*" >&2
    exit 1
}

if [[ $# == 0 ]]; then fail "name a recipe; python tools/recipe.py list shows all"; fi
for name in DATA_PATH SAVE; do
    if [[ -z "${!name:-}" ]]; then
        fail "$name is not set; it is described at the top of ${0##*/}"
    fi
done
read -r -a for_all <<<"${SBATCH_FLAGS:-}"
read -r -a for_training <<<"${PRETRAIN_FLAGS:-}"

# analyze METRIC: the jobs that make its index; AFTER becomes the last of them
analyze() {
    local printed
    printed="$(env SAVE="$DIFFICULTY" METRIC="$1" LAUNCHER=slurm SPLIT="$split" \
        SEQ_LENGTH="$seq_length" AFTER="$AFTER" PYTHON="$PYTHON" DRY_RUN="$DRY_RUN" bash \
        "$REPOSITORY/examples_deepspeed/data_efficiency/$family/ds_analyze_${family}_data_map.sh")"
    echo "$printed"
    if [[ -n "$DRY_RUN" ]]; then
        AFTER="\$job_$(grep -c '^job_' <<<"$printed")"
    else
        AFTER="${printed##*job }"
    fi
}

# submit NAME SETTING... -- ARGUMENT...: submits pretrain.sbatch after AFTER, and becomes it
submit() {
    local name="$1" settings=() command
    shift
    while [[ "$1" != -- ]]; do
        settings+=("$1")
        shift
    done
    shift
    for setting in DATA_PATH SAVE DIFFICULTY PYTHON REPOSITORY MODEL ENGINE MICRO_BATCH_SIZE SCALE_DOWN SEED; do
        if [[ -n "${!setting:-}" ]]; then settings+=("$setting=${!setting}"); fi
    done
    command="$(printf '%q ' env "${settings[@]}" sbatch --parsable "--job-name=$name" \
        "--output=$SAVE/logs/%x-%j.log" ${SEEDS:+"--array=$SEEDS"} ${for_all[@]+"${for_all[@]}"} \
        ${for_training[@]+"${for_training[@]}"})"
    if [[ -n "$AFTER" ]]; then
        command+="--kill-on-invalid-dep=yes --dependency=afterok:$AFTER "
    fi
    command+="$(printf '%q ' "$REPOSITORY/examples_deepspeed/slurm/pretrain.sbatch" "$@")"
    if [[ -n "$DRY_RUN" ]]; then
        # What is printed is a script with variables of its own.
        # shellcheck disable=SC2016
        printf 'job_%s=$(%s)\n' "$name" "$command"
        AFTER="\$job_$name"
        return
    fi
    AFTER="$(eval "$command")"
    AFTER="${AFTER%%;*}" # the name of the cluster may follow
    echo "$name: job $AFTER"
}

needs="$(PYTHONPATH="$REPOSITORY" "$PYTHON" "$REPOSITORY/tools/recipe.py" analysis "$1" \
    ${SCALE_DOWN:+--scale-down} ${MODEL:+--model "$MODEL"})"
mapfile -t lines <<<"$needs"
read -r family split seq_length <<<"${lines[0]}"
if [[ -n "$DRY_RUN" ]]; then printf 'mkdir -p %q\n' "$SAVE/logs"; else mkdir -p "$SAVE/logs"; fi
for metric in "${lines[@]:1}"; do
    if [[ -n "$metric" && ! -e "$DIFFICULTY/$metric/manifest.json" ]]; then analyze "$metric"; fi
done
submit pretrain -- "$@"
submit evaluate EVALUATE=1 -- "$@"
