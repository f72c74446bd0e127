"""Real pipelines of datatrove: their indexes are those of our own analysis of the same files, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from data_efficiency import DifficultyIndex, MetricSettings, analyze
from data_efficiency.command import main
from tests.data_efficiency.small_corpus import word_tokenizer

pytest.importorskip("datatrove", reason="needs the extra `full`: make test-full installs it")
pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[3]
WORDS = ["the", "fox", "owl", "and"]
FILES = ("manifest.json", "order.npy", "values.npy")

PIPELINES = """
    import os, signal, sys
    from pathlib import Path
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from data_efficiency.adapters.datatrove_blocks import KeepTokens, MapMetric, WriteIndexes

    folder, step = Path(sys.argv[1]), sys.argv[2]

    def die_once(data, rank=0, world_size=1):
        for number, document in enumerate(data):
            if rank == 1 and number == 3 and not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield document

    def map_and_die_once(data, rank=0, world_size=1):
        if rank == 1 and not (folder / "map killed").exists():
            (folder / "map killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield from data or ()

    save = str(folder / "d")
    metric = "tests.data_efficiency.adapters.test_datatrove_blocks:letters"
    steps = {
        "keep": ([JsonlReader(str(folder / "texts")), die_once, KeepTokens(save, str(folder / "tokenizer.json"))], 2),
        "join": ([WriteIndexes(save, [])], 1),
        "map": ([map_and_die_once, MapMetric(save, metric)], 2),
        "write": ([WriteIndexes(save, ["seqlen", "vocab_rarity", metric])], 1),
    }
    if __name__ == "__main__":
        pipeline, tasks = steps[step]
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=tasks, logging_dir=str(folder / "logs" / step), start_method="fork"
        ).run()
