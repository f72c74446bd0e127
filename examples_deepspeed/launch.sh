#!/usr/bin/env bash
# Starts a script, or goes on with its training, on what it finds: one process, torchrun, deepspeed, or srun.
#
#   bash launch.sh pretrain_gpt.py --config gpt_cl_ltd_300b --data-path tokens/my_text_document --save runs/a
#
#   LAUNCHER=        single, torchrun, deepspeed or srun; by default srun inside a SLURM job, deepspeed where
#                    HOSTFILE is set, torchrun with several accelerators or NUM_PROCESSES
#   NUM_PROCESSES=   on this machine; of the job with srun, by default all of its tasks
#   TASKS_PER_NODE=  with srun, of a job that says no number of tasks, as one of --nodes=4-8; by default its GPUs, or 1
#   DRY_RUN=1        prints the command and does nothing
#   PYTHON=python
#
# Exit status 75: saved, start me again.
set -euo pipefail

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python}"
export PYTHONPATH="$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}"
source "$REPOSITORY/examples_deepspeed/cpu_environment.sh"
fail() { echo "error: $*" >&2 && exit 1; }
if [[ $# == 0 ]]; then fail "name a script and its flags: pretrain_gpt.py --config gpt_cl_ltd_300b ..."; fi
if [[ -z "${LAUNCHER:-}" ]]; then
    if [[ -n "${SLURM_JOB_ID:-}" ]]; then
        LAUNCHER=srun
    elif [[ -n "${HOSTFILE:-}" ]]; then
        LAUNCHER=deepspeed
    else
        NUM_PROCESSES="${NUM_PROCESSES:-$("$PYTHON" -c 'import torch; print(torch.accelerator.device_count())')}"
        if [[ "$NUM_PROCESSES" -gt 1 ]]; then LAUNCHER=torchrun; else LAUNCHER=single; fi
    fi
fi
case "$LAUNCHER" in
single) start=("$PYTHON") ;;
torchrun) start=("$PYTHON" -m torch.distributed.run --standalone "--nproc_per_node=${NUM_PROCESSES:-gpu}") ;;
deepspeed)
    start=(deepspeed --no_local_rank ${HOSTFILE:+--hostfile "$HOSTFILE"})
    if [[ -z "${HOSTFILE:-}" && -n "${NUM_PROCESSES:-}" ]]; then start+=(--num_gpus "$NUM_PROCESSES"); fi
    ;;
srun)
    # The batch script runs on the job's first node, as process 0 does.
    export MASTER_ADDR="${MASTER_ADDR:-$(hostname)}" MASTER_PORT="${MASTER_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 20000))}"
    start=(srun --kill-on-bad-exit=1)
    if [[ -n "${NUM_PROCESSES:-${SLURM_NTASKS:-}}" ]]; then
        start+=("--ntasks=${NUM_PROCESSES:-$SLURM_NTASKS}")
    else
        # Of however many nodes it was given this time.
        per_node="${TASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}"
        start+=("--ntasks=$((${SLURM_JOB_NUM_NODES:-1} * per_node))" "--ntasks-per-node=$per_node")
    fi
    start+=("$PYTHON")
    ;;
*) fail "LAUNCHER is $LAUNCHER: must be single, torchrun, deepspeed or srun" ;;
esac
command=("${start[@]}" "$REPOSITORY/$1" "${@:2}")
if [[ -n "${DRY_RUN:-}" ]]; then
    printf '%q ' "${command[@]}" && echo
    exit
fi
if [[ "$LAUNCHER" == single ]]; then exec "${command[@]}"; fi
# The exit status of several processes is their launcher's: process 0 leaves a file instead of 75.
AGAIN_FILE="$(mktemp -u)"
export AGAIN_FILE
# What runs in the background would be deaf to Ctrl-C, which a terminal sends to all: this shell waits for what they save.
(trap - INT && exec "${command[@]}") &
trap ':' INT
trap 'kill -TERM $!' TERM
trap 'kill -USR1 $!' USR1
while status=0 && { wait $! || status=$?; } && kill -0 $! 2>/dev/null; do :; done
if rm "$AGAIN_FILE" 2>/dev/null; then exit 75; fi
exit "$status"
