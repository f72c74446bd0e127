"""Who may import whom, and which outside package belongs where.

Each rule is a function from sources to a list of violations, so it can be tried on a small source
that breaks it. The rules read the syntax tree and import nothing.
"""

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module takes the level of its longest listed prefix. Imports go to the same level or below.
LEVELS = {
    "data_efficiency.config": 0,
    "data_efficiency.schedule": 0,
    "data_efficiency.difficulty_index": 0,
    "data_efficiency.dataset_identity": 0,
    "data_efficiency.deepspeed_format": 0,
    "data_efficiency.accounting": 0,
    "data_efficiency.field_docs": 0,
    "data_efficiency.files": 0,
    "data_efficiency.command_end": 0,
    "data_efficiency.compat": 0,
    "data_efficiency.differences": 0,
    "data_efficiency.hashing": 0,
    "data_efficiency.launcher": 0,
    "data_efficiency.progress": 0,
    "data_efficiency.json_section": 0,
    "data_efficiency.picture": 0,
    "data_efficiency.plan_memory": 2,
    "data_efficiency.plan_report": 2,
    "data_efficiency.short_numbers": 0,
    "data_efficiency.token_names": 0,
    "data_efficiency.version": 0,
    "data_efficiency.analysis": 1,
    "data_efficiency.sampling": 1,
    "data_efficiency.routing": 1,
    "data_efficiency.engine": 2,
    "data_efficiency.plan": 2,
    "data_efficiency.plan_walk": 2,
    "data_efficiency.plan_warnings": 2,
    "data_efficiency.command": 3,
    "data_efficiency": 2,
    "data_efficiency.adapters": 3,
    "megatron.config": 3,
    "megatron.tokenizer": 3,
    "megatron.model": 3,
    "megatron.setting_rules": 3,
    "megatron.command": 3,
    "megatron.data": 3,
    "megatron.corpus": 3,
    "megatron": 3,
    "megatron.arguments": 4,
    "megatron.checkpoint": 4,
    "megatron.conversion": 4,
    "megatron.corpus_flags": 4,
    "megatron.engine_json": 4,
    "megatron.nested_keys": 4,
    "megatron.stages": 4,
    "megatron.evaluation": 4,
    "megatron.garbage": 4,
    "megatron.finetuning": 4,
    "megatron.migration": 4,
    "megatron.optimizer": 4,
    "megatron.optimizer_param_scheduler": 4,
    "megatron.recipes": 4,
    "megatron.reporting": 4,
    "megatron.run_page": 4,
    "megatron.run_records": 4,
    "megatron.run_settings": 4,
    "megatron.run_state": 4,
    "megatron.stopping": 4,
    "megatron.study": 4,
    "megatron.training": 4,
    "megatron.validation": 4,
    "megatron.warming": 4,
    "megatron.weight_average": 4,
    "pretrain_gpt": 5,
    "pretrain_bert": 5,
    "tools": 5,
    "examples_deepspeed": 6,
    "benchmarks": 6,
    "tests.json_sections": 0,
    "tests.processes": 0,
    # A library test must not fail for a trainer's reason.
    "tests.data_efficiency": 2,
    "tests.data_efficiency.command": 3,
    "tests.data_efficiency.adapters": 3,
    "tests.megatron": 4,
    "tests.end_to_end": 6,
    "tests.faults": 6,
}
# `data_efficiency.something_else` must not pass as the package itself: it needs a line above.
CLOSED_PACKAGES = ("data_efficiency", "megatron")

# Rooms of one level that do not know each other.
STRANGERS = (
    {"data_efficiency.analysis", "data_efficiency.sampling"},
    {"data_efficiency.analysis", "data_efficiency.routing"},
    {"data_efficiency.sampling", "data_efficiency.routing"},
    {"megatron.model", "megatron.data"},
)

