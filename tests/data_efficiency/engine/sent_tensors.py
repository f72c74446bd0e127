"""Tensors in parts on three processes, each put together on one of them in turn.

Started as a command by test_whole_tensor.py: `sent_tensors.py FOLDER`. Writes FOLDER/found.RANK.json.
"""

import json
import sys
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DeviceMesh, Shard, distribute_tensor

from data_efficiency.engine.whole_tensor import whole_tensors


def main(folder):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    mesh = init_device_mesh("cpu", (3,))
    turned = DeviceMesh("cpu", [2, 0, 1])
    numbers = torch.arange(42.0)
    whole = {
        "rows": numbers.view(6, 7),
        "few_rows": numbers[:20].view(4, 5),  # 2, 2 and none
        "one_row": numbers[:5].view(1, 5),
        "halves": numbers.view(7, 6).bfloat16(),
        "flags": numbers.view(7, 6) > 20,
        "columns": numbers.view(6, 7).t().contiguous(),
        "whole": numbers,
        "turned": numbers.view(6, 7),
    }
    parts = {
        name: distribute_tensor(
            tensor, turned if name == "turned" else mesh, [Shard(int(name == "columns"))]
        )
        for name, tensor in whole.items()
        if name != "whole"
    }
    found = {}
    for one in whole_tensors({**parts, "whole": whole["whole"]}):
        arrived = [one.on(process) for process in range(3)]
        expected = whole[one.name]
        same = [
            None if a is None else a.dtype == one.dtype and torch.equal(a, expected)
            for a in arrived
        ]
        found[one.name] = {"same": same}
    (folder / f"found.{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
