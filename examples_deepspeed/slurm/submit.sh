#!/usr/bin/env bash
# Submits a training as SLURM jobs that wait for each other: for each difficulty index that is not there an
# analysis array and its reduce step, then pretraining on several nodes, then its validation, then the tasks. If one
# of them cannot be submitted, none stays.
#
#   PRETRAIN_FLAGS="--nodes=8 --ntasks-per-node=8 --gpus-per-task=1" bash submit.sh \
#       pretrain_gpt.py --config gpt_cl_ltd_300b --data-path tokens/my_text_document --save runs/a
#
#   SEEDS=1234,1235        an array of trainings, one a seed; --save has {seed} in it then
#   PRETRAIN_FLAGS="..."   flags of sbatch for pretraining and evaluation: nodes, tasks, GPUs
#   TASKS_DATA=FOLDER      the chain of a GPT ends with an array of NUM_WORKERS evaluations and their table, in a folder
#                          with _evaluation behind its name: on the tasks whose files lie in FOLDER, or with
#                          TASKS_DATA=hub on the 19 published ones from the Hugging Face hub or its cache
#   TASKS_FLAGS="..."      more flags of tools/evaluate_runs.py
#   ... and the settings at the top of jobs.sh
set -euo pipefail

if [[ $# == 0 ]]; then set -- ""; fi
LAUNCHER=slurm
# shellcheck source-path=SCRIPTDIR source=jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"
if [[ ! -e "$REPOSITORY/${1:-none}" ]]; then fail "name a script and its flags: pretrain_gpt.py --config ..."; fi
save="$(value_of --save "$@")"
# The folder above those of the seeds; without seeds that of the run.
runs="$save"
if [[ "$save" == *"{seed}"* ]]; then
    runs="${save%%"{seed}"*}"
    if [[ "$runs" != */* ]]; then fail "--save is $save: must have a folder above {seed}, as in runs/a/seed_{seed}"; fi
    runs="${runs%/*}"
fi
LOGS="${LOGS:-$runs/logs}"
read -r -a for_training <<<"${PRETRAIN_FLAGS:-}"
for_training+=(--requeue --open-mode=append --signal=USR1@300)
if [[ -n "${SEEDS:-}" ]]; then
    if [[ "$save" != *"{seed}"* ]]; then fail "--save is $save: must have {seed} in it, as SEEDS are several"; fi
    commas="${SEEDS//[^,]/}"
    for_training+=("--array=0-${#commas}")
fi
tasks=()
if [[ -n "${TASKS_DATA:-}" ]]; then
    read -r -a tasks <<<"${TASKS_FLAGS:-}"
    tasks=(--checkpoints "$runs" --output "${runs}_evaluation" --latest ${tasks[@]+"${tasks[@]}"})
    if [[ "$TASKS_DATA" != hub ]]; then tasks+=(--data-folder "$TASKS_DATA"); fi
    "$PYTHON" "$REPOSITORY/tools/evaluate_runs.py" "${tasks[@]}" --before-training "$@"
fi

missing="$("$PYTHON" "$REPOSITORY/$1" "${@:2}" --print-analysis)"
words=()
while read -r line; do
    eval "words=($line)"
    if ((${#words[@]})); then analyze "${words[@]}"; fi
done <<<"$missing"
settings=(env "REPOSITORY=$REPOSITORY" "PYTHON=$PYTHON" "LOGS=$LOGS" "SEEDS=${SEEDS:-}")
training=(bash "$REPOSITORY/examples_deepspeed/slurm/pretrain.sbatch" "$@")
submit pretrain "exec $(printf '%q ' "${settings[@]}" "${training[@]}")" "${for_training[@]}"
# A finished run takes no step more, and is measured on the whole validation split.
submit evaluate "exec $(printf '%q ' "${settings[@]}" "${training[@]}" --eval-iters 0 \
    --no-allow-missing-checkpoint)" "${for_training[@]}"
if ((${#tasks[@]})); then sweep tasks evaluate_runs.py "${tasks[@]}"; fi
