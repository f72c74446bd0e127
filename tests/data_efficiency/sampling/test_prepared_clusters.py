import logging
import multiprocessing
import os
import time

import numpy as np
import pytest

from data_efficiency.sampling.prepared_clusters import open_or_prepare

DTYPE = np.dtype(np.uint16)


class Filling:
    """Writes 0, 2, 4, ... and counts how often it was asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, order):
        self.calls += 1
        order[:30] = np.arange(0, 60, 2)
        return np.array([1, 8]), np.array([0, 10, 30])


def prepare(parent, fill, **made_from):
    return open_or_prepare(parent, made_from, DTYPE, lambda: (50, fill))


def check(arrays):
    assert arrays.order[:30].tolist() == list(range(0, 60, 2))
    assert arrays.admission_steps.tolist() == [1, 8]
    assert arrays.starts.tolist() == [0, 10, 30]


def test_prepared_once_and_mapped_afterwards(tmp_path):
    fill = Filling()
    for _ in range(3):
        arrays = prepare(tmp_path / "new" / "folder", fill, seed=1)
        check(arrays)
        assert isinstance(arrays.order, np.memmap)
        assert arrays.order.size == 30
        assert arrays.order.dtype == DTYPE
    assert fill.calls == 1
    prepare(tmp_path / "new" / "folder", fill, seed=2)
    assert fill.calls == 2


def shortened(data):
    return data[:-5]


def with_a_bit_flipped(data):
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def without_a_type(data):
    return data.replace(b'"dtype"', b'"ddype"')


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("order.bin", shortened),
        ("starts.npy", shortened),
        ("manifest.json", shortened),
        ("manifest.json", without_a_type),
        ("order.bin", with_a_bit_flipped),
        ("starts.npy", with_a_bit_flipped),
        ("admission_steps.npy", with_a_bit_flipped),
    ],
)
def test_damaged_clusters_are_prepared_again(tmp_path, caplog, file, damage):
    fill = Filling()
    prepare(tmp_path, fill)
    (folder,) = tmp_path.glob("clusters-*")
    damaged = folder / file
    damaged.write_bytes(damage(damaged.read_bytes()))
    check(prepare(tmp_path, fill))
    assert fill.calls == 2
    assert "preparing the clusters again" in caplog.text
    prepare(tmp_path, fill)
    assert fill.calls == 2


def test_where_nothing_can_be_written_they_are_held_in_memory(tmp_path, caplog):
    (tmp_path / "taken").write_text("a file")
    with caplog.at_level(logging.WARNING):
        check(prepare(tmp_path / "taken" / "folder", Filling()))
    assert "prepared in memory" in caplog.text


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path):
    def fail(order):
        raise ValueError("no common sample")

    with pytest.raises(ValueError, match="no common sample"):
        prepare(tmp_path, fail)
    assert not list(tmp_path.iterdir())


def prepare_slowly(parent):
    def fill(order):
        (parent / f"filled-by-{os.getpid()}").touch()
        time.sleep(0.3)
        return Filling()(order)

    check(prepare(parent / "clusters", fill))


def test_of_processes_that_start_together_one_prepares(tmp_path):
    # Forked, as the loader's workers are: a new interpreter would take seconds to import torch.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=prepare_slowly, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("filled-by-*"))) == 1