# What a trainer of one's own is built of, beside the names that a user meets (`__init__.pyi`).
PUBLIC_SUBMODULES = (
    "data_efficiency.command",
    "data_efficiency.analysis.named_metrics",
    "data_efficiency.analysis.token_windows",
    "data_efficiency.command_end",
    "data_efficiency.config",
    "data_efficiency.differences",
    "data_efficiency.engine.ranks",
    "data_efficiency.engine.step",
    "data_efficiency.engine.tensor_parallel",
    "data_efficiency.engine.watch",
    "data_efficiency.engine.whole_tensor",
    "data_efficiency.field_docs",
    "data_efficiency.files",
    "data_efficiency.files.indexed_dataset",
    "data_efficiency.files.mmididx",
    "data_efficiency.files.result_folder",
    "data_efficiency.hashing",
    "data_efficiency.json_section",
    "data_efficiency.plan",
    "data_efficiency.picture",
    "data_efficiency.progress",
    "data_efficiency.routing.bags",
    "data_efficiency.sampling.sampler_state",
    "data_efficiency.short_numbers",
)
PUBLIC_NAME_USERS = (
    "megatron",
    "pretrain_gpt",
    "pretrain_bert",
    "benchmarks",
    "examples_deepspeed",
    "tests.end_to_end",
)
COMMANDS = ("tools", "pretrain_gpt", "pretrain_bert", "benchmarks", "examples_deepspeed")
# Package -> the only places that may import it. The longest listed package counts.
OUTSIDE_PACKAGES = {
    "numpy": ("data_efficiency", "megatron", "tests.end_to_end", *COMMANDS),
    "torch": (
        "data_efficiency.routing",
        "data_efficiency.sampling.loader",
        "data_efficiency.sampling.loader_workers",
        "data_efficiency.sampling.kept_end",
        "data_efficiency.sampling.sequence_length",
        "data_efficiency.sampling.superposition",
        "data_efficiency.analysis.dataset_reader",
        "data_efficiency.analysis.huggingface_model",
        "data_efficiency.analysis.reference_loss",
        "data_efficiency.command.parser",
        "data_efficiency.engine",
        "data_efficiency.adapters",
        "megatron",
        "tests.end_to_end",
        *COMMANDS,
    ),
    "torch.distributed": ("data_efficiency.engine", "megatron", "tests.end_to_end", *COMMANDS),
    "torch.utils.tensorboard": ("megatron.reporting.trackers",),
    "tensorboard": ("megatron.reporting.trackers",),
    "accelerate": (
        "data_efficiency.adapters.accelerate_plugin",
        "data_efficiency.adapters.huggingface_trainer",
        "megatron.reporting.trackers",
        "tests.end_to_end",
    ),
    "lightning": ("data_efficiency.adapters.lightning_plugin", "tests.end_to_end"),
    "trl": ("data_efficiency.adapters.trl_prompt_groups", "tests.end_to_end"),
    "composer": ("data_efficiency.adapters.composer_plugin", "tests.end_to_end"),
    "torchdata": ("tests.end_to_end",),
    "mlflow": ("megatron.reporting.trackers",),
    "matplotlib": (
        "data_efficiency.analysis.summary",
        "data_efficiency.picture",
        "megatron.study.picture",
    ),
    "plotly": ("megatron.run_page.page",),
    "selenium": ("tests.end_to_end",),
    "scipy": ("megatron.study.statistics",),
    "filelock": ("data_efficiency.files.lock",),
    "datatrove": ("data_efficiency.adapters.datatrove_blocks",),
    "ray": ("data_efficiency.analysis.ray_executor",),
    "fsspec": ("data_efficiency.files.remote",),
    "tokenizers": (
        "data_efficiency.analysis.text_tokenizer",
        "megatron.tokenizer",
        "tests.end_to_end.host_runs",
    ),
    "flash_attn": ("megatron.model.optional_kernels",),
    "apex": ("megatron.model.optional_kernels",),
    "nltk": ("megatron.corpus.sentence_splitter",),
    "lm_eval": ("benchmarks.evaluation", "megatron.evaluation.eval_harness"),
    "deepspeed": (
        "data_efficiency.engine.deepspeed_engine",
        "data_efficiency.engine.deepspeed_ops",
        "data_efficiency.engine.deepspeed_state",
        "benchmarks",
    ),
    "safetensors": (
        "megatron.checkpoint.files",
        "megatron.conversion.vocabulary",
        "tests.end_to_end",
    ),
    "huggingface_hub": ("megatron.conversion.hub",),
    "transformers": (
        "benchmarks.glue_trainer",
        "benchmarks.generation",
        "benchmarks.gpt_models",
        "data_efficiency.adapters.huggingface_trainer",
        "data_efficiency.adapters.trl_prompt_groups",
        "data_efficiency.analysis.huggingface_model",
        "examples_deepspeed.data_efficiency",
        "megatron.conversion.hugging_face_folder",
        "tools.prepare_demo_models",
        "tests.end_to_end",
    ),
    "datasets": (
        "data_efficiency.command.data_flags",
        "examples_deepspeed.data_efficiency.gpt_finetuning.text_blocks",
        "megatron.finetuning.data",
        "tests.end_to_end.host_runs",
    ),
    "onnx": ("tools.prepare_demo_models",),
    "PIL": ("examples_deepspeed.data_efficiency.vit_finetuning.images",),
    "timm": ("examples_deepspeed.data_efficiency.vit_finetuning.models",),
    "torchvision": ("examples_deepspeed.data_efficiency.vit_finetuning.images",),
    "regex": ("megatron.corpus.wiki_markup",),
    "zstandard": ("megatron.corpus.text_sources",),
    "pyarrow": ("data_efficiency.analysis.outside_scores", "megatron.corpus.parquet_rows"),
    "tqdm": (
        "data_efficiency.progress",
        "data_efficiency.routing.bags",
        "megatron",
        "tools",
        "benchmarks",
        "examples_deepspeed.data_efficiency.finetuning",
    ),
    "hypothesis": ("tests.end_to_end",),
    "pytest": ("tests.end_to_end",),
}
UNPICKLING_PACKAGES = ("pickle", "marshal", "shelve")

