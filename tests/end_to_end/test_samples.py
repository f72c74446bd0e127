"""Texts that are written while a run trains, on every engine: there are some, and the run stays as it is."""

import pytest
from safetensors.torch import load_file

from tests.end_to_end.engine_runs import (
    NUM_STEPS,
    finish,
    flags_of,
    log_lines,
    start,
)


@pytest.mark.parametrize(
    ("num_processes", "stage"),
    [
        (1, None),
        pytest.param(2, None, marks=pytest.mark.full),
        pytest.param(2, 3, marks=pytest.mark.full),
    ],
)
def test_a_run_that_writes_texts_is_the_same_run(
    workspace, write_config, tmp_path, num_processes, stage
):
    """To the bit: beside a run on the same engine and processes that writes none."""
    plain, written = tmp_path / "plain", tmp_path / "written"
    config, deepspeed = write_config(stage), True if stage is not None else None
    tokenizer = {"tokenizer_file": workspace / "tokenizer.json"}
    flags = [
        flags_of(workspace, config, folder, num_processes, deepspeed=deepspeed, **tokenizer)
        for folder in (plain, written)
    ]
    finish(start(flags[0], num_processes))
    more = ["--sample-prompts", "abcd", "efgh abcd", "--trackers", "tensorboard"]
    more += ["--sample-interval", "8", "--sample-tokens", "6"]
    output = finish(start([*flags[1], *more], num_processes))
    samples = [line for line in log_lines(written) if line["kind"] == "sample"]
    assert [line["step"] for line in samples] == [8, 16, NUM_STEPS]
    assert len({line["texts"][0]["continuation"] for line in samples}) > 1
    assert output.count("sample at step 16: 'abcd") == 1
    assert output.count("sample at step 16: 'efgh abcd") == 1
    [_] = (written / "tensorboard").rglob("events*")
    for kind in ("train", "valid"):
        losses = [
            [line["loss"] for line in log_lines(folder) if line["kind"] == kind]
            for folder in (plain, written)
        ]
        assert losses[0] == losses[1] != []
    weights, wanted = (
        load_file(folder / f"global_step{NUM_STEPS}" / "model.safetensors")
        for folder in (written, plain)
    )
    assert all((weights[name] == wanted[name]).all() for name in wanted)
