"""Thousands of changed files: each is told in a line, or does not change what comes out.

What a checksum or a fingerprint protects (checkpoints, indexes, clusters, corpora, tokenizers) is used as it
was written or not at all. A user's own files (configurations, run files, logs, results, texts) may say
something else: what they say is what is done, or a line says why not.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import pretrain_gpt
from data_efficiency import DifficultyIndex
from data_efficiency.command_end import line_about
from data_efficiency.sampling.prepared_clusters import open_or_prepare
from megatron.checkpoint.files import find_checkpoint, read_state, read_tensors
from megatron.config import DataConfig
from megatron.corpus.sentence_splitter import learn_model, splitter_of_file, write_sentence_model
from megatron.corpus.text_sources import find_sources, read_blocks, texts_of
from megatron.data.gpt_dataset import GPTDataset
from megatron.data.vocabulary_check import check_vocabulary
from megatron.reporting import RunLogger
from megatron.study import is_prepared, jobs_of, read_study
from megatron.tokenizer import build_tokenizer
from tests.end_to_end.tiny_runs import composed_flags, write_composed, write_text
from tests.faults.mutations import mutated
from tests.megatron.study.studies import STUDY, a_study
from tests.megatron.study.test_pages import finish
from tests.megatron.study.test_results import write_finetuning_run
from tools import (
    analyze_data,
    gather_results,
    plan,
    preprocess_data,
    report,
    train_tokenizer,
)
from tools import study as tools_study

SECONDS = 10
EXAMPLES = Path(__file__).resolve().parents[2] / "examples_deepspeed" / "data_efficiency"
ANYTHING = object()
"""In place of the results that are allowed: the file is the user's own."""


def command(main, *arguments):
    """How a command ends and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as left:
            code = left.code
    if "fault of the program" in printed.getvalue() or code not in (0, 1, 2):
        raise AssertionError(printed.getvalue()[-1000:])
    if code:  # 2: argparse's.
        raise ValueError(printed.getvalue())
    return printed.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one file of every kind; what a changed one names is not looked for elsewhere."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = tmp_path_factory.mktemp("made")
    write_text(made / "text.jsonl")
    text, tokenizer = made / "text.jsonl", made / "tokenizer.json"
    command(train_tokenizer.main, "--input", text, "--vocab-size", 400, "--output", tokenizer)
    command(
        *(preprocess_data.main, "--input", text, "--workers", 1, "--tokenizer-file", tokenizer),
        *("--append-eod", "--output-prefix", made / "corpus"),
    )
    command(
        *(analyze_data.main, "run", "--data-path", made / "corpus_text_document"),
        *("--split", "9,1,0", "--seq-length", 32, "--save", made / "difficulty"),
    )
    command(
        analyze_data.main, "export", made / "difficulty" / "vocab_rarity", "--output", made / "ds"
    )
    write_composed(made / "composed.json", made)
    flags = {"train_iters": 4, "save_interval": 2, "save": made / "run", "keep_last": 0}
    command(pretrain_gpt.main, *composed_flags(made, made / "composed.json", **flags))
    for name in ("gpt", "bert"):
        shutil.copytree(EXAMPLES / name, made / name)
    for name in ("gpt_finetuning", "vit_finetuning"):
        shutil.copytree(EXAMPLES / name, made / name)
    np.save(made / "scores.npy", np.arange(606.0))
    lines = [json.dumps({"a": {"score": number / 7}}) for number in range(606)]
    (made / "scores.jsonl").write_text("\n".join(lines) + "\n")
    write_sentence_model(made / "sentences.json", learn_model(find_sources([text])[0], ["text"]))
    write_results(made)
    write_study(made)
    open_clusters(made / "clusters")
    yield made
    monkeypatch.undo()


def write_results(made):
    """Results of other commands, in the form that they write."""
    write_finetuning_run(made / "seeds", 1, 3.0)
    evaluation = {"format": "evaluation", "version": 1, "checkpoint": "c", "num_fewshot": 0}
    evaluation |= {"tasks": {"copa": {"acc": 0.5}, "rte": {"acc": 0.6}}}
    (made / "evaluation.json").write_text(json.dumps(evaluation))


def write_study(made):
    """A study of which all runs are finished."""
    stage = '[[prepare]]\nname = "text"\nmakes = "{output}/text"\ncommand = ["x"]\n'
    read = a_study(made / "study", stage + STUDY)
    for job in jobs_of(read):
        finish(job, read.output)
    (read.output / "text").touch()
    (read.output / "stages").mkdir()
    (read.output / "stages" / "text.json").write_text('{"key": "0", "seconds": 1.0}')


def of_study(made, subcommand):
    file, output = made / "study" / "my_study.toml", made / "study" / "runs"
    printed = command(tools_study.main, subcommand, file, "--output", output)
    return printed, is_prepared(read_study(file, output=output))


def open_clusters(folder):
    def fill(order):
        order[:] = np.arange(40)[::-1]
        return np.arange(4), np.arange(0, 50, 10)

    found = open_or_prepare(folder, {"seed": 1}, np.dtype(np.uint8), lambda: (40, fill))
    return [array.tolist() for array in found]


def checkpoint_of(made):
    found = find_checkpoint(made / "run")
    folder = made / "run" / f"global_step{found.step}"
    weights, optimizer = read_tensors(folder)
    read = hashlib.sha256(repr(read_state(folder)).encode())
    for name, tensor in sorted((weights | optimizer).items()):
        read.update(repr((name, tensor.dtype, tensor.shape)).encode())
        read.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return read.hexdigest()


def earlier_checkpoint_of(made):
    shutil.move(made / "run" / "global_step4", made / "aside")
    try:
        return checkpoint_of(made)
    finally:
        shutil.move(made / "aside", made / "run" / "global_step4")


def samples_of(made):
    """What a run reads: every sample of the training split, if it is the tokenizer's."""
    data = DataConfig(data_path=(str(made / "corpus_text_document"),), seq_length=32)
    dataset = GPTDataset(data.data_path[0], split="9,1,0", sequence_length=32)
    tokenizer = build_tokenizer(tokenizer_file=made / "tokenizer.json")
    check_vocabulary(dataset, data, 400, tokenizer)
    batch = dataset.get_batch(np.arange(len(dataset)))
    ids = tokenizer.encode("the low and the lowest")
    return ids, {name: array.tobytes() for name, array in batch.items()}


