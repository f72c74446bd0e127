#!/usr/bin/env bash
# The published sweep, baseline, random-LTD, curriculum, and both, as the study ../study.toml; then one report.
#   bash ds_finetune_gpt2_run.sh --seeds 1,2,3 --output runs/sweep --set recipe=recipes/truncate.toml
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
LAUNCHER=single exec bash "$HERE/../../launch.sh" tools/study.py run "$HERE/study.toml" "$@"
