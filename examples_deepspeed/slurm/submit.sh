#!/usr/bin/env bash
# Submits a training as SLURM jobs that wait for each other: for each difficulty index that is not there an
# analysis array and its reduce step, then pretraining on several nodes, then evaluation. If one of them cannot
# be submitted, none stays.
#
#   PRETRAIN_FLAGS="--nodes=8 --ntasks-per-node=8 --gpus-per-task=1" bash submit.sh \
#       pretrain_gpt.py --config gpt_cl_ltd_300b --data-path tokens/my_text_document --save runs/a
#
#   SEEDS=1234,1235        an array of trainings, one a seed; --save has {seed} in it then
#   PRETRAIN_FLAGS="..."   flags of sbatch for pretraining and evaluation: nodes, tasks, GPUs
#   ... and the settings at the top of jobs.sh
set -euo pipefail

if [[ $# == 0 ]]; then set -- ""; fi
LAUNCHER=slurm
# shellcheck source-path=SCRIPTDIR source=jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"
if [[ ! -e "$REPOSITORY/${1:-none}" ]]; then fail "name a script and its flags: pretrain_gpt.py --config ..."; fi
save="$(value_of --save "$@")"
LOGS="${LOGS:-${save%/*\{seed\}*}/logs}"
read -r -a for_training <<<"${PRETRAIN_FLAGS:-}"
for_training+=(--requeue --open-mode=append --signal=USR1@300)
if [[ -n "${SEEDS:-}" ]]; then
    if [[ "$save" != *"{seed}"* ]]; then fail "--save is $save: must have {seed} in it, as SEEDS are several"; fi
    commas="${SEEDS//[^,]/}"
    for_training+=("--array=0-${#commas}")
fi

missing="$("$PYTHON" "$REPOSITORY/$1" "${@:2}" --print-analysis)"
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
