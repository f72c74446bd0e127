"""Other trainers with the lines of docs/bring_your_own_model.md: what they read, killed and resumed or not."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

import data_efficiency
from data_efficiency import CurriculumSampler, load_config
from tests.end_to_end import host_runs
from tests.end_to_end.host_runs import (
    ACCUMULATION,
    APART,
    GROUPS,
    HOSTS,
    IDENTITIES,
    KILLED_AFTER,
    MICRO_BATCH_SIZE,
    NUM_STEPS,
    SAVE_STEPS,
    Texts,
    make_model,
    write_inputs,
)
from tests.end_to_end.tiny_runs import ROOT

ALL_HOSTS = [*HOSTS, *(pytest.param(host, marks=getattr(pytest.mark, host)) for host in APART)]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected(folder, num_ranks):
    """What our own engine sees in one process, a list of the step's micro-batches for each step."""
    seen = []
    size = MICRO_BATCH_SIZE * ACCUMULATION * num_ranks
    content = json.loads((folder / "ds_config.json").read_text())
    content |= {"train_batch_size": size, "train_micro_batch_size_per_gpu": MICRO_BATCH_SIZE}
    content |= {"optimizer": {"type": "AdamW"}}
    engine, _, loader, _ = data_efficiency.initialize(
        model=make_model(seen.append), training_data=Texts(), config=content
    )
    layers = data_efficiency.known_layer_class(engine.module)
    data_efficiency.convert_to_random_ltd(engine, layers)

    def loss_sum(batch):
        return engine(**batch).loss

    for batches, _ in zip(loader.steps(), range(NUM_STEPS), strict=False):
        engine.train_step(batches, loss_sum, lambda batch: batch["labels"].numel())
    per_step = ACCUMULATION * num_ranks
    return [seen[first : first + per_step] for first in range(0, len(seen), per_step)]


