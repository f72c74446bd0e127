import json

import pytest

from megatron.reporting import RunLogger, read_log
from megatron.reporting.run_log import losses_of

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
    resumed = None if resume_step is None else {"step": resume_step}
    with RunLogger(folder, START, resumed=resumed) as logger:
        for step in steps:
            logger.write(train(step))
            logger.write({"kind": "valid", "step": step, "loss": 4.0})
        logger.write({"kind": "end", "step": steps[-1], "reason": "signal"})


def test_lines_are_on_disk_at_once(tmp_path):
    with RunLogger(tmp_path / "new" / "run", START) as logger:
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


def test_resume_without_a_log_starts_one_that_reports(tmp_path):
    write_steps(tmp_path, range(5, 7), resume_step=4)
    log = read_log(tmp_path)
    assert log.start == START
    assert [record["step"] for record in log.train] == [5, 6]


def test_resume_elsewhere_begins_with_the_lines_of_the_run_it_continues(tmp_path):
    write_steps(tmp_path / "a", range(1, 8))
    before = (tmp_path / "a" / "log.jsonl").read_bytes()
    write_steps(tmp_path / "b", range(1, 3))
    other = START | {"flags": {"lr": 2}}
    with RunLogger(
        tmp_path / "b", other, resumed={"step": 4}, loaded_from=tmp_path / "a"
    ) as logger:
        logger.write(train(5))
    assert (tmp_path / "a" / "log.jsonl").read_bytes() == before
    assert lines_of(tmp_path / "b")[0] == other
    log = read_log(tmp_path / "b")
    assert log.start == other
    assert [record["step"] for record in log.train] == [1, 2, 3, 4, 5]
    assert len((tmp_path / "b" / "log.earlier.jsonl").read_text().splitlines()) == 1 + 2 * 2 + 1


BAD_LINES = (b'{"kind"', b"[1]", b"{}", b'{"kind": "train", "step": "3"}', b"\xff", b"[" * 99_999)


@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_does_not_stop_a_resume(tmp_path, bad, capsys):
    write_steps(tmp_path, range(1, 4))
    path = tmp_path / "log.jsonl"
    first, second, rest = path.read_bytes().split(b"\n", 2)
    path.write_bytes(b"\n".join([bad, second, bad, rest]))
    whole = path.read_bytes()
    write_steps(tmp_path, range(3, 5), resume_step=2)
    log = read_log(tmp_path)
    assert log.start == START
    assert [record["step"] for record in log.train] == [1, 2, 3, 4]
    assert (tmp_path / "log.damaged.jsonl").read_bytes() == whole
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"warning: {path}, line 1 is ")
    assert line.endswith("2 such lines are left out, log.damaged.jsonl has all")


def test_new_run_keeps_the_earlier_log_aside(tmp_path):
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, range(1, 3))
    assert len(read_log(tmp_path).train) == 2
    assert len((tmp_path / "log.earlier.jsonl").read_text().splitlines()) == 1 + 2 * 7 + 1


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with RunLogger(tmp_path, START) as logger:
        logger.write(train(1, loss=float("nan"), grad_norm=float("inf")))
    record = lines_of(tmp_path)[1]
    assert record["loss"] is None
    assert record["grad_norm"] is None


def test_read_log_sorts_the_lines_by_kind(tmp_path):
    write_steps(tmp_path, range(1, 4))
    log = read_log(tmp_path)
    assert log.start == START
    assert len(log.train) == len(log.valid) == 3
    assert log.end == {"kind": "end", "step": 3, "reason": "signal"}


def test_unfinished_run_has_no_end(tmp_path):
    with RunLogger(tmp_path, START):
        pass
    assert read_log(tmp_path).end is None


def test_logs_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "log.jsonl"
    with pytest.raises(FileNotFoundError, match=r"log\.jsonl does not exist"):
        read_log(tmp_path)
    path.write_text('{"kind": "start"}\n{"kind"\n{"kind": "end"}\n')
    with pytest.raises(ValueError, match="line 2 is not valid JSON"):
        read_log(tmp_path)
    path.write_text(json.dumps(train(1)) + "\n")
    with pytest.raises(ValueError, match="no line of kind 'start'"):
        read_log(tmp_path)


def test_the_first_loss_is_compared(tmp_path):
    start = START | {"losses": ("masked_lm", "sentence")}
    losses = {"loss": 7.0, "masked_lm_loss": 6.25, "sentence_loss": 0.75}
    with RunLogger(tmp_path, start) as logger:
        logger.write({"kind": "valid", "step": 1, **losses})
    log = read_log(tmp_path)
    assert losses_of(log.start) == ("masked_lm", "sentence")
    assert [record["loss"] for record in log.valid] == [7.0]