def index_of(made):
    index = DifficultyIndex.open(made / "difficulty" / "vocab_rarity")
    bounds = (index.min_value, index.max_value, index.num_samples, index.dataset_identity)
    return index.values.tobytes(), index.order.tobytes(), bounds


def run_file(made, script, *more):
    return lambda: command(pretrain_gpt.main, "--config", made / script, "--print-json", *more)


def logged(made):
    copy = made / "copy"
    RunLogger(
        copy, {"kind": "start"}, resumed={"step": 3}, loaded_from=made / "run", say=str
    ).close()
    shutil.rmtree(copy)
    return reported(made, made / "run")


def reported(made, folder):
    return command(
        *(report.main, "--run", f"baseline={folder}", "--no-picture"),
        *("--output", made / "report"),
    )


def imported(made, kind, source, *more):
    shutil.rmtree(made / "imported", ignore_errors=True)
    return command(
        *(analyze_data.main, "import", "--format", kind, "--input", source, *more),
        *("--metric", "vocab_rarity", "--save", made / "imported", "--split", "9,1,0"),
        *("--data-path", made / "corpus_text_document", "--seq-length", 32),
    )


def texts_read(made):
    sources, _ = find_sources([made / "text.jsonl"])
    return [text for block in read_blocks(sources, ["text"]) for text in texts_of(block, ["text"])]


def planned(made):
    return command(
        *(plan.main, made / "composed.json", "--train-steps", 12, "--seq-length", 32),
        *("--num-samples", 606, "--global-batch-size", 8, "--num-layers", 4, "--rows", 3),
    )


def finetuning_planned(file):
    return command(plan.main, "--config", file)


