#!/usr/bin/env bash
# The second published step of the analysis: what ds_analyze_gpt_data_map.sh did is kept, what is missing is done.
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/ds_analyze_gpt_data_map.sh" "$@"
