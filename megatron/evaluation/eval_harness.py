"""Our GPT as a model of lm-eval, EleutherAI's evaluation harness; the one file that imports it.

Importing this file registers the model. Run as a module it is lm-eval's own command line with the
model known to it:

    python -m megatron.evaluation.eval_harness run --model data_efficiency
        --model_args checkpoint=runs/gpt,dtype=bfloat16 --tasks piqa --batch_size 8

Under `torchrun` each process takes its share of every task's documents.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import distributed
from tqdm import tqdm

from data_efficiency import start_ranks
from megatron.conversion.source_files import GENERATION_FILE, source_of
from megatron.evaluation.continuation_scores import Continuation, score_continuations
from megatron.evaluation.generation import Choose, continue_texts, greedy, sampling
from megatron.evaluation.model import load_for_evaluation
from megatron.model.gpt_model import GPTModel
from megatron.tokenizer import END_OF_DOCUMENT, Tokenizer, named_tokenizer
from megatron.tokenizer.special_tokens import json_object

MODEL_NAME = "data_efficiency"
_DEFAULT_NEW_TOKENS = 256
_NEUTRAL = {
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "guidance_scale": 1,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
}
"""What a generation configuration may ask of greedy decoding too -> the value with which it asks nothing."""


@register_model(MODEL_NAME)
class HarnessModel(TemplateLM):
    """A checkpoint of ours, as lm-eval asks a model.

    Args:
        checkpoint: a run, or one of its checkpoints.
        dtype: "float32" or "bfloat16".
        device: such as "cpu" or "cuda:0"; the process's own accelerator if not given.
        max_length: longest sequence, in tokens; the model's if not given.

    Raises:
        FileNotFoundError: if the checkpoint or its tokenizer is not there.
        ValueError: if checkpoint and tokenizer do not belong together or are no GPT of ours.
    """

    def __init__(  # noqa: PLR0913 - lm-eval gives each as a keyword
        self,
        checkpoint: str | Path,
        *,
        tokenizer_file: str | None = None,
        vocab_file: str | None = None,
        merge_file: str | None = None,
        dtype: str = "float32",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self._ranks = start_ranks()
        self._device = torch.device(device or self._ranks.device)
        model, tokenizer = load_for_evaluation(
            Path(checkpoint),
            dtype=dtype,
            device=self._device,
            tokenizer=named_tokenizer(
                SimpleNamespace(
                    tokenizer_file=tokenizer_file, vocab_file=vocab_file, merge_file=merge_file
                )
            ),
        )
        source = source_of(Path(checkpoint))
        self._generation = {} if source is None else json_object(source / GENERATION_FILE)
        self.gpt: GPTModel = model
        self.text: Tokenizer = tokenizer
        self._batch_size = _whole_batch_size(batch_size)
        longest = model.config.max_position_embeddings
        self.max_length = longest if max_length is None else min(int(max_length), longest)

    @property
    def eot_token_id(self) -> int:
        """Id of the token that ends texts."""
        return self.text.id_of(self.text.special_tokens.get("eos_token", END_OF_DOCUMENT))

    @property
    def prefix_token_id(self) -> int:
        """Id of the token that stands before texts that have nothing before them."""
        return self.text.beginning

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self._ranks.rank

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self._ranks.world

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all processes, stacked, on the CPU; `tensor` itself where there is one."""
        if self.world_size == 1:
            return tensor
        own = tensor.to(self._ranks.device)
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        distributed.all_gather(parts, own)
        return torch.stack(parts).cpu()

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all processes on process `dst`, None elsewhere."""
        if self.world_size == 1:
            return [obj]
        parts = [None] * self.world_size if self.rank == dst else None
        distributed.gather_object(obj, parts, dst=dst)
        return parts

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self._ranks.wait()

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **ignored: Any
    ) -> list[int]:
        """Token ids as lm-eval's model for transformers has them: with what the tokenizer puts around them,
        such as a beginning token, but not where the text has one already.
        """
        with_template = add_special_tokens
        if with_template is None:
            beginning = self.text.special_tokens.get("bos_token") or self.text.special_tokens.get(
                "eos_token"
            )
            with_template = beginning is None or not string.startswith(beginning)
        return self.text.encode_as_transformers(string, with_template=with_template)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of each whole text, each token once, in windows of the model's length."""
        windows: list[Continuation] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            pairs = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, pairs):
                windows.append(Continuation(context, continuation))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, score in zip(owners, self._scores(windows, disable_tqdm), strict=True):
            totals[owner] += score[0]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **ignored: Any,
    ) -> list[tuple[float, bool]]:
        continuations = [Continuation(context, ids) for _, context, ids in requests]
        scores = self._scores(continuations, disable_tqdm)
        for (texts, _, _), score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, score)
        return scores

    def _scores(
        self, continuations: Sequence[Continuation], disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        bar = tqdm(
            total=len(continuations), desc="Log-likelihoods", disable=disable_tqdm or self.rank != 0
        )
        with bar:
            return score_continuations(
                self.gpt,
                continuations,
                batch_size=self._batch_size,
                max_length=self.max_length,
                advance=bar.update,
            )

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each context, up to the first of its stop texts.

        Raises:
            ValueError: for a model whose generation configuration asks for what is not done here.
        """
        for name, neutral in _NEUTRAL.items():
            if (value := self._generation.get(name)) not in (None, neutral):
                raise ValueError(
                    f"{name} is {value!r} in the model's {GENERATION_FILE}: texts are generated here without"
                    " it, so they would not be those of transformers; take it out there to have them"
                )
        texts = [""] * len(requests)
        ids = [self.tok_encode(request.args[0]) or [self.prefix_token_id] for request in requests]
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        bar = tqdm(total=len(requests), desc="Generation", disable=disable_tqdm or self.rank != 0)
        with bar:
            for numbers in alike.values():
                numbers.sort(key=lambda number: -len(ids[number]))
                for start in range(0, len(numbers), self._batch_size):
                    batch = numbers[start : start + self._batch_size]
                    prompts = [ids[number] for number in batch]
                    found = self._continue(prompts, requests[batch[0]].args[1])
                    for number, text in zip(batch, found, strict=True):
                        texts[number] = text
                        self.cache_hook.add_partial("generate_until", requests[number].args, text)
                    bar.update(len(batch))
        return texts

    def _continue(self, prompts: list[list[int]], settings: dict[str, Any]) -> list[str]:
        """The texts that follow the prompts of a batch; contexts too long lose their start."""
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else [stop for stop in until if stop]
        num_new = int(
            settings.get("max_gen_toks", settings.get("max_new_tokens", _DEFAULT_NEW_TOKENS))
        )
        room = self.max_length - num_new
        if room < 1:
            raise ValueError(
                f"the task asks for {num_new} new tokens: the model has {self.max_length} positions"
                " in all; lower it with --gen_kwargs max_gen_toks=N"
            )
        prompts = [prompt[-room:] for prompt in prompts]
        return continue_texts(
            self.gpt, self.text, prompts, num_new, stops=stops, choose=self._choice(settings)
        )

    def _choice(self, settings: dict[str, Any]) -> Choose:
        if not settings.get("do_sample", False):
            return greedy
        return sampling(
            torch.Generator(self.device).manual_seed(0),
            temperature=float(settings.get("temperature", 1.0)),
            top_k=int(settings.get("top_k", 0)),
            top_p=float(settings.get("top_p", 1.0)),
        )


def _whole_batch_size(value: int | str | None) -> int:
    text = "1" if value is None else str(value)
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"batch_size is {value!r}: must be a whole number above 0")
    return int(text)


def evaluate_tasks(
    model: HarnessModel,
    tasks: Sequence[str],
    *,
    num_fewshot: int | None,
    task_folder: Path | None = None,
    only_task_folder: bool = False,
    limit: int | None = None,
    log_samples: bool = False,
) -> dict[str, Any] | None:
    """What lm-eval found: `results`, `versions`, `n-samples`, ...; None on all but the first process.

    Args:
        tasks: names that lm-eval knows, or that `task_folder` adds.
        num_fewshot: solved examples before each question; None as each task says.
        only_task_folder: leave lm-eval's own out: reading their thousands of files takes a while.
        limit: only the first documents of each task.
        log_samples: keep what was asked and answered, under `samples`.

    Raises:
        ValueError: if a task is unknown.
    """
    manager = TaskManager(
        include_path=None if task_folder is None else str(task_folder),
        include_defaults=not only_task_folder,
    )
    for task in tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "`lm_eval ls tasks` lists them"
            raise ValueError(f"--tasks names {task!r}, which lm-eval does not know: {hint}")
    found: dict[str, Any] | None = simple_evaluate(
        model=model,
        tasks=list(tasks),
        num_fewshot=num_fewshot,
        task_manager=manager,
        limit=limit,
        log_samples=log_samples,
        bootstrap_iters=0,
    )
    return found


if __name__ == "__main__":
    cli_evaluate()
