"""Texts that are written while a run trains, on every engine: there are some, and the run stays as it is."""

import pytest
from safetensors.torch import load_file

from tests.end_to_end.engine_runs import (
    NUM_STEPS,
    assert_equal_runs,
    finish,
    flags_of,
    log_lines,
    start,
)


@pytest.mark.parametrize(
    ("num_processes", "stage"),
    [
        (2, None),
        pytest.param(1, None, marks=pytest.mark.full),
        pytest.param(2, 3, marks=pytest.mark.full),
    ],
)
def test_a_run_that_writes_texts_is_the_same_run(
    workspace, write_config, one_process, tmp_path, num_processes, stage
):
    flags = flags_of(
        workspace,
        write_config(stage),
        tmp_path,
        num_processes,
        deepspeed=True if stage is not None else None,
        tokenizer_file=workspace / "tokenizer.json",
        sample_interval=8,
        sample_tokens=6,
    )
    more = ["--sample-prompts", "abcd", "efgh abcd", "--trackers", "tensorboard"]
    output = finish(start([*flags, *more], num_processes))
    samples = [line for line in log_lines(tmp_path) if line["kind"] == "sample"]
    assert [line["step"] for line in samples] == [8, 16, NUM_STEPS]
    assert len({line["texts"][0]["continuation"] for line in samples}) > 1
    assert output.count("sample at step 16: 'abcd") == 1
    assert output.count("sample at step 16: 'efgh abcd") == 1
    [_] = (tmp_path / "tensorboard").rglob("events*")
    if num_processes > 1:
        assert_equal_runs(tmp_path, one_process)
        return
    for kind in ("train", "valid"):
        losses, wanted = (
            [line["loss"] for line in log_lines(folder) if line["kind"] == kind]
            for folder in (tmp_path, one_process)
        )
        assert losses == wanted
    weights, wanted = (
        load_file(folder / f"global_step{NUM_STEPS}" / "model.safetensors")
        for folder in (tmp_path, one_process)
    )
    assert all((weights[name] == wanted[name]).all() for name in wanted)
