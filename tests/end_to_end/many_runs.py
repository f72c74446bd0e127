"""Several trainings, one after the other in the same processes, with the gradients of their first steps.

Started as a command, by torchrun or alone: `many_runs.py RUNS`, a JSON file with a list of [script, flags]. Each
run's folder gets gradients.safetensors, the whole gradients of its first step in the optimizer's order.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

import pretrain_bert
import pretrain_gpt
from tests.end_to_end.engine_runs import free_port

SCRIPTS = {"pretrain_gpt.py": pretrain_gpt.main, "pretrain_bert.py": pretrain_bert.main}


def keeping_gradients(folder):
    """A hook of optimizers that writes the gradients of the first step."""
    gradients = {}

    def hook(optimizer, *_):
        if gradients:
            return
        for group in optimizer.param_groups:
            for weight in group["params"]:
                gradient = weight.grad
                whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
                gradients[str(len(gradients))] = whole.contiguous()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            if torch.distributed.get_rank():
                return
        save_file(gradients, Path(folder) / "gradients.safetensors")

    return hook


def agreed_port(path):
    """A port that is free now, which process 0 writes down for the others."""
    if os.environ.get("RANK", "0") == "0":
        partial = path.with_suffix(".partial")
        partial.write_text(str(free_port()))
        partial.rename(path)
    while not path.exists():
        time.sleep(0.01)
    return path.read_text()


def main():
    """Runs them all; the first that fails ends it."""
    # Each run makes a process group of its own, which a launcher's store would take for the one before.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    for script, flags in json.loads(Path(sys.argv[1]).read_text()):
        folder = Path(flags[flags.index("--save") + 1])
        os.environ["MASTER_PORT"] = agreed_port(folder / "port")
        handle = register_optimizer_step_pre_hook(keeping_gradients(folder))
        status = SCRIPTS[script](flags)
        handle.remove()
        if status:
            raise SystemExit(status)


if __name__ == "__main__":
    main()
