#!/usr/bin/env bash
# Evaluates all checkpoints of a folder, zero-shot and with examples, and prints one table.
#   bash ds_evalharness_run.sh --checkpoints runs/gpt --output results/gpt
# Flags are those of tools/evaluate_runs.py, settings those at the top of ../../../slurm/jobs.sh.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../../../slurm/jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../../slurm/jobs.sh"
sweep evaluate evaluate_runs.py "$@"
