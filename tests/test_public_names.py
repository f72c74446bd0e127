"""What `import data_efficiency` gives and what it costs."""

import json
import statistics
import subprocess
import sys

import data_efficiency

# Packages that `import data_efficiency` alone does not wait for.
HEAVY = ("torch", "numpy", "tqdm", "filelock")
MAX_SECONDS_OF_IMPORT = 0.09
# Packages a user of the library alone need not have, or must not wait for.
FORBIDDEN = ("deepspeed", "transformers", "timm", "matplotlib", "tokenizers", "tensorboard", "nltk")
MAX_SECONDS_BEYOND_TORCH = 0.3

# CPU time: on a busy machine the clock on the wall measures the neighbours.
MEASURE = """
import json, sys, time
start = time.process_time()
import data_efficiency
alone = time.process_time() - start
modules_alone = sorted(sys.modules)
import torch
start = time.process_time()
for name in data_efficiency.__all__:
    getattr(data_efficiency, name)
seconds = time.process_time() - start
print(json.dumps({
    "alone": alone, "modules_alone": modules_alone, "seconds": seconds, "modules": sorted(sys.modules)
}))
"""

PUBLIC_NAMES = {
    "initialize",
    "load_config",
    "DataAnalyzer",
    "DifficultyIndex",
    "CurriculumSampler",
    "convert_to_random_ltd",
    "remove_random_ltd_state_dict",
    "save_without_random_ltd",
}


def measure_import() -> dict:
    """Seconds beyond torch and loaded modules, from a fresh process."""
    command = [sys.executable, "-c", MEASURE]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_public_names_exist() -> None:
    assert set(data_efficiency.__all__) >= PUBLIC_NAMES
    assert [name for name in data_efficiency.__all__ if not hasattr(data_efficiency, name)] == []
    assert len(set(data_efficiency.__all__)) == len(data_efficiency.__all__)


def test_import_is_light() -> None:
    runs = [measure_import() for _ in range(3)]
    assert tops(runs[0]["modules_alone"]).isdisjoint({*HEAVY, *FORBIDDEN})
    assert statistics.median(run["alone"] for run in runs) < MAX_SECONDS_OF_IMPORT
    assert tops(runs[0]["modules"]).isdisjoint(FORBIDDEN)
    assert statistics.median(run["seconds"] for run in runs) < MAX_SECONDS_BEYOND_TORCH


def tops(modules: list[str]) -> set[str]:
    """The packages that modules are in."""
    return {module.split(".")[0] for module in modules}


AS_ON_WINDOWS = """
import importlib, pkgutil, signal, sys
import torch, torch.distributed.tensor, torch.distributed.fsdp, numpy, tqdm, filelock
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
import data_efficiency
for module in pkgutil.walk_packages(data_efficiency.__path__, "data_efficiency."):
    if not module.name.startswith(("data_efficiency.engine.deepspeed_", "data_efficiency.adapters.")):
        importlib.import_module(module.name)
print(len(sys.modules))
"""


def test_every_module_is_imported_without_what_windows_lacks() -> None:
    command = [sys.executable, "-c", AS_ON_WINDOWS]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""
