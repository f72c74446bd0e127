"""Calls that nobody makes: one maker's device, unpickling, collectives in sampling and routing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("data_efficiency", "megatron", "tools", "examples_deepspeed", "benchmarks")
FREE_OF_COLLECTIVES = ("data_efficiency/sampling/", "data_efficiency/routing/")
QUESTIONS = ("is_available", "is_initialized", "get_world_size")
"""What may be asked of torch.distributed there: nobody waits for an answer."""


def forbidden_calls(path: str, source: str) -> Iterator[str]:
    """One line for each forbidden call or mention in the source of the file `path`."""
    tree = ast.parse(source)
    asked = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in QUESTIONS
    }
    for node in ast.walk(tree):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            reason = reason_against(node)
            if reason:
                yield f"{where}: {reason}"
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            if "load" in {alias.name for alias in node.names}:
                yield f"{where}: call torch.load by its whole name"
        elif (
            isinstance(node, ast.Attribute)
            and id(node) not in asked
            and path.startswith(FREE_OF_COLLECTIVES)
            and ast.unparse(node) == "torch.distributed"
        ):
            yield f"{where}: no collectives here"


def reason_against(call: ast.Call) -> str | None:
    """What is wrong with a call, None if nothing is."""
    called = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if isinstance(call.func, ast.Attribute) and call.func.attr == "cuda":
        return ".cuda(); use .to(device)"
    if called == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if keywords.get("allow_pickle", "False") != "False":
        return "allow_pickle runs whatever code the file holds"
    return None


def test_project_makes_none() -> None:
    files = [*ROOT.glob("pretrain_*.py")]
    for folder in FOLDERS:
        files += (ROOT / folder).rglob("*.py")
    assert ROOT / "megatron" / "training.py" in files
    assert [
        line
        for file in files
        for line in forbidden_calls(file.relative_to(ROOT).as_posix(), file.read_text())
    ] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("megatron/training.py", "model.cuda()"),
        ("megatron/training.py", "build_model().cuda(0)"),
        ("megatron/training.py", "torch.load(path)"),
        ("megatron/training.py", "torch.load(path, weights_only=False)"),
        ("megatron/training.py", "from torch import load"),
        ("megatron/data/x.py", "np.load(path, allow_pickle=True)"),
        ("data_efficiency/routing/router.py", "torch.distributed.get_rank()"),
    ],
)
def test_violation_is_caught(path: str, source: str) -> None:
    assert len(list(forbidden_calls(path, source))) == 1
