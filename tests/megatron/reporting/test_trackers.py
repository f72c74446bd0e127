"""Each tracker with its own package, as far as it is installed, and nothing but files on this machine."""

import importlib
import json
import os
import sqlite3
import struct
import sys
import time

import pytest
import torch
import torch.distributed

from megatron.reporting import RunLogger
from megatron.reporting.trackers import CLOCKS

START = {"kind": "start", "settings": {"training": {"lr": 1e-3, "bf16": False}, "logging": {}}}
RUN_FILE_TEXT = "[training]\nlr = 0.001\n"
SAMPLE = {
    "kind": "sample",
    "step": 3,
    "texts": [{"prompt": "The city ", "continuation": "*was*\n# a"}],
}


def train(step, **values):
    return {
        "kind": "train",
        "step": step,
        "loss": 5.0 - step / 10,
        "lm_loss": 5.0 - step / 10,
        "learning_rate": 1e-3,
        "corpus_tokens": 100 * step,
        "effective_tokens": 80 * step,
        **values,
    }


def logger(folder, *trackers, resumed=None, **more):
    folder.mkdir(exist_ok=True)
    (folder / "run.toml").write_text(RUN_FILE_TEXT)
    return RunLogger(folder, START, trackers=trackers, project="a-project", resumed=resumed, **more)


def tensorboard_shows(folder):
    """Tag -> (horizontal, vertical) points, and the texts by their tag."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    scalars = {
        tag: [(event.step, round(event.value, 4)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    texts = {
        tag.removesuffix("/text_summary"): [
            (event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }
    return scalars, texts


def test_tensorboard_is_one_run_that_shows_each_clock(tmp_path):
    with logger(tmp_path, "tensorboard") as log:
        for step in (1, 2, 3):
            log.write(train(step, grad_norm=float("nan")))
        log.write(SAMPLE)
    with logger(tmp_path, "tensorboard", resumed=train(1)) as log:
        log.write(train(2, loss=9.0))
        log.write(SAMPLE | {"step": 2})
    [_] = [path for path in (tmp_path / "tensorboard").rglob("*") if path.is_file()]
    scalars, texts = tensorboard_shows(tmp_path / "tensorboard")
    assert scalars["train/loss by step"] == [(1, 4.9), (2, 9.0)]
    assert scalars["train/loss by corpus tokens"] == [(100, 4.9), (200, 9.0)]
    assert scalars["train/loss by effective tokens"] == [(80, 4.9), (160, 9.0)]
    assert not [tag for tag in scalars if "grad_norm" in tag]
    assert texts == {
        "run.toml": [(0, "    [training]\n    lr = 0.001\n    ")],
        "sample/0": [(2, "    The city *was*\n    # a")],
    }


@pytest.mark.parametrize("resumed", [None, train(2)], ids=["afresh", "from step 2"])
def test_tensorboard_forgets_what_no_checkpoint_has(tmp_path, resumed):
    """Also where no step of the checkpoint's was logged, or no checkpoint was written."""
    with logger(tmp_path, "tensorboard") as log:
        for step in (3, 6, 9):
            log.write(train(step))
    with logger(tmp_path, "tensorboard", resumed=resumed) as log:
        log.write(train(6, loss=9.0))
    scalars, _ = tensorboard_shows(tmp_path / "tensorboard")
    assert scalars["train/loss by step"] == [(6, 9.0)]


def test_tensorboard_begins_with_the_lines_of_the_run_that_is_continued(tmp_path):
    with logger(tmp_path / "a") as log:
        for step in (1, 2, 3):
            log.write(train(step))
    elsewhere = {"resumed": train(2), "loaded_from": tmp_path / "a"}
    with logger(tmp_path / "b", "tensorboard", **elsewhere) as log:
        log.write(train(3))
    scalars, _ = tensorboard_shows(tmp_path / "b" / "tensorboard")
    assert scalars["train/lm_loss by step"] == [(1, 4.9), (2, 4.8), (3, 4.7)]


