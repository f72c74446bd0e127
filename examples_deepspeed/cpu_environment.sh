# shellcheck shell=bash
# To be sourced before anything trains: sets cpu.env unless there is a GPU to use; what is set already stays.
gpus="$(compgen -G '/dev/nvidia[0-9]*' || compgen -G /dev/kfd || true)"
if [[ -z "$gpus" || -z "${CUDA_VISIBLE_DEVICES-all}" ]]; then
    while IFS= read -r setting; do
        if [[ "$setting" == [A-Z]* && ! -v "${setting%%=*}" ]]; then export "${setting?}"; fi
    done <"$(dirname "${BASH_SOURCE[0]}")/cpu.env"
fi
