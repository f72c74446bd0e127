"""What was published since 2024, scaled down and run: that the order, the mix, the window and the average were really those."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pretrain_gpt
from data_efficiency import DifficultyIndex
from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.processes import run_python
from tools import merge_checkpoints

pytestmark = pytest.mark.full
SEQ_LENGTH = 64
SPLIT = "949,50,1"
NUM_DOCUMENTS = {"web": 500, "books": 250}
NUM_SAMPLES = {"web": 947, "books": 473}
"""Rows of the training documents."""


@pytest.fixture(scope="module")
def blend(tmp_path_factory):
    """Weights and paths of two sources, and an index of quality in which each book is above all of the web."""
    folder = tmp_path_factory.mktemp("published")
    generator = np.random.default_rng(5)
    words = []
    for name, number in NUM_DOCUMENTS.items():
        lengths = np.full(number, 2 * SEQ_LENGTH, np.int32)
        tokens = generator.integers(0, 400, lengths.sum()).astype(np.uint16)
        with IndexedDatasetWriter(folder / name, np.dtype("uint16")) as writer:
            writer.add_documents(tokens, lengths)
            writer.finish({"vocab_size": 400})
        words += [str(number), str(folder / name)]
    run_python(
        *("tools/analyze_data.py", "run", "--data-path", *words, "--split", SPLIT),
        *("--seq-length", SEQ_LENGTH, "--metric", "vocab_rarity", "--num-processes", 1),
        *("--save", folder / "difficulty"),
    )
    rarity = DifficultyIndex.open(folder / "difficulty" / "vocab_rarity")
    assert rarity.num_samples == sum(NUM_SAMPLES.values())
    quality = generator.random(rarity.num_samples)
    quality[NUM_SAMPLES["web"] :] += 1
    DifficultyIndex.write(
        folder / "difficulty" / "quality",
        quality,
        metric="quality",
        dataset_identity=rarity.dataset_identity,
    )
    return folder, words, quality


@pytest.fixture
def samples_read(monkeypatch):
    """The numbers of the training samples that a run reads, in its order."""
    found, task = [], pretrain_gpt.TASK

    def make_datasets(config):
        train, *others = task.make_datasets(config)
        get_batch = train.get_batch

        def noted(samples, visits=None):
            found.extend(np.asarray(samples).tolist())
            return get_batch(samples, visits)

        train.get_batch = noted
        return train, *others

    monkeypatch.setattr(pretrain_gpt, "TASK", replace(task, make_datasets=make_datasets))
    return found


def run(name, blend, save, *flags, data_path=None):
    """Lines of the log of a recipe's small run."""
    folder, words, _ = blend
    places = ["--data-path", *(data_path or words), "--difficulty", folder / "difficulty"]
    places += ["--save", save]
    flags = ["--config", name, "--scale-down", *places, "--vocab-size", 400, *flags]
    assert pretrain_gpt.main(list(map(str, flags))) == 0
    lines = [json.loads(line) for line in (save / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def ranks_in_parts(samples, quality):
    """Whether each sample is a book, and its rank among those of its source."""
    num_web = NUM_SAMPLES["web"]
    ranks = np.empty(len(quality), int)
    for part in (slice(0, num_web), slice(num_web, None)):
        ranks[part] = np.argsort(np.argsort(quality[part]))
    samples = np.array(samples)
    return samples >= num_web, ranks[samples]


def test_buckets_rise_in_each_source_while_their_mix_stays(blend, tmp_path, samples_read):
    """Puro (arXiv 2608.27370): a plain sort would play all of the web before the first book."""
    steps = run("gpt_cl_buckets_1400b", blend, tmp_path / "run")
    is_book, ranks = ranks_in_parts(samples_read[: 4 * len(steps)], blend[2])
    drawn = np.arange(1, len(is_book) + 1)
    assert np.abs(np.cumsum(is_book) - drawn / 3).max() <= 1
    for of_source, num_ranks in zip((~is_book, is_book), NUM_SAMPLES.values(), strict=True):
        buckets = ranks[of_source] * 376 // num_ranks
        assert (np.diff(buckets) >= 0).all()
        assert buckets[0] < 20
        assert buckets[-1] > 376 - 30
    last = steps[-1]["part_epochs"]
    assert last == pytest.approx([80 / len(blend[2])] * 2, abs=2 / NUM_SAMPLES["books"])
    rates = {step["learning_rate"] for step in steps[1:]}
    assert len(rates) == 1


@pytest.mark.parametrize(("name", "last_rate"), [("cma", 3e-3), ("cdma", 1e-3)])
def test_the_best_data_comes_last_and_the_last_checkpoints_are_averaged(
    blend, tmp_path, samples_read, name, last_rate
):
    """Arxiv 2511.18903: ascending, a rate that stays or falls to a third, EMA with alpha 0.2 of the last 6 checkpoints."""
    folder = tmp_path / "run"
    more = ("--num-checkpoints", 10, "--keep-last", 6)
    steps = run(f"gpt_cl_quality_{name}_30b", blend, folder, *more)
    _, ranks = ranks_in_parts(samples_read[: 4 * len(steps)], blend[2])
    quarter = len(ranks) // 4
    means = [ranks[place : place + quarter].mean() for place in range(0, len(ranks), quarter)]
    assert means == sorted(means)
    rates = [step["learning_rate"] for step in steps]
    assert max(rates) == pytest.approx(3e-3)
    assert rates[-1] == pytest.approx(last_rate, rel=0.1)
    assert rates == ([rates[0]] + [3e-3] * (len(rates) - 1) if name == "cma" else rates)

    merged = tmp_path / "merged"
    flags = ["--input", folder, "--last", 6, "--shares", "ema", "--alpha", 0.2, "--output", merged]
    assert merge_checkpoints.main(list(map(str, flags))) == 0
    saved = sorted(each for each in folder.iterdir() if each.is_dir() and "step" in each.name)
    assert len(saved) == 6
    raw = [0.8**age for age in range(5, -1, -1)]
    weights = [load_file(each / "model.safetensors") for each in saved]
    (found,) = merged.glob("*/model.safetensors")
    for key, tensor in load_file(found).items():
        total = torch.zeros(tensor.shape, dtype=torch.float64)
        for share, one in zip(raw, weights, strict=True):
            total += share / sum(raw) * one[key].double()
        assert torch.equal(tensor, total.float())
        assert not torch.equal(tensor, weights[-1][key])


def test_windows_grow_for_64_percent_of_the_tokens(blend, tmp_path):
    """SkyLadder (arXiv 2503.15450): blocks from 8 of 8,192 tokens on, linearly, over 64 % of the run; then full."""
    steps = run("gpt_cl_window_107b", blend, tmp_path / "run")
    windows = np.array([step["difficulties"]["attention_window"] for step in steps])
    assert (np.diff(windows) >= 0).all()
    assert windows[0] < 8
    done = np.array([step["corpus_tokens"] for step in steps]) / steps[-1]["corpus_tokens"]
    assert done[windows < SEQ_LENGTH].max() == pytest.approx(0.64, abs=0.05)
    assert {step["sequence_length"] for step in steps} == {SEQ_LENGTH}
    ramp = done[windows < SEQ_LENGTH]
    straight = SEQ_LENGTH * ramp / 0.64
    assert np.abs(windows[windows < SEQ_LENGTH] - straight).max() <= 6
    spent = np.diff([0, *(step["flops"] for step in steps)])
    pairs = np.array([w * w * (SEQ_LENGTH // w) + (SEQ_LENGTH % w) ** 2 for w in windows.tolist()])
    # FLOPs of a step are those of its pairs, up to what no window changes.
    slope = (spent - spent[-1]) - (pairs - pairs[-1]) * (spent[-1] - spent[0]) / (
        pairs[-1] - pairs[0]
    )
    assert np.abs(slope).max() <= 1


def test_short_pieces_come_first_in_each_of_eight_cycles(blend, tmp_path, samples_read):
    """Dataset Decomposition (arXiv 2405.13226): odds 32:16:8:4:2:1, the published tokens of each length, equal tokens a step."""
    folder, _, _ = blend
    words = [str(folder / "long")]
    lengths = np.random.default_rng(0).integers(1, 300, 400).astype(np.int32)
    tokens = np.arange(lengths.sum()).astype(np.uint16) % 400
    with IndexedDatasetWriter(folder / "long", np.dtype("uint16")) as writer:
        writer.add_documents(tokens, lengths)
        writer.finish({"vocab_size": 400})
    num_steps, per_step = 480, 4 * SEQ_LENGTH
    more = ("--train-tokens", num_steps * per_step)
    steps = run("gpt_pieces_29b", blend, tmp_path / "run", *more, data_path=words)
    assert [step["corpus_tokens"] for step in steps] == [
        per_step * number for number in range(1, num_steps + 1)
    ]
    played = np.array([step["sequence_length"] for step in steps])
    published = np.array([3.73, 6.29, 7.77, 6.62, 5.41, 4.73])
    kinds = 2 ** np.arange(1, 7)
    counts = (played[:, None] == kinds).sum(0)
    assert np.abs(counts - num_steps * published / published.sum()).max() < 1
    cycles, odds = played.reshape(8, -1), 2.0 ** np.arange(5, -1, -1)
    means = [part.mean() for part in np.array_split(cycles, 4, axis=1)]
    assert means == sorted(means)
    # A cycle begins a step or two before or behind an eighth of the run; the shortest are all drawn after a quarter of it.
    early = (cycles[:, 2:12].flatten()[:, None] == kinds).sum(0)
    expected = 80 * published * odds / (published * odds).sum()
    assert np.abs(early - expected).max() <= 6
    assert set(played[-6:]) <= {32, 64}
    start = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    read, drawn, place = np.array(samples_read), {}, 0
    for length in played.tolist():
        drawn.setdefault(length, []).extend(read[place : place + per_step // length])
        place += per_step // length
    for length, size in start["pieces"]["sizes"].items():
        # Every piece comes once before one comes again.
        one_pass = drawn[int(length)][:size]
        assert len(set(one_pass)) == len(one_pass)


def test_two_stages_of_rows_have_three_quarters_and_a_quarter_of_the_tokens(blend, tmp_path):
    """BTLM (arXiv 2309.11568): 470B tokens at 2,048, 157B at 8,192, as many tokens in each step."""
    steps = run("gpt_cl_stages_627b", blend, tmp_path / "run")
    tokens = np.diff([0, *(step["corpus_tokens"] for step in steps)])
    assert set(tokens) == {4 * SEQ_LENGTH}
    stages = np.array([step["stage"] for step in steps])
    lengths = np.array([step["sequence_length"] for step in steps])
    assert (stages == np.sort(stages)).all()
    assert set(zip(stages.tolist(), lengths.tolist(), strict=True)) == {(1, 16), (2, 64)}
    assert (stages == 1).mean() == pytest.approx(0.75)
    assert steps[0]["consumed_samples"] == 16
    assert steps[-1]["consumed_samples"] - steps[-2]["consumed_samples"] == 4