def test_each_loss_is_shown_by_its_name(tmp_path):
    losses = {"loss": 7.0, "masked_lm_loss": 6.25, "sentence_loss": 0.75}
    with logger(tmp_path, "tensorboard") as log:
        log.write(
            {"kind": "valid", "step": 1, "perplexity": 9.0, **losses, **dict.fromkeys(CLOCKS, 1)}
        )
    scalars, _ = tensorboard_shows(tmp_path / "tensorboard")
    assert {"valid/sentence_loss by step", "valid/masked_lm_loss by step"} <= scalars.keys()


def wandb_shows(folder):
    """Run -> step -> values, and the settings of each run, from the files of its offline mode."""
    steps, settings = {}, {}
    for file in sorted((folder / "run" / "wandb").glob("offline-run-*/*.wandb")):
        own, config = steps.setdefault(file.stem, {}), settings.setdefault(file.stem, {})
        for record in whole_records(file):
            items = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            if items:
                own[items["_step"]] = items
            for item in [*record.config.update, *record.run.config.update]:
                config[item.key] = json.loads(item.value_json)
    return steps, settings


def whole_records(file):
    """Those of a file, once its last is there: a process of wandb's own writes it, also after `finish`."""
    protocol = importlib.import_module("wandb.proto.wandb_internal_pb2")
    for _ in range(200):
        records = [*map(protocol.Record.FromString, pieces(file.read_bytes()))]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.05)
    raise AssertionError(f"{file} has no end")


def pieces(content):
    """Records of LevelDB's log format behind a header of 7 bytes.

    Blocks of 32 KiB hold pieces of (checksum, length, kind); kinds 1 and 4 end a record.
    """
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield record
            record = b""


def trackio_shows(folder):
    """As `wandb_shows`."""
    with sqlite3.connect(folder / "trackio" / "a-project.db") as database:
        lines = database.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id").fetchall()
        configs = database.execute("SELECT run_id, config FROM configs").fetchall()
    steps = {}
    for run, step, metrics in lines:
        own = steps.setdefault(run, {})
        own[step] = own.get(step, {}) | json.loads(metrics)
    assert len(lines) == sum(map(len, steps.values())) + 1, "a line was sent twice"
    return steps, {run: json.loads(config) for run, config in configs}


def mlflow_shows(folder):
    """As `wandb_shows`."""
    mlflow = importlib.import_module("mlflow")
    client = mlflow.MlflowClient()
    [experiment] = client.search_experiments(filter_string="name = 'a-project'")
    steps, settings = {}, {}
    for run in client.search_runs([experiment.experiment_id]):
        own, config = steps.setdefault(run.info.run_id, {}), run.data.params
        for name in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, name)
            assert len({point.step for point in points}) == len(points), "a line was sent twice"
            for point in points:
                own.setdefault(point.step, {})[name] = point.value
        artifacts = f"runs:/{run.info.run_id}"
        text = mlflow.artifacts.load_text(f"{artifacts}/sample/0/step_000000003.txt")
        own[3]["sample/0"] = text
        config["run.toml"] = mlflow.artifacts.load_text(f"{artifacts}/run.toml")
        settings[run.info.run_id] = config
    return steps, settings


SHOWS = {"wandb": wandb_shows, "trackio": trackio_shows, "mlflow": mlflow_shows}