Sources = Mapping[str, str]


class Import(NamedTuple):
    """One imported thing: `from torch import nn` in module a.b is (a.b, torch, nn, line)."""

    importer: str
    module: str
    name: str | None
    line: int


def inside(module: str, *places: str) -> bool:
    """Whether `module` is one of the places or lies in one."""
    return any(module == place or module.startswith(place + ".") for place in places)


def longest_prefix(module: str, places: Mapping[str, object]) -> str | None:
    """The most specific listed place that `module` lies in."""
    return max((place for place in places if inside(module, place)), key=len, default=None)


def imports_of(importer: str, sources: Sources) -> Iterator[Import]:
    """All imports of a module: at its top, inside functions and by `import_module("name")`."""
    is_package = any(module.startswith(importer + ".") for module in sources)
    for node in ast.walk(ast.parse(sources[importer])):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, None, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            parts = importer.split(".")
            base = parts[: len(parts) + is_package - node.level] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:
                yield Import(importer, module, alias.name, node.lineno)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield Import(importer, str(node.args[0].value), None, node.lineno)


def project_imports(sources: Sources) -> Iterator[tuple[Import, str]]:
    """Imports of the project's own modules, each with the module it really reaches."""
    for importer in sources:
        for found in imports_of(importer, sources):
            submodule = f"{found.module}.{found.name}"
            target = submodule if submodule in sources else found.module
            if longest_prefix(target, LEVELS) is not None:
                yield found, target


def level_of(module: str) -> int | None:
    """The level of a module, None where the table doesn't name it."""
    place = longest_prefix(module, LEVELS)
    if place is None or (place in CLOSED_PACKAGES and module != place):
        return None
    return LEVELS[place]


def upward_imports(sources: Sources) -> list[str]:
    """Modules without a level, imports that go up and imports between strangers."""
    found = [
        f"{module}: no level; add it to the table" for module in sources if level_of(module) is None
    ]
    for imported, target in project_imports(sources):
        here, there = level_of(imported.importer), level_of(target)
        where = f"{imported.importer}:{imported.line} imports {target}"
        if here is not None and there is not None and there > here:
            found.append(f"{where}: level {here} must not use level {there}")
        rooms = {longest_prefix(imported.importer, LEVELS), longest_prefix(target, LEVELS)}
        if rooms in STRANGERS:
            found.append(f"{where}: these two do not know each other")
    return found


