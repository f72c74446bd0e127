"""A run of the trainer on every route at once: stopped within each phase and resumed, and guarded."""

import json

import pytest

import pretrain_bert
import pretrain_gpt
from tests.end_to_end import engine_runs
from tests.end_to_end.bert_runs import bert_flags, write_workspace
from tests.end_to_end.engine_runs import finish, log_lines, wait_for_steps
from tests.end_to_end.killing import kill_all
from tests.end_to_end.tiny_runs import random_ltd_section, training_flags

ROUTES = {
    "random_ltd": random_ltd_section()
    | {"random_ltd_layer_id": [[1, 2]], "residual_scale": "length_ratio", "always_keep": [0]},
    "layer_dropout": {
        "enabled": True,
        "rows_per_group": 4,
        "keep_schedule": {
            "min_value": 30,
            "schedule_type": "fixed_linear",
            "schedule_config": {"total_curriculum_step": 18, "difficulty_step": 1},
        },
    },
    "token_superposition": {"enabled": True, "bag_size": 3, "num_steps": 7},
    "full_from_step": 16,
}


def write(path, sections=(), **changes):
    routing = {**ROUTES, **changes}
    path.write_text(json.dumps({"data_efficiency": {"data_routing": routing}, **dict(sections)}))
    return path


def run(workspace, config, folder, **flags):
    settings = {"random_ltd": True, "deepspeed_config": config, "save": folder}
    return pretrain_gpt.main(training_flags(workspace, **(settings | flags)))


