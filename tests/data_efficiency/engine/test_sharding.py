import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from torch import nn

from data_efficiency.engine.sections import ZeroSettings
from data_efficiency.engine.sharding import find_units, refuse_shared_weights
from data_efficiency.json_section import ConfigError
from tests.data_efficiency.engine.sharded import CASES, NUM_LAYERS
from tests.data_efficiency.small_models import SmallModel

ROOT = Path(__file__).resolve().parents[3]
SIZES = [2, pytest.param(4, marks=pytest.mark.full)]
WAYS = [pytest.param(way, marks=pytest.mark.full) for way in ("fsdp3", "fsdp2", "whole")]
EXACT = ("plain", "recomputed_outside", "recomputed_inside", "compiled", "huggingface")


def run(folder, num_processes, way):
    """What process 0 and the last one found; of several test processes one starts them."""
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            partial.mkdir()
            command = [sys.executable]
            if num_processes > 1:
                command += ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}"]
                command += ["--standalone"]
            settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
            done = subprocess.run(
                [*command, Path(__file__).with_name("sharded.py"), partial, way],
                env=os.environ | settings,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            partial.rename(folder)
    return [
        json.loads((folder / f"{way}.{rank}.json").read_text()) for rank in (0, num_processes - 1)
    ]


@pytest.fixture(scope="session")
def base(tmp_path_factory, worker_id):
    """A folder that all test processes share."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def alone(base):
    return run(base / "sharded_1_whole", 1, "whole")[0]


@pytest.fixture(scope="session")
def several(base):
    """Number of processes and way -> what the first and the last of them found."""
    return lambda size, way: run(base / f"sharded_{size}_{way}", size, way)


def largest_gap(found, expected):
    assert len(found) == len(expected) > 0
    return max(abs(left - right) for left, right in zip(found, expected, strict=True))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", EXACT)
def test_parts_of_the_weights_train_as_the_whole(alone, several, size, way, case):
    """Learned positions and rotary ones, of a user's model and of a Hugging Face one."""
    (found, last), expected = several(size, way), alone[case]
    assert found[case] == last[case]
    found = found[case]
    assert largest_gap(found["losses"], expected["losses"]) < 2e-6
    assert largest_gap(found["first_gradients"], expected["first_gradients"]) < 1e-6
    assert largest_gap(found["norms"], expected["norms"]) < 5e-6
    for name in ("counters", "state", "model", "dtypes"):
        assert found[name] == expected[name], name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_weights_are_parts_again_after_an_evaluation(alone, several, size, way):
    """All the optimizer's tensors have a name, and evaluations see the weights of the last step."""
    found, expected = several(size, way)[0]["plain"], alone["plain"]
    assert largest_gap(found["evaluations"], expected["evaluations"]) < 1e-4
    assert len(set(expected["evaluations"])) == len(expected["losses"])
    assert set(found["state"]) == {
        f"{name}.{kind}" for name in found["weights"] for kind in ("exp_avg", "exp_avg_sq", "step")
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", ["bf16", "bf16_weights"])
def test_half_precision_is_that_of_one_process(alone, several, size, way, case):
    """Autocast, and bfloat16 weights of float32 originals: each micro-batch is computed alike.

    DDP sums the gradients of bfloat16 weights in bfloat16, FSDP2 in float32.
    """
    [found, last] = several(size, way)
    assert largest_gap(found[case]["losses"], alone[case]["losses"]) < 1e-3
    tolerance = 2e-4 if (way, case) == ("whole", "bf16_weights") else 1e-6
    assert largest_gap(found[case]["first_gradients"], alone[case]["first_gradients"]) < tolerance
    assert largest_gap(found[case]["losses"], alone["plain"]["losses"]) > 1e-4
    assert found[case] == last[case]
    assert found[case]["skipped"] == 0


@pytest.mark.full
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("way", ["fsdp2", "fsdp3"])
def test_float16_scales_and_skips_as_with_whole_weights(several, size, way):
    found, expected = several(size, way)[0]["fp16"], several(size, "whole")[0]["fp16"]
    assert found["skipped"] == expected["skipped"] > 0
    assert largest_gap(found["losses"], expected["losses"]) < 1e-4
    assert found["counters"] == expected["counters"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_an_optimizer_made_before_updates_the_parts(several, size, way):
    [found, _] = several(size, way)
    for case in ("given_optimizer", "listed_before"):
        assert found[case]["losses"] == found["plain"]["losses"], case
        assert found[case]["weights"] == found["plain"]["weights"], case


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_a_state_goes_to_ddp_and_back(several, size, way):
    [found, _] = several(size, way)
    if way != "whole" or size == 2:
        # DDP orders its buckets anew after its first step, and three addends make another sum then.
        assert found["moved"]["equal"]
    assert found["moved"]["gap"] < 1e-3  # Adam divides by roots of gradients near zero


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_derived_classes_are_called_as_the_users(several, size, way):
    """Else a layer class of a user's would pass for a tested one, and a checkpoint for another model's."""
    [found, _] = several(size, way)
    found = found["looked_at"]
    assert found["known"] == "LlamaDecoderLayer"
    assert found["as_shipped"] == [True] * NUM_LAYERS + [False] * NUM_LAYERS
    assert found["architectures"] == ["LlamaForCausalLM"]
    assert found["read_again"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_each_process_holds_its_part_alone(several, size, way):
    for found in several(size, way):
        held = found["bytes"]
        assert held["optimizer"] == 2 * held["weights"]
        # Rows that do not divide evenly make the first processes' parts a little larger.
        assert held["weights"] == pytest.approx(
            held["whole"] / (1 if way == "whole" else size), rel=0.1
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_a_first_step_that_breaks_off_says_why(alone, several, size, way):
    for found in several(size, way):
        assert found["broken_off"]["said"] == repr("of the user's")
        assert found["broken_off"]["loss"] == pytest.approx(alone["broken_off"]["loss"], rel=1e-6)


def test_every_case_is_looked_at(alone):
    assert {*EXACT, "bf16", "bf16_weights", "fp16"} == set(CASES)


class Mixed(nn.Module):
    """Layers behind a list of others, and a Sequential whose members differ."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        self.inner = nn.ModuleDict({"blocks": nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))})
        self.pools = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.heads = nn.ModuleList([nn.Linear(4, 2), nn.LayerNorm(4)])


def units(model, stage=3, **named):
    settings = ZeroSettings(stage=stage, **named)
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(unit)] for unit in find_units(model, settings)]


def test_the_layers_of_a_model_are_found_or_named():
    model = SmallModel()
    assert units(model) == ["layers.0", "layers.1", "layers.2", "layers.3"]
    assert units(Mixed()) == ["inner.blocks.0", "inner.blocks.1", "inner.blocks.2"]
    assert units(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == ["0", "1"]
    assert units(model, leaf_classes=("Block",)) == units(model)
    assert units(model, leaf_classes=("tests.data_efficiency.small_models.Block",)) == units(model)
    assert units(Mixed(), leaf_names=("inner", "inner.blocks.1", "stem")) == ["stem", "inner"]
    assert units(model, leaf_name_suffixes=(".dense",)) == [
        f"layers.{number}.dense" for number in range(4)
    ]
    assert units(nn.Linear(2, 2), stage=2) == []
    with pytest.raises(ConfigError, match="no layers are found in Linear .*leaf_module"):
        units(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="leaf_module.classes names 'Blok', but SmallModel has"):
        units(model, leaf_classes=("Block", "Blok"))


def test_weights_that_two_units_share_are_refused():
    model = SmallModel()
    found = find_units(model, ZeroSettings(stage=3))
    refuse_shared_weights(model, found)
    model.layers[3].dense.weight = model.layers[1].dense.weight
    with pytest.raises(
        ConfigError, match="layers.3.dense.weight is shared by layers that are gath"
    ):
        refuse_shared_weights(model, found)
    tied = SmallModel()
    tied.layers[0].dense.weight = tied.words.weight
    with pytest.raises(ConfigError, match="is shared by layers"):
        refuse_shared_weights(tied, find_units(tied, ZeroSettings(stage=3)))
