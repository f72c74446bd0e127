"""What `import data_efficiency` gives and what it costs."""

import json
import statistics
import subprocess
import sys

import data_efficiency

# Packages a user of the library alone need not have, or must not wait for.
FORBIDDEN = ("deepspeed", "transformers", "timm", "matplotlib", "tokenizers", "tensorboard", "nltk")
MAX_SECONDS_BEYOND_TORCH = 0.3

# CPU time: on a busy machine the clock on the wall measures the neighbours.
MEASURE = """
import json, sys, time
import torch
start = time.process_time()
import data_efficiency
seconds = time.process_time() - start
for name in data_efficiency.__all__:
    getattr(data_efficiency, name)
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
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
    loaded = {module.split(".")[0] for module in runs[0]["modules"]}
    assert loaded.isdisjoint(FORBIDDEN)
    assert statistics.median(run["seconds"] for run in runs) < MAX_SECONDS_BEYOND_TORCH