def lines_of(folder):
    timing = ("seconds", "step_seconds", "tokens_per_second", "flops_per_second", "waited")
    return [
        {key: value for key, value in line.items() if key not in timing}
        for line in log_lines(folder)
        if line["kind"] in ("train", "valid")
    ]


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory):
    """Configuration and folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("routes")
    config = write(folder / "routes.json")
    assert run(workspace, config, folder / "run") == 0
    return config, folder / "run"


@pytest.mark.parametrize("step", [4, 10, 17])
def test_a_resume_goes_on_in_the_phase_of_its_step(workspace, whole, tmp_path, step):
    config, folder = whole
    parts = tmp_path / "parts"
    assert run(workspace, config, parts, train_iters=step, lr_decay_iters=20) == 0
    assert run(workspace, config, parts, load=parts) == 0
    found = {line["step"]: line for line in lines_of(parts) if line["kind"] == "train"}
    wanted = {line["step"]: line for line in lines_of(folder) if line["kind"] == "train"}
    assert found == wanted
    ends = [path / "global_step20" / "model.safetensors" for path in (folder, parts)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


@pytest.mark.timeout(1200)
@pytest.mark.full
@pytest.mark.parametrize("fsdp", [None, 3])
def test_killed_on_two_processes_it_ends_in_the_same_bytes(workspace, tmp_path, fsdp):
    """Once among the steps of bags and once behind them."""
    config = write(
        tmp_path / "routes.json",
        token_superposition=ROUTES["token_superposition"] | {"num_steps": 12},
    )

    def start(name, **environment):
        saving = {"save_interval": 3, "keep_last": 0, "save": tmp_path / name, "fsdp": fsdp}
        loading = {"load": tmp_path / name, "allow_missing_checkpoint": True}
        flags = {"random_ltd": True, "deepspeed_config": config, "hidden_size": 64}
        flags = training_flags(workspace, **flags, **saving, **loading)
        return engine_runs.start(flags, 2, **environment)

    finish(start("whole"))
    for step, latest in ((4, range(3, 12)), (14, range(12, 20))):
        process = start("parts", ROUTES_KILLED=str(tmp_path))
        wait_for_steps(tmp_path / "parts", [process], step)
        kill_all(ROUTES_KILLED=str(tmp_path))
        process.communicate()
        saved = (tmp_path / "parts" / "latest").read_text().strip()
        assert int(saved.removeprefix("global_step")) in latest
    finish(start("parts"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert lines_of(parts) == lines_of(whole)
    files = sorted(path.name for path in (whole / "global_step20").glob("*.safetensors"))
    assert len(files) >= 2
    for name in files:
        found, expected = (folder / "global_step20" / name for folder in (parts, whole))
        assert found.read_bytes() == expected.read_bytes(), name


def write_for_a_bert(path, sections=()):
    """Spans that keep the masked tokens, rows that skip layers, and at last neither."""
    span = {"random_ltd_layer_id": [[1, 2]], "always_keep": [0], "always_keep_labelled": True}
    random_ltd = random_ltd_section(mask_name="attention_mask") | span | {"model_type": "encoder"}
    return write(path, sections, random_ltd=random_ltd, token_superposition={})


@pytest.mark.full
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "fsdp3", "zero2"])
@pytest.mark.parametrize("model", ["learned", "rotary", "bert"])
def test_two_processes_are_one_on_every_route(workspace, bert_workspace, tmp_path, model, engine):
    zero = {"zero_optimization": {"stage": 2}} if engine == "zero2" else {}
    sharding = {"fsdp": int(engine[-1])} if engine.startswith("fsdp") else {}
    flags_of_engine = {"deepspeed": True} if zero else sharding

    def train(name, num_processes, sections, **flags):
        config = tmp_path / f"{name}.json"
        flags |= {
            "random_ltd": True,
            "save": tmp_path / name,
            "micro_batch_size": 4,
            "num_layers": 4,
        }
        if model == "bert":
            write_for_a_bert(config, sections)
            script, plain = "pretrain_bert.py", {"data_efficiency_curriculum_learning": None}
            words = bert_flags(bert_workspace, config, **plain, **flags)
        else:
            write(config, sections)
            script, is_rotary = "pretrain_gpt.py", True if model == "rotary" else None
            kind = {"use_rotary_position_embeddings": is_rotary, "deepspeed_config": config}
            words = training_flags(workspace, **kind, **flags)
        finish(engine_runs.start(words, num_processes, script))
        return [line for line in lines_of(tmp_path / name) if line["kind"] == "train"]

    one = train("one", 1, {})
    two = train("two", 2, zero, **flags_of_engine)
    assert len(one) == len(two)
    for alone, shared in zip(one, two, strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        for key in ("kept_length", "actual_seq_length", "layer_tokens", "corpus_tokens", "flops"):
            assert shared[key] == alone[key], key
    kept = [line["actual_seq_length"] for line in one]
    assert kept[0] < kept[-1]


def test_a_bert_goes_on_in_each_phase(tmp_path):
    workspace = write_workspace(tmp_path / "bert")
    config = write_for_a_bert(tmp_path / "routes.json")

    def train(name, **settings):
        given = {
            "data_efficiency_curriculum_learning": None,
            "num_layers": 4,
            "random_ltd": True,
            "micro_batch_size": 4,
        }
        given |= {"save": tmp_path / name, "train_iters": 20, "lr_decay_iters": 20}
        return pretrain_bert.main(bert_flags(workspace, config, **(given | settings)))

    assert train("whole") == 0
    for step in (5, 17):
        assert train("parts", train_iters=step, load=tmp_path / "parts" if step > 5 else None) == 0
    assert train("parts", load=tmp_path / "parts") == 0
    wanted, found = (
        {line["step"]: line for line in lines_of(tmp_path / name) if line["kind"] == "train"}
        for name in ("whole", "parts")
    )
    assert found == wanted
    layer_tokens = [wanted[step]["layer_tokens"] for step in sorted(wanted)]
    steps = [after - before for before, after in zip(layer_tokens, layer_tokens[1:], strict=False)]
    assert min(steps[-4:]) == max(steps)
    assert steps[0] < 0.9 * steps[-1]
    ends = [tmp_path / name / "global_step20" / "model.safetensors" for name in ("whole", "parts")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_other_routes_are_another_run(workspace, whole, tmp_path, capsys):
    _, folder = whole
    changes = {
        "layer_dropout": {"layer_dropout": ROUTES["layer_dropout"] | {"rows_per_group": 2}},
        "token_superposition": {
            "token_superposition": ROUTES["token_superposition"] | {"bag_size": 2}
        },
        "full_from_step": {"full_from_step": 18},
        "random_ltd": {"random_ltd": ROUTES["random_ltd"] | {"residual_scale": "none"}},
    }
    for name, change in changes.items():
        config = write(tmp_path / "other.json", **change)
        assert run(workspace, config, tmp_path / name, load=folder, train_iters=22) == 1
        message = capsys.readouterr().err
        assert f"--override {name}" in message, message


def test_bags_of_berts_rows_are_refused(tmp_path, capsys):
    workspace = write_workspace(tmp_path / "bert")
    config = write(tmp_path / "routes.json")
    settings = {"save": tmp_path / "run", "data_efficiency_curriculum_learning": None}
    flags = bert_flags(workspace, config, **settings)
    assert pretrain_bert.main(flags) == 1
    assert "token_superposition is enabled, but batches have" in capsys.readouterr().err
