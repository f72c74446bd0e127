"""A Hugging Face model asked by lm-eval's own backend and, converted, by ours: each answer, and the time.

    OMP_NUM_THREADS=2 python -m benchmarks.evaluation --model MODEL --data DATA [--check]

MODEL is a Hugging Face folder of a GPT (SmolLM2-135M, say), DATA holds the files of the local tasks (docs/evaluation.md). The
first 200 items of LAMBADA, PIQA and ARC easy are asked zero-shot and with two examples, in float32. Three processes take
turns, some items each: our model; `--model hf` as it comes; and `--model hf` with `softmax_dtype=float64`. PyTorch's
float32 log_softmax on a CPU loses up to 7e-6 a token over a large vocabulary, which a long answer adds up, so the
exact one says how far we are off. The last line printed is one JSON object.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.interleaved import contestants, take_turns
from megatron.conversion.model import read_any, save_as_ours
from megatron.evaluation.checkpoint_tokenizer import tokenizer_of
from megatron.evaluation.local_tasks import write_task_files

OURS, PEER, EXACT_PEER = SIDES = ("ours", "hf", "hf_float64_softmax")
TASKS = ("local_lambada_openai", "local_piqa", "local_arc_easy")
# Two float32 programs that add in another order differ by less; a wrong token or position by far more.
LARGEST_DIFFERENCE = 1e-3
# Both compute the same matrix products; ours leaves out logits that nobody asks for.
LEAST_RATIO_TO_PEER = 1.0
BATCH_SIZE = 8


class Questions(NamedTuple):
    """What one turn asks: some items of a task."""

    task: str
    num_fewshot: int
    items: range


class Answer(NamedTuple):
    """To one choice of an item."""

    log_likelihood: float
    is_greedy: bool
    accuracy: float
    """Of the item."""


def turns(tasks: Sequence[str], shots: Sequence[int], num_items: int, size: int) -> list[Questions]:
    """All turns, `size` items each."""
    return [
        Questions(task, num_fewshot, range(start, min(start + size, num_items)))
        for num_fewshot in shots
        for task in tasks
        for start in range(0, num_items, size)
    ]


class Examinee:
    """One model behind lm-eval, which answers turn after turn."""

    def __init__(self, side: str, model: str, task_folder: str, questions: list[Questions]) -> None:
        # Only the processes that ask pay for the import.
        from lm_eval.tasks import TaskManager  # noqa: PLC0415

        self.model = _load(side, model)
        self.tasks = TaskManager(include_path=task_folder, include_defaults=False)
        self.questions = questions
        self.num_done = 0
        self.answers: dict[str, Answer] = {}

    def step(self) -> None:
        """Answer the next turn."""
        from lm_eval.evaluator import simple_evaluate  # noqa: PLC0415

        task, num_fewshot, items = self.questions[self.num_done]
        found = simple_evaluate(
            model=self.model,
            tasks=[task],
            num_fewshot=num_fewshot,
            samples={task: list(items)},
            task_manager=self.tasks,
            log_samples=True,
            bootstrap_iters=0,
            verbosity="ERROR",
        )
        self.num_done += 1
        for sample in found["samples"][task]:
            for place, answer in enumerate(sample["filtered_resps"]):
                name = f"{task}, {num_fewshot} examples, item {sample['doc_id']}, choice {place}"
                self.answers[name] = Answer(*answer, sample["acc"])

    def describe(self) -> dict[str, Answer]:
        """All answers."""
        return self.answers


def _load(side: str, model: str) -> Any:
    if side == OURS:
        from megatron.evaluation.eval_harness import HarnessModel  # noqa: PLC0415

        return HarnessModel(model, batch_size=BATCH_SIZE, device="cpu")
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    return HFLM(
        pretrained=model,
        device="cpu",
        dtype="float32",
        batch_size=BATCH_SIZE,
        softmax_dtype=torch.float64 if side == EXACT_PEER else None,
    )


def convert(model: Path, output: Path) -> None:
    """Make a run of ours of the model at `output`, its logits compared."""
    save_as_ours(read_any(model), output, tokenizer_of(model), model)


def compare(ours: dict[str, Answer], theirs: dict[str, Answer]) -> dict[str, Any]:
    """How two examinees' answers differ.

    Raises:
        ValueError: if they were not asked the same.
    """
    if ours.keys() != theirs.keys():
        raise ValueError("the two were not asked the same questions")
    differences = {
        name: abs(ours[name].log_likelihood - theirs[name].log_likelihood) for name in ours
    }
    worst = max(differences, key=lambda name: differences[name])
    return {
        "largest_difference": differences[worst],
        "where": worst,
        "num_above_target": sum(value > LARGEST_DIFFERENCE for value in differences.values()),
        "num_other_greedy": sum(ours[name].is_greedy != theirs[name].is_greedy for name in ours),
        "num_other_score": sum(ours[name].accuracy != theirs[name].accuracy for name in ours),
    }


def measure(model: Path, data: Path, questions: list[Questions]) -> dict[str, Any]:
    """The figures."""
    with tempfile.TemporaryDirectory() as folder:
        run, task_folder = Path(folder) / "run", Path(folder) / "tasks"
        convert(model, run)
        write_task_files(data, task_folder, sorted({one.task for one in questions}))
        places = {OURS: run, PEER: model, EXACT_PEER: model}
        makers = [
            (Examinee, (side, str(places[side]), str(task_folder), questions)) for side in SIDES
        ]
        with contestants(*makers) as made:
            take_turns(
                made,
                num_rounds=len(questions),
                num_warmup_rounds=0,
                progress=lambda line: print(line, file=sys.stderr, flush=True),
            )
            answers = {side: one.describe() for side, one in zip(SIDES, made, strict=True)}
            seconds = {
                side: sum(taken.wall_seconds for taken in one.times)
                for side, one in zip(SIDES, made, strict=True)
            }
    return {
        **{f"beside_{side}": compare(answers[OURS], answers[side]) for side in SIDES[1:]},
        "hf_beside_itself": compare(answers[PEER], answers[EXACT_PEER])["largest_difference"],
        "num_log_likelihoods": len(answers[OURS]),
        **{f"{side}_seconds": round(taken, 1) for side, taken in seconds.items()},
        "ratio_to_hf": round(seconds[PEER] / seconds[OURS], 2),
        "num_threads": torch.get_num_threads(),
    }


def misses(figures: dict[str, Any]) -> list[str]:
    """A line for each target that the figures do not reach."""
    found = []
    exact = figures[f"beside_{EXACT_PEER}"]
    if exact["largest_difference"] > LARGEST_DIFFERENCE:
        found.append(
            f"{exact['where']}: {exact['largest_difference']:.1e} off the exact log-likelihood, not"
            f" {LARGEST_DIFFERENCE:.0e}"
        )
    for name in ("num_other_greedy", "num_other_score"):
        number = figures[f"beside_{PEER}"][name]
        if number:
            found.append(f"{name} is {number} beside {PEER}, not 0")
    if figures["ratio_to_hf"] < LEAST_RATIO_TO_PEER:
        found.append(f"{figures['ratio_to_hf']} times as fast as {PEER}, not {LEAST_RATIO_TO_PEER}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 if `--check` is given and a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="a Hugging Face GPT")
    add("--data", type=Path, required=True, metavar="FOLDER", help="files of the local tasks")
    add("--tasks", default=",".join(TASKS), metavar="NAME,NAME", help="default: %(default)s")
    add("--shots", default="0,2", metavar="N,N", help="examples; default: %(default)s")
    add("--items", type=int, default=200, metavar="N", help="of each task; default: %(default)s")
    add("--turn", type=int, default=50, metavar="N", help="items of a turn; default: %(default)s")
    add("--check", action="store_true", help="exit 1 where a target is missed")
    options = parser.parse_args(argv)
    # Read when lm-eval is imported, in the processes that ask.
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    # Threads that spin while another process has its turn would slow that one down.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    shots = [int(number) for number in options.shots.split(",")]
    questions = turns(options.tasks.split(","), shots, options.items, options.turn)
    figures = measure(options.model, options.data, questions)
    missed = misses(figures) if options.check else []
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    print(json.dumps(figures))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
