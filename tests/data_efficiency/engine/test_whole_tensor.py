import json
from dataclasses import replace

import pytest
import torch

from data_efficiency.engine.whole_tensor import WholeTensor, gather_all, whole_tensors
from tests.processes import run_python


def test_tensors_at_hand_are_announced_and_not_copied():
    weight = torch.randn(3, 2, requires_grad=True)
    announced = whole_tensors({"weight": weight, "step": torch.tensor(4)})
    assert [(one.name, one.shape, one.dtype) for one in announced] == [
        ("weight", (3, 2), torch.float32),
        ("step", (), torch.int64),
    ]
    found = announced[0].gather()
    assert found.data_ptr() == weight.data_ptr()
    assert not found.requires_grad


def test_who_does_not_keep_them_takes_part_all_the_same():
    calls = []

    def gather():
        calls.append(1)
        return torch.ones(2)

    tensors = [WholeTensor(name="a", shape=(2,), dtype=torch.float32, gather=gather)] * 3
    assert torch.equal(gather_all(tensors)["a"], torch.ones(2))
    assert gather_all(tensors, keep=False) == {}
    assert len(calls) == 6


def test_what_goes_to_one_process_is_gathered_where_nothing_cheaper_is_known():
    calls = []
    plain = WholeTensor(name="a", shape=(2,), dtype=torch.float32, gather=lambda: torch.ones(2))
    assert plain.on(3).tolist() == [1, 1]
    cheap = replace(plain, send=lambda process: calls.append(process))
    assert cheap.on(3) is None
    changed = cheap.then(torch.neg)
    assert changed.on(4) is None
    assert changed.gather().tolist() == plain.then(torch.neg).on(0).tolist() == [-1, -1]
    assert calls == [3, 4]


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """What each of three processes got of each tensor, sent to each process in turn."""
    folder = tmp_path_factory.mktemp("sent")
    run_python(
        *("-m", "torch.distributed.run", "--nproc_per_node=3", "--standalone"),
        *("tests/data_efficiency/engine/sent_tensors.py", folder),
    )
    return [json.loads((folder / f"found.{rank}.json").read_text()) for rank in range(3)]


def test_parts_are_put_together_on_the_process_that_wants_them(sent):
    names = sent[0].keys()
    assert {"rows", "few_rows", "one_row", "halves", "flags", "columns", "whole", "turned"} == names
    for name in names:
        for rank, found in enumerate(sent):
            for process, same in enumerate(found[name]["same"]):
                # None: nothing arrived; elsewhere whether it is the whole tensor.
                assert same in ((True,) if rank == process else (None, True)), (name, rank, process)
    cheap = {name for name in names if sent[0][name]["same"] == [True, None, None]}
    assert cheap == {"rows", "few_rows", "one_row", "halves", "flags"}