def targets(made):
    """Name -> files, their kind, what reads them, and the results that are allowed besides its own."""
    run, difficulty = made / "run", made / "difficulty" / "vocab_rarity"
    corpus = [made / f"corpus_text_document.{end}" for end in ("bin", "idx")]
    clusters = next((made / "clusters").glob("clusters-*"))
    older = [checkpoint_of(made), earlier_checkpoint_of(made)]
    last = run / "global_step4"
    found = {
        "manifest": ([last / "manifest.json"], "json", lambda: checkpoint_of(made), older),
        "state": ([last / "state.json"], "json", lambda: checkpoint_of(made), older),
        "latest": ([run / "latest"], "binary", lambda: checkpoint_of(made), older),
        "tensors": (
            *([*last.glob("*.safetensors")], "binary", lambda: checkpoint_of(made), older),
        ),
        "index": ([*difficulty.glob("*.npy")], "binary", lambda: index_of(made), []),
        "index's manifest": ([difficulty / "manifest.json"], "json", lambda: index_of(made), []),
        "clusters": (
            *([*clusters.glob("*.npy"), clusters / "order.bin"], "binary"),
            *(lambda: open_clusters(made / "clusters"), []),
        ),
        "clusters' manifest": (
            *([clusters / "manifest.json"], "json", lambda: open_clusters(made / "clusters"), []),
        ),
        "corpus": (corpus, "binary", lambda: samples_of(made), []),
        "sidecar": (
            *([made / "corpus_text_document.meta.json"], "json", lambda: samples_of(made), []),
        ),
        "tokenizer": ([made / "tokenizer.json"], "json", lambda: samples_of(made), []),
        "log": ([run / "log.jsonl"], "lines", lambda: logged(made), ANYTHING),
        "JSON file": ([made / "composed.json"], "json", lambda: planned(made), ANYTHING),
        "run file": ([run / "run.toml"], "toml", run_file(made, "run/run.toml"), ANYTHING),
        "text": ([made / "text.jsonl"], "lines", lambda: texts_read(made), ANYTHING),
        "sentences": (
            *([made / "sentences.json"], "json"),
            lambda: splitter_of_file(made / "sentences.json").split("One. Two. Dr. Three."),
            ANYTHING,
        ),
        "scores": (
            *([made / "scores.npy"], "binary"),
            *(lambda: imported(made, "scores", made / "scores.npy"), ANYTHING),
        ),
        "score lines": (
            *([made / "scores.jsonl"], "lines"),
            lambda: imported(made, "scores", made / "scores.jsonl", "--field", "a.score"),
            ANYTHING,
        ),
        "DeepSpeed's index": (
            *([*(made / "ds").rglob("*.bin"), *(made / "ds").rglob("*.idx")], "binary"),
            lambda: imported(made, "deepspeed", made / "ds", "--trust-order"),
            ANYTHING,
        ),
        "seeds' results": (
            *([made / "seeds" / "seed1" / "log.jsonl"], "lines"),
            lambda: reported(made, made / "seeds"),
            ANYTHING,
        ),
        "evaluations": (
            *([made / "evaluation.json"], "json"),
            *(
                lambda: command(gather_results.main, "--run", f"a={made / 'evaluation.json'}"),
                ANYTHING,
            ),
        ),
    }
    for name in ("gpt2_random_ltd", "reshape", "truncate"):
        file = made / "gpt_finetuning" / "recipes" / f"{name}.toml"
        found[file.name] = ([file], "toml", partial(finetuning_planned, file), ANYTHING)
    for name in ("cifar", "imagenet"):
        file = made / "vit_finetuning" / "recipes" / f"{name}.toml"
        found[file.name] = ([file], "toml", partial(finetuning_planned, file), ANYTHING)
    study = made / "gpt" / "quickstart"
    found["study"] = (
        *([study / "study.toml", study / "base.toml"], "toml"),
        *(lambda: command(tools_study.main, "plan", study / "study.toml"), ANYTHING),
    )
    own = made / "study" / "runs"
    found["study's queue"] = (
        *([*own.glob("*/*/job.json"), *own.glob("stages/*.json")], "json"),
        *(lambda: of_study(made, "status"), ANYTHING),
    )
    found["study's logs"] = (
        *([*own.glob("*/*/log.jsonl")], "lines", lambda: of_study(made, "report"), ANYTHING),
    )
    recipe = "gpt/recipes/gpt_cl_voc_truncate_300b.toml"
    for name in (
        *(recipe, "gpt/pretraining.toml", "gpt/models/gpt_1.3b.toml"),
        *("gpt/techniques/vocab_rarity.toml", "gpt/techniques/seqlen_truncate.toml"),
    ):
        found[name] = ([made / name], "toml", run_file(made, recipe, "--data-path", "x"), ANYTHING)
    return found


class TooLongError(BaseException):
    """Nothing that is tried may catch it."""


@contextlib.contextmanager
def time_limit():
    def stop(*_):
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def replace(file, content):
    """Other bytes under a name; who has mapped the old ones keeps them."""
    new = file.with_name(f"{file.name}.mutated")
    new.write_bytes(content)
    new.replace(file)


def outcome(attempt, expected, allowed):
    """What a changed file led to: "told", "the same", or what is wrong."""
    try:
        with time_limit():
            found = attempt()
    except TooLongError:
        return "hangs"
    except AssertionError as error:
        return f"a traceback: {error}"
    except Exception as error:
        line = line_about(error)
        if "fault of the program" not in line:
            return "told"
        return "a traceback: " + "".join(traceback.format_exception(error)[-3:])
    if allowed is ANYTHING or found == expected or found in allowed:
        return "the same"
    return "another result and no word"


def try_mutations(made, name, target, number):
    files, kind, attempt, allowed = target
    expected = attempt()
    outcomes, wrong = Counter(), []
    for seed in range(number):
        generator = random.Random(f"{name} {seed}")
        file = generator.choice(sorted(files))
        original = file.read_bytes()
        replace(file, mutated(generator, original, kind))
        found = outcome(attempt, expected, allowed)
        replace(file, original)
        outcomes[found.partition(":")[0]] += 1
        if found not in ("told", "the same"):
            wrong.append(f"{name}, seed {seed}: {found}")
    if os.environ.get("SHOW_MUTATIONS"):
        print(f"\n{name}: {number} mutations, {dict(outcomes)}", end="")
    return wrong


PARTS = 4
"""Of the files, so that several processes share them."""


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [7, pytest.param(305, marks=pytest.mark.full)])
@pytest.mark.parametrize("part", range(PARTS))
def test_changed_files(made, part, number):
    """10,000 of them in the full form."""
    found = list(targets(made).items())[part::PARTS]
    assert [wrong for name, one in found for wrong in try_mutations(made, name, one, number)] == []
