"""Texts that a GPT writes while it is trained: after the same prompts, drawn in the same way each time."""

import os
from pathlib import Path
from typing import Any

import torch

from data_efficiency import files
from data_efficiency.engine.whole_tensor import gather_all
from megatron.config import RunConfig
from megatron.evaluation.generation import continue_texts, sampling
from megatron.model.gpt_model import GPTModel
from megatron.run_state import Run
from megatron.setting_rules import require
from megatron.tokenizer import named_tokenizer

TEMPERATURE = 0.8


class Samples:
    """The prompts of a run's settings, encoded.

    Raises:
        FileNotFoundError: if a file of the tokenizer is missing.
        ValueError: if no tokenizer is named, there is no prompt, or one is too long.
    """

    def __init__(self, config: RunConfig) -> None:
        logging, longest = config.logging, config.model.max_position_embeddings
        self.prompts = _prompts(logging.sample_prompts)
        tokenizer = named_tokenizer(config.data)
        if tokenizer is None:
            raise ValueError(
                "--sample-prompts is given, but no tokenizer: name it by --tokenizer-file, or by "
                "--vocab-file and --merge-file"
            )
        self._tokenizer, self._num_tokens = tokenizer, logging.sample_tokens
        self._ids = [tokenizer.encode_prompt(prompt) for prompt in self.prompts]
        for prompt, ids in zip(self.prompts, self._ids, strict=True):
            require(
                len(ids) + self._num_tokens <= longest,
                "sample_tokens",
                self._num_tokens,
                f"with the {len(ids)} tokens of the prompt {prompt:.40}... more than the {longest} positions of "
                "the model; shorten either",
            )

    def record(self, run: Run) -> dict[str, Any]:
        """The log's line of what the model writes now; every process must call it, and it changes nothing.

        The whole weights, in the optimizer's precision, are put together on process 0, which writes with a
        model and a generator of its own: so it is the same whatever engine keeps them in parts.
        """
        step, seed = run.counters.steps, run.config.training.seed
        weights = gather_all(run.engine.whole_weights(), keep=run.is_first_process)
        if not run.is_first_process:
            return {}
        with torch.device("meta"):
            model = GPTModel(run.config.model)
        model.load_state_dict(weights, assign=True)
        device = run.engine.ranks.device
        continuations = continue_texts(
            model.to(device).eval(),
            self._tokenizer,
            self._ids,
            self._num_tokens,
            choose=sampling(torch.Generator(device).manual_seed(seed), temperature=TEMPERATURE),
        )
        pairs = list(zip(self.prompts, continuations, strict=True))
        for prompt, continuation in pairs:
            run.say(f"sample at step {step}: {prompt + continuation!r}")
        texts = [{"prompt": prompt, "continuation": text} for prompt, text in pairs]
        return {"kind": "sample", "step": step, "texts": texts}


def _prompts(given: tuple[str, ...]) -> list[str]:
    """The texts themselves, or the lines of the one file that is named."""
    [first, *more] = given
    if more or not os.path.isfile(first):
        return list(given)
    with files.reading(Path(first)):
        lines = [
            line for line in Path(first).read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    require(bool(lines), "sample_prompts", first, "the file has no line with a prompt")
    return lines