"""


def letters(batch):
    """Sums of tokens, as a metric of one's own."""
    return [
        float(batch.tokens[a : a + n].sum())
        for a, n in zip(batch.starts, batch.lengths, strict=True)
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of texts, more than tasks, and a tokenizer."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "tokenizer.json").write_text(word_tokenizer(WORDS))
    (tmp_path / "texts").mkdir()
    for number in range(5):
        texts = [" ".join(WORDS[(number + i) % 4 :]) + " the" * (i % 5) for i in range(7 + number)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / "texts" / f"part_{number}.jsonl").write_text(lines)
    (tmp_path / "pipelines.py").write_text(textwrap.dedent(PIPELINES))
    return tmp_path


def start(folder, step):
    words = [sys.executable, str(folder / "pipelines.py"), str(folder), step]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(folder / "output", "a") as output:
        return subprocess.Popen(
            words, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def run(folder, step):
    assert start(folder, step).wait(120) == 0, (folder / "output").read_text()


def kill_one(folder, step, mark, other):
    """Run a pipeline whose second worker is killed; datatrove's pool waits for it for ever, and is ended."""
    process = start(folder, step)
    deadline = time.monotonic() + 120
    while not ((folder / mark).exists() and other.exists()):
        assert process.poll() is None, (folder / "output").read_text()
        assert time.monotonic() < deadline, (folder / "output").read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_worker_is_killed_and_the_pipeline_run_again(folder, capsys):
    completed = folder / "logs" / "keep" / "completions" / "00000"
    kill_one(folder, "keep", "killed", completed)
    parts = folder / "d" / "tokens.parts"
    assert [file.name for file in parts.glob("*.json")] == ["00000.json"]
    written = (parts / "00000.json").stat().st_mtime_ns
    process = start(folder, "join")
    assert process.wait(120) != 0
    assert "the parts of 1 of 2 tasks are missing, such as 00001" in (folder / "output").read_text()
    run(folder, "keep")
    assert (parts / "00000.json").stat().st_mtime_ns == written
    run(folder, "join")
    kill_one(folder, "map", "map killed", folder / "logs" / "map" / "completions" / "00000")
    run(folder, "map")
    run(folder, "write")

    settings = MetricSettings(tokenizer=folder / "tokenizer.json")
    words = [str(folder / "texts"), "--tokenizer", str(folder / "tokenizer.json")]
    for metric in ("seqlen", "vocab_rarity", f"{__name__}:letters"):
        assert main(["analyze", *words, "--metric", metric, "--save", str(folder / "ours")]) == 0
        name = metric.rpartition(":")[2]
        for file in FILES:
            ours = (folder / "ours" / name / file).read_bytes()
            assert (folder / "d" / name / file).read_bytes() == ours, (name, file)
    for name in ("tokens.bin", "offsets.npy", "tokenizer.json"):
        ours = (folder / "ours" / "tokens" / name).read_bytes()
        assert (folder / "d" / "tokens" / name).read_bytes() == ours
    assert sorted(path.name for path in (folder / "d").iterdir()) == [
        *("letters", "seqlen", "tokens", "total_vocab_freq", "vocab_rarity")
    ]
    datasets = pytest.importorskip("datasets")
    files = sorted(map(str, (folder / "texts").iterdir()))
    dataset = datasets.load_dataset(
        "json", data_files=files, split="train", cache_dir=str(folder / "cache")
    )
    DifficultyIndex.open(folder / "d" / "seqlen").check_dataset(dataset)
    again = analyze(dataset, "seqlen", folder / "python", settings)
    assert again.values.tolist() == DifficultyIndex.open(folder / "d" / "seqlen").values.tolist()


def pipe(steps, tasks, first=None):
    """Run blocks as any executor does: each rank by itself, in whatever order."""
    for rank in first or range(tasks):
        data = None
        for step in steps:
            data = step(data, rank, tasks)
        for _ in data:
            pass


def blocks():
    from data_efficiency.adapters import datatrove_blocks  # noqa: PLC0415

    return datatrove_blocks


@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_any_number_of_tasks_in_any_order(folder, tasks, storage):
    """More tasks than files too; on other storage."""
    from datatrove.pipeline.readers import JsonlReader  # noqa: PLC0415

    save, tokenizer = str(storage / "d"), str(folder / "tokenizer.json")
    steps = [JsonlReader(str(folder / "texts")), blocks().KeepTokens(save, tokenizer)]
    pipe(steps, tasks, reversed(range(tasks)))
    pipe([blocks().WriteIndexes(save, ["seqlen"])], 1)
    files = sorted((folder / "texts").iterdir())
    ours = analyze(
        [json.loads(line) for file in files for line in file.read_text().splitlines()],
        "seqlen",
        folder / "ours",
        MetricSettings(tokenizer=tokenizer),
    )
    found = DifficultyIndex.open(storage / "d" / "seqlen")
    assert found.values.tolist() == ours.values.tolist()
    assert not (storage / "d" / "tokens.parts").exists()
    # Nothing is done twice, and nothing is missing, when it is run again.
    pipe([blocks().WriteIndexes(save, ["seqlen"])], 1)
    with pytest.raises(ValueError, match="in the order of files, not of tasks"):
        pipe([blocks().WriteIndexes(save, ["seqlen"], order="tasks")], 1)


def test_filtered_documents_as_a_writer_behind_writes_them(folder, capsys):
    from datatrove.pipeline.filters import LambdaFilter  # noqa: PLC0415
    from datatrove.pipeline.readers import JsonlReader  # noqa: PLC0415
    from datatrove.pipeline.writers import JsonlWriter  # noqa: PLC0415

    tokenizer = str(folder / "tokenizer.json")

    def steps():
        return [
            JsonlReader(str(folder / "texts")),
            LambdaFilter(lambda document: "owl" in document.text),
            blocks().KeepTokens(str(folder / "d"), tokenizer),
            JsonlWriter(str(folder / "written"), compression=None),
        ]

    for rank in range(2):
        made = steps()
        pipe(made, 2, [rank])
        made[-1].close()
    pipe([blocks().WriteIndexes(str(folder / "d"), ["vocab_rarity"], order="tasks")], 1)
    words = ["analyze", str(folder / "written"), "--tokenizer", tokenizer]
    assert main([*words, "--save", str(folder / "ours")]) == 0
    assert DifficultyIndex.open(folder / "d" / "vocab_rarity").num_samples < 45
    for file in FILES:
        first, second = (folder / name / "vocab_rarity" / file for name in ("d", "ours"))
        assert first.read_bytes() == second.read_bytes()


class Documents:
    """A reader that says little."""

    def __init__(self, *paths):
        self.paths = paths

    def __call__(self, data, rank, world_size):
        from datatrove.data import Document  # noqa: PLC0415

        for path in self.paths[rank::world_size]:
            metadata = {} if path is None else {"file_path": path}
            yield Document(text="the fox", id=str(path), metadata=metadata)


def test_what_cannot_be_put_together(folder):
    save, tokenizer = str(folder / "d"), str(folder / "tokenizer.json")
    write, keep = blocks().WriteIndexes(save, ["seqlen"]), blocks().KeepTokens(save, tokenizer)
    with pytest.raises(
        FileNotFoundError, match="no task has kept tokens: run a pipeline with KeepT"
    ):
        pipe([write], 1)
    with pytest.raises(ValueError, match="WriteIndexes was given 2 tasks: it is the work of one"):
        pipe([write], 2)
    with pytest.raises(ValueError, match="order is 'names': files or tasks"):
        blocks().WriteIndexes(save, order="names")
    pipe([Documents("a", "b", None, "b"), keep], 2)
    with pytest.raises(ValueError, match="documents of task 00000 do not say which file"):
        pipe([write], 1)
    pipe([Documents("b", "b", "c", "a"), keep], 2)
    with pytest.raises(
        ValueError, match=r"the documents of b are in several places \(tasks 00000 and 00001"
    ):
        pipe([write], 1)
    pipe([Documents("a", "b", "c"), keep], 3, [1])
    with pytest.raises(ValueError, match="holds parts of several runs, of other numbers of tasks"):
        pipe([write], 1)
    pipe([Documents("a", "b", "c"), keep], 3)
    pipe([write], 1)
    assert DifficultyIndex.open(folder / "d" / "seqlen").values.tolist() == [2, 2, 2]
    pipe([Documents("d", "e"), keep], 2)
    with pytest.raises(FileExistsError, match="tokens that are of another dataset"):
        pipe([write], 1)


def test_a_join_that_is_stopped_among_its_last_removals_goes_on(folder, monkeypatch):
    """Parts that are left are those of the rows that are there, not of others."""
    from data_efficiency.analysis.token_parts import TokenParts  # noqa: PLC0415

    save, tokenizer = str(folder / "d"), str(folder / "tokenizer.json")
    pipe([Documents("a", "b", "c"), blocks().KeepTokens(save, tokenizer)], 3)

    def stop(parts):
        (parts.path / "00001.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TokenParts, "remove_all", stop)
        with pytest.raises(KeyboardInterrupt):
            blocks().put_together(save, "files")
    assert len(blocks().put_together(save, "files")) == 3
    assert not (folder / "d" / "tokens.parts").exists()
