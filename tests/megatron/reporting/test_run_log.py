import json
import sys

import pytest

from megatron.reporting import RunLogger, read_log
from megatron.reporting.run_log import CLOCKS, open_tensorboard

START = {"kind": "start", "num_parameters": 10}


def train(step, **values):
    return {
        "kind": "train",
        "step": step,
        "loss": 5.0 - step / 10,
        "learning_rate": 1e-3,
        "corpus_tokens": 100 * step,
        "effective_tokens": 80 * step,
        **values,
    }


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def write_steps(folder, steps, resume_step=None):
    with RunLogger(folder, resume_step=resume_step) as logger:
        if resume_step is None:
            logger.write(START)
        for step in steps:
            logger.write(train(step))
            logger.write({"kind": "valid", "step": step, "loss": 4.0})
        logger.write({"kind": "end", "step": steps[-1], "reason": "signal"})


def test_lines_are_on_disk_at_once(tmp_path):
    with RunLogger(tmp_path / "new" / "run") as logger:
        logger.write(START)
        logger.write(train(1))
        assert lines_of(tmp_path / "new" / "run") == [START, train(1)]


@pytest.mark.parametrize("last", [7, 4], ids=["killed later", "stopped at its checkpoint"])
def test_resumed_log_has_each_step_once(tmp_path, last):
    write_steps(tmp_path / "broken", range(1, last + 1))
    write_steps(tmp_path / "broken", range(5, 11), resume_step=4)
    write_steps(tmp_path / "whole", range(1, 11))
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "whole")


@pytest.mark.parametrize("num_bytes", [1, 2, 20])
def test_resume_and_reading_bear_a_torn_last_line(tmp_path, num_bytes):
    write_steps(tmp_path, range(1, 4))
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-num_bytes])
    assert [record["step"] for record in read_log(tmp_path).train] == [1, 2, 3]
    write_steps(tmp_path, range(3, 5), resume_step=2)
    assert [record["step"] for record in read_log(tmp_path).train] == [1, 2, 3, 4]


def test_resume_without_a_log_starts_one(tmp_path):
    write_steps(tmp_path, range(5, 7), resume_step=4)
    assert [line["kind"] for line in lines_of(tmp_path)][:2] == ["train", "valid"]


def test_new_run_keeps_the_earlier_log_aside(tmp_path):
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, range(1, 3))
    assert len(read_log(tmp_path).train) == 2
    assert len((tmp_path / "log.earlier.jsonl").read_text().splitlines()) == 1 + 2 * 7 + 1


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with RunLogger(tmp_path) as logger:
        logger.write(train(1, loss=float("nan"), grad_norm=float("inf")))
    record = lines_of(tmp_path)[0]
    assert record["loss"] is None
    assert record["grad_norm"] is None


def test_read_log_sorts_the_lines_by_kind(tmp_path):
    write_steps(tmp_path, range(1, 4))
    log = read_log(tmp_path)
    assert log.start == START
    assert len(log.train) == len(log.valid) == 3
    assert log.end == {"kind": "end", "step": 3, "reason": "signal"}


def test_unfinished_run_has_no_end(tmp_path):
    with RunLogger(tmp_path) as logger:
        logger.write(START)
    assert read_log(tmp_path).end is None


def test_logs_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "log.jsonl"
    with pytest.raises(FileNotFoundError, match=r"log\.jsonl does not exist"):
        read_log(tmp_path)
    path.write_text('{"kind": "start"}\n{"kind"\n{"kind": "end"}\n')
    for read in (read_log, lambda folder: RunLogger(folder, resume_step=3)):
        with pytest.raises(ValueError, match="line 2 is not JSON"):
            read(tmp_path)
    path.write_text(json.dumps(train(1)) + "\n")
    with pytest.raises(ValueError, match="no line of kind 'start'"):
        read_log(tmp_path)


@pytest.fixture
def scalars():
    """Reads back what TensorBoard would show: tag -> (horizontal, vertical) points."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder):
        events = accumulator.EventAccumulator(str(folder)).Reload()
        return {
            tag: [(event.step, round(event.value, 4)) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }

    return read


def test_tensorboard_shows_each_clock(tmp_path, scalars):
    with RunLogger(tmp_path, tensorboard=True) as logger:
        logger.write(START)
        for step in (1, 2, 3):
            logger.write(train(step, grad_norm=float("nan")))
    with RunLogger(tmp_path, tensorboard=True, resume_step=1) as logger:
        logger.write(train(2, loss=9.0))
    shown = {clock: scalars(tmp_path / "tensorboard" / clock) for clock in CLOCKS}
    assert shown["step"]["train/loss by step"] == [(1, 4.9), (2, 9.0)]
    assert shown["corpus_tokens"]["train/loss by corpus tokens"] == [(100, 4.9), (200, 9.0)]
    assert shown["effective_tokens"]["train/loss by effective tokens"] == [(80, 4.9), (160, 9.0)]
    assert "train/grad_norm by step" not in shown["step"]


def test_missing_tensorboard_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"data-efficiency\[report\]"):
        open_tensorboard(tmp_path, {})


def test_the_first_loss_is_compared_and_each_is_in_tensorboard_by_name(tmp_path, scalars):
    counters = {"step": 1, "corpus_tokens": 100, "effective_tokens": 80}
    losses = {"loss": 7.0, "masked_lm_loss": 6.25, "sentence_loss": 0.75}
    with RunLogger(tmp_path, tensorboard=True) as logger:
        logger.write(START | {"losses": ("masked_lm", "sentence")})
        logger.write({"kind": "valid", **losses, "perplexity": 9.0, **counters})
    log = read_log(tmp_path)
    assert log.losses == ("masked_lm", "sentence")
    assert [record["loss"] for record in log.compared] == [6.25]
    assert [record["loss"] for record in log.valid] == [7.0]
    shown = scalars(tmp_path / "tensorboard" / "step")
    assert {"valid/sentence_loss by step", "valid/masked_lm_loss by step"} <= shown.keys()