def import_cycles(sources: Sources) -> list[str]:
    """One line for each import that closes a cycle; imports inside functions count."""
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for imported, target in project_imports(sources):
        if target in graph and target != imported.importer:
            graph[imported.importer].add(target)
    found: list[str] = []
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in finished:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            finished.add(module)

    for module in graph:
        visit(module, ())
    return found


def misplaced_packages(sources: Sources) -> list[str]:
    """Outside packages imported where they do not belong, or that the table does not know.

    A library's test may use what it compares the library with.
    """
    found = []
    for importer in sources:
        if inside(importer, "tests.data_efficiency"):
            continue
        for imported in imports_of(importer, sources):
            whole = f"{imported.module}.{imported.name}"
            top = whole.split(".")[0]
            if top in UNPICKLING_PACKAGES:
                found.append(f"{importer}:{imported.line}: {top} unpickles; nothing here does")
            if top in sys.stdlib_module_names or longest_prefix(whole, LEVELS) is not None:
                continue
            package = longest_prefix(whole, OUTSIDE_PACKAGES)
            if package is None:
                found.append(f"{importer}:{imported.line}: {top} has no place in the table")
            elif not inside(importer, *OUTSIDE_PACKAGES[package]):
                found.append(f"{importer}:{imported.line}: {package} does not belong here")
    return found


def misplaced_argparse(sources: Sources) -> list[str]:
    """argparse outside the commands and the flags that several of them share."""
    return [
        f"{module}:{imported.line}: argparse belongs to commands and to megatron.arguments"
        for module in sources
        for imported in imports_of(module, sources)
        if imported.module == "argparse"
        and not inside(
            module, "data_efficiency.command", "megatron.arguments", "tests.end_to_end", *COMMANDS
        )
    ]


def commands_that_need_commands(sources: Sources) -> list[str]:
    """A command that imports another: started by its path, it does not find the folder `tools`."""
    return [
        f"{imported.importer}:{imported.line}: `python tools/x.py` cannot import {imported.module}"
        for module in sources
        if inside(module, "tools")
        for imported in imports_of(module, sources)
        if inside(imported.module, "tools")
    ]


def public_names(sources: Sources) -> set[str]:
    """The names that `data_efficiency/__init__.pyi` gives."""
    body = ast.parse(sources.get("data_efficiency", "")).body
    return {
        alias.asname
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is not None
    }


def private_library_imports(sources: Sources) -> list[str]:
    """Uses of the library by the trainer and by examples that bypass its public names and submodules."""
    public = public_names(sources)
    return [
        f"{imported.importer}:{imported.line}: {imported.name or target} is no public name of "
        f"{imported.module}"
        for imported, target in project_imports(sources)
        if inside(target, "data_efficiency")
        and inside(imported.importer, *PUBLIC_NAME_USERS)
        and (imported.module, imported.name) != ("data_efficiency", None)
        and not (imported.module == "data_efficiency" and imported.name in public)
        and (target not in PUBLIC_SUBMODULES or (imported.name or "").startswith("_"))
    ]


def read_project() -> dict[str, str]:
    """Source text of each module that has a level, by dotted name."""
    files = [*ROOT.glob("pretrain_*.py")]
    for folder in ("data_efficiency", "megatron", "tools", "examples_deepspeed", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    for folder in ("data_efficiency", "end_to_end"):
        files += (ROOT / "tests" / folder).rglob("*.py")
    found = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(
            ".__init__"
        ): file.read_text()
        for file in files
    }
    # What the library's first file gives stands in the stub beside it.
    found["data_efficiency"] = (ROOT / "data_efficiency" / "__init__.pyi").read_text()
    return found