def run_in_processes(host, folder, num_ranks, num_steps=0, resume="afresh", **environment):
    """Exit code of a host's run in processes of its own, killed after so many steps."""
    launch = TORCHRUN if num_ranks > 1 else ()
    environment["ACCELERATE_USE_CPU"] = "1"
    if host == "composer" and launch:
        # As its own launcher does.
        environment["NODE_RANK"] = "0"
    command = [sys.executable, *launch, "-m", host_runs.__name__, host, str(folder)]
    done = subprocess.run(
        [*command, str(num_steps), resume],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if not num_steps:
        assert done.returncode == 0, done.stderr
    return done.returncode


def seen_steps(folder, num_ranks):
    """What all processes have seen, by steps of one process; the files are taken away."""
    ranks = []
    for rank in range(num_ranks):
        file = folder / f"seen.{rank}.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.unlink()
        ranks.append([(tokens, length, kept) for tokens, length, kept in lines])
    num_steps = min(map(len, ranks)) // ACCUMULATION
    return [
        [one for seen in ranks for one in seen[step * ACCUMULATION : (step + 1) * ACCUMULATION]]
        for step in range(num_steps)
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("host", ALL_HOSTS)
def test_samples_lengths_and_kept_tokens_are_those_of_our_own_engine(host, folder):
    if host in APART:
        pytest.importorskip(host)
    seen = []
    write_inputs(folder)
    steps = expected(folder, 1)
    write_inputs(folder / "host", IDENTITIES.get(host))
    os.chdir(folder / "host")
    (HOSTS | APART)[host](folder, seen.append, None)
    assert seen == [one for step in steps for one in step]
    assert len({length for _, length, _ in seen}) > 1
    assert any(kept is not None for _, _, kept in seen)
    assert torch.is_grad_enabled()


@pytest.mark.full
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("host", ALL_HOSTS)
def test_killed_and_resumed_on_processes(host, num_ranks, folder):
    if host in APART:
        pytest.importorskip(host)
    write_inputs(folder)
    steps = expected(folder, num_ranks)
    for name in ("unbroken", "killed"):
        write_inputs(folder / name, IDENTITIES.get(host))
    run_in_processes(host, folder / "unbroken", num_ranks)
    assert seen_steps(folder / "unbroken", num_ranks) == steps
    assert run_in_processes(host, folder / "killed", num_ranks, KILLED_AFTER)
    assert seen_steps(folder / "killed", num_ranks) == steps[:KILLED_AFTER]
    run_in_processes(host, folder / "killed", num_ranks, resume="resume")
    assert seen_steps(folder / "killed", num_ranks) == steps[SAVE_STEPS:]
    weights = {
        (folder / name / f"weights.{rank}").read_text()
        for name in ("unbroken", "killed")
        for rank in range(num_ranks)
    }
    assert len(weights) == 1


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"torch_compile": True, "torch_compile_backend": "aot_eager"},
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"label_smoothing_factor": 0.1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_the_trainer_does_besides_changes_nothing_of_it(settings, folder):
    write_inputs(folder)
    steps = expected(folder, 1)
    seen = []
    HOSTS["trainer"](folder, seen.append, None, save_strategy="no", **settings)
    assert seen == [one for step in steps for one in step]


def expected_prompts(num_ranks):
    """The prompts of each step's micro-batches, each prompt twice: those of a uniform draw by our sampler."""
    settings = load_config("host/ds_config.json").data_efficiency
    num_prompts = ACCUMULATION * num_ranks
    sampler = CurriculumSampler(Texts(), settings, micro_batch_size=num_prompts)
    drawn = [sampler.next_global_batch().samples.tolist() for _ in range(NUM_STEPS)]
    return [[[prompt] * MICRO_BATCH_SIZE for prompt in prompts] for prompts in drawn]


@pytest.mark.full
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("host", GROUPS)
def test_groups_of_prompts_killed_and_resumed(host, num_ranks, folder, monkeypatch):
    write_inputs(folder / "host", IDENTITIES[host])
    monkeypatch.setattr(Texts, "identity", IDENTITIES[host])
    steps = expected_prompts(num_ranks)
    assert run_in_processes(host, folder / "host", num_ranks, KILLED_AFTER)
    found = seen_steps(folder / "host", num_ranks)[:KILLED_AFTER]
    assert [[samples for samples, _, _ in step] for step in found] == steps[:KILLED_AFTER]
    run_in_processes(host, folder / "host", num_ranks, resume="resume")
    found = seen_steps(folder / "host", num_ranks)
    assert [[samples for samples, _, _ in step] for step in found] == steps[SAVE_STEPS:]


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.full)])
def test_a_loader_with_a_state_killed_and_resumed(num_ranks, folder):
    write_inputs(folder)
    steps = expected(folder, num_ranks)
    write_inputs(folder / "host")
    found = []
    for rank in range(num_ranks):
        place = {"RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
        assert run_in_processes("stateful", folder / "host", 1, KILLED_AFTER, **place)
        run_in_processes("stateful", folder / "host", 1, resume="resume", **place)
        lines = (folder / "host" / f"seen.{rank}.jsonl").read_text().splitlines()
        seen = [json.loads(line)[0] for line in lines]
        # What was seen last before the kill was not saved, and is seen again.
        num_saved = KILLED_AFTER * ACCUMULATION
        assert seen.pop(num_saved) == seen[num_saved]
        found.append(seen)
    together = [
        one
        for step in range(NUM_STEPS)
        for seen in found
        for one in seen[step * ACCUMULATION : (step + 1) * ACCUMULATION]
    ]
    assert together == [samples for step in steps for samples, _, _ in step]


def test_ten_lines_are_added_at_most():
    titles = re.findall(r"^## (.*)$", host_runs.PAGE, re.MULTILINE)
    counts = {
        (title, number): sum(map(host_runs.is_added, block.splitlines()))
        for title in titles[: titles.index("DeepSpeed, or DDP without writing it")]
        for number, block in enumerate(host_runs.blocks(title))
    }
    assert len(counts) == 8
    assert all(0 < count <= 10 for count in counts.values()), counts