@pytest.fixture(params=SHOWS)
def service(request, tmp_path, monkeypatch):
    """The name of a service that writes into files below `tmp_path`."""
    pytest.importorskip(request.param)
    pytest.importorskip("accelerate")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    if request.param == "trackio":
        for module in ("trackio.utils", "trackio.sqlite_storage", "trackio"):
            monkeypatch.setattr(f"{module}.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    return request.param


@pytest.mark.filterwarnings("default")
def test_a_service_goes_on_with_the_run_and_has_each_line_once(service, tmp_path):
    """Killed after step 4 and resumed from step 2: the steps that the tracker had stay."""
    folder = tmp_path / "run"
    with logger(folder, service) as log:
        for step in (1, 2, 3, 4):
            log.write(train(step, grad_norm=float("inf")))
            if step == 3:
                log.write(SAMPLE)
    with logger(folder, service, resumed=train(2)) as log:
        for step in (3, 4, 5):
            log.write(train(step))
    with logger(folder, resumed=train(5)) as log:
        log.write(train(6))
    with logger(folder, service, resumed=train(6)) as log:
        log.write(train(7))
    assert list(json.loads((folder / "trackers.json").read_text())) == [service]
    steps, settings = SHOWS[service](tmp_path)
    [(run, values)] = steps.items()
    assert list(values) == [1, 2, 3, 4, 5, 6, 7]
    for step, found in values.items():
        wanted = {
            f"train/{name}": train(step)[name] for name in ("loss", "lm_loss", "learning_rate")
        }
        wanted |= {name: train(step)[name] for name in ("corpus_tokens", "effective_tokens")}
        wanted |= {"sample/0": "The city *was*\n# a"} if step == 3 else {}
        own = {name: value for name, value in found.items() if not name.startswith("_")}
        assert own == pytest.approx(wanted) if step != 3 else own == wanted
    assert str(settings[run]["training.lr"]) == "0.001"
    assert settings[run]["run.toml"] == RUN_FILE_TEXT


@pytest.mark.filterwarnings("default")
def test_a_service_that_fails_is_left_and_given_the_rest_later(
    service, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    with logger(folder, service) as log:
        log.write(train(1))
        [(name, tracker)] = log._trackers._open.items()
        monkeypatch.setattr(tracker, "log", lambda *_: 1 / 0)
        log.write(train(2))
        log.write(train(3))
        tracker.finish()
    said = capsys.readouterr().out
    assert said.count(f"warning: {name} gets no more of this run: ZeroDivisionError") == 1
    with logger(folder, service, resumed=train(3)) as log:
        log.write(SAMPLE)
        log.write(train(4))
    steps, _ = SHOWS[service](tmp_path)
    [values] = steps.values()
    assert list(values) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("tracker", "module", "extra"),
    [
        ("tensorboard", "torch.utils.tensorboard", "report"),
        *((name, name, name) for name in SHOWS),
        ("wandb", "accelerate", "wandb"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    tmp_path, monkeypatch, tracker, module, extra
):
    if module == "accelerate":
        monkeypatch.setitem(sys.modules, "wandb", sys)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        logger(tmp_path, tracker)
    assert str(caught.value).startswith(f"--trackers names {tracker}, which is not installed (")
    assert f"pip install 'data-efficiency[{extra}]', or leave it out" in str(caught.value)


def test_what_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "tensorboard").write_text("a file in the way")
    with pytest.raises(
        ValueError, match="--trackers names tensorboard, which cannot be opened"
    ) as caught:
        logger(tmp_path, "tensorboard")
    assert "\n" not in str(caught.value)


def test_a_new_run_in_the_folder_is_a_new_one_of_the_tracker(tmp_path):
    (tmp_path / "trackers.json").write_text('{"wandb": {"id": "of the run before"}}')
    with logger(tmp_path) as log:
        log.write(train(1))
    assert not (tmp_path / "trackers.json").exists()


def test_no_process_group_is_made(tmp_path, service, monkeypatch):
    """accelerate makes one where a launcher's variables say so, and is told of none."""
    PartialState = importlib.import_module("accelerate").PartialState
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setenv("LOCAL_RANK", "0")
    num_threads = torch.get_num_threads()
    with logger(tmp_path / "run", service) as log:
        log.write(train(1))
    assert PartialState().num_processes == 1
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == num_threads
    assert os.environ["LOCAL_RANK"] == "0"