RULES = (
    upward_imports,
    import_cycles,
    misplaced_packages,
    misplaced_argparse,
    commands_that_need_commands,
    private_library_imports,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_project_follows_the_rule(rule: Callable[[Sources], list[str]]) -> None:
    assert rule(read_project()) == []


def test_project_is_found() -> None:
    assert {"data_efficiency.config", "megatron.config"} <= read_project().keys()


VIOLATIONS = [
    (upward_imports, "data_efficiency.config", "import data_efficiency.engine"),
    (upward_imports, "data_efficiency.engine.torch_engine", "from megatron import config"),
    (upward_imports, "data_efficiency.engine.base", "import data_efficiency.adapters.position"),
    (
        misplaced_packages,
        "data_efficiency.adapters.hosted_training",
        "from transformers import Trainer",
    ),
    (upward_imports, "data_efficiency.schedule", "def f():\n    from . import sampling"),
    (
        upward_imports,
        "data_efficiency.sampling.sampler",
        "from data_efficiency.routing import router",
    ),
    (upward_imports, "megatron.model.gpt_model", "import megatron.data.gpt_dataset"),
    (upward_imports, "megatron.data.gpt_dataset", "from megatron.training import train"),
    (upward_imports, "data_efficiency.routing", "from .. import engine"),
    (upward_imports, "data_efficiency.surprise", ""),
    (upward_imports, "megatron.surprise", ""),
    (upward_imports, "tests.data_efficiency.test_plan", "from megatron.config import ModelConfig"),
    (upward_imports, "tests.data_efficiency.test_plan", "import tests.megatron.small_models"),
    (misplaced_packages, "megatron.training", "import tokenizers"),
    (misplaced_packages, "megatron.training", "def f():\n    from matplotlib import pyplot"),
    (misplaced_packages, "megatron.training", "from torch.utils.tensorboard import SummaryWriter"),
    (misplaced_packages, "megatron.training", "from torch.utils import tensorboard"),
    (misplaced_packages, "data_efficiency.engine", "import deepspeed"),
    (
        misplaced_packages,
        "data_efficiency.engine",
        "from importlib import import_module\nimport_module('deepspeed')",
    ),
    (misplaced_packages, "data_efficiency.schedule", "import torch"),
    (misplaced_packages, "data_efficiency.sampling.sampler", "import torch"),
    (misplaced_packages, "data_efficiency.sampling.loader", "import torch.distributed as dist"),
    (misplaced_packages, "data_efficiency.routing.router", "from torch import distributed"),
    (misplaced_packages, "tools.preprocess_data", "import pandas"),
    (misplaced_packages, "tools.report", "from pickle import loads"),
    (misplaced_argparse, "megatron.training", "import argparse"),
    (misplaced_argparse, "data_efficiency.analysis.map_reduce", "from argparse import Namespace"),
    (commands_that_need_commands, "tools.report", "from tools import plan"),
    (commands_that_need_commands, "tools.report", "def f():\n    import tools.plan"),
    (private_library_imports, "megatron.training", "from data_efficiency.sampling import sampler"),
    (private_library_imports, "megatron.training", "from data_efficiency import _secret"),
    (private_library_imports, "megatron.training", "from data_efficiency import sampling"),
    (private_library_imports, "megatron.training", "from data_efficiency.files import _secret"),
    (private_library_imports, "benchmarks.sampling", "import data_efficiency.schedule"),
]


@pytest.mark.parametrize(("rule", "module", "source"), VIOLATIONS)
def test_rule_catches_a_violation(
    rule: Callable[[Sources], list[str]], module: str, source: str
) -> None:
    bystanders = dict.fromkeys(("data_efficiency.sampling", "data_efficiency.routing.router"), "")
    violations = rule({**bystanders, module: source})
    assert len(violations) == 1
    assert violations[0].startswith(module)


def test_cycle_is_found_and_named_once() -> None:
    sources = {
        "megatron.data.a": "from megatron.data.b import x",
        "megatron.data.b": "def f():\n    from . import c",
        "megatron.data.c": "import megatron.data.a",
        "megatron.data.d": "import megatron.data.a",
    }
    assert import_cycles(sources) == [
        "megatron.data.a -> megatron.data.b -> megatron.data.c -> megatron.data.a"
    ]
