"""Greedy generation with kept keys and values beside reading the whole text again for each token.

    OMP_NUM_THREADS=2 python -m benchmarks.generation [--check] [--small]

The same GPT, random weights, one prompt of 32 tokens and 256 new ones in float32: our decoder with its
cache, our model without one, and Hugging Face's `generate` with its cache on the same weights. All three have
to give the same tokens. Each has a process of its own and they take turns. The last line printed is one JSON
object. `--small` takes seconds and only shows that everything works: its figures mean nothing.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.interleaved import contestants, paired_ratio, take_turns
from megatron.config import ModelConfig
from megatron.conversion.model import Model, save_as_hugging_face
from megatron.evaluation.generation import generate
from megatron.model.gpt_model import GPTModel

CACHE, NO_CACHE, PEER = SIDES = ("cache", "no_cache", "huggingface")
# A token that reads 160 others again, the average here, costs up to 160 times as much arithmetic; one at a
# time is bound by reading the weights instead, which leaves less of that. Below 5 a cache would be broken.
LEAST_RATIO_TO_NO_CACHE = 5.0
# Both read the same weights for each token: the simple decoder may not be the slower one.
LEAST_RATIO_TO_PEER = 1.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """The model and the text."""

    num_layers: int = 6
    hidden_size: int = 384
    num_heads: int = 6
    vocab_size: int = 8192
    num_prompt_tokens: int = 32
    num_new_tokens: int = 256

    def model(self) -> GPTModel:
        """The model: random weights, far enough from zero that no two tokens are about equally likely."""
        torch.manual_seed(0)
        model = GPTModel(
            ModelConfig(
                num_layers=self.num_layers,
                hidden_size=self.hidden_size,
                num_attention_heads=self.num_heads,
                vocab_size=self.vocab_size,
                max_position_embeddings=self.num_prompt_tokens + self.num_new_tokens,
            )
        )
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.1 * torch.randn(weight.shape)
        return model.eval()

    def prompt(self) -> list[int]:
        """Token ids."""
        return list(range(1, self.num_prompt_tokens + 1))


SMALL = Size(num_layers=2, hidden_size=32, num_heads=2, vocab_size=300, num_new_tokens=24)


class Writer:
    """One way to write the text."""

    def __init__(self, side: str, size: Size) -> None:
        self.side, self.size = side, size
        self.model: Any = size.model()
        if side == PEER:
            self.model = _as_hugging_face(self.model)
        self.tokens: list[int] = []

    def step(self) -> None:
        """Write the text once."""
        prompt, num_new = self.size.prompt(), self.size.num_new_tokens
        with torch.inference_mode():
            if self.side == CACHE:
                self.tokens = [int(token) for token in generate(self.model, [prompt], num_new)]
            elif self.side == NO_CACHE:
                self.tokens = self._read_again(prompt, num_new)
            else:
                self.tokens = self._peer(prompt, num_new)

    def describe(self) -> list[int]:
        """The new tokens."""
        return self.tokens

    def _read_again(self, prompt: list[int], num_new: int) -> list[int]:
        text, vocab_size = torch.tensor([prompt]), self.size.vocab_size
        for _ in range(num_new):
            hidden_states = self.model.language_model(text)[:, -1]
            # Only the last position's logits: anything else would make this side look bad.
            logits = (hidden_states @ self.model.output_weight.T)[:, :vocab_size]
            text = torch.cat((text, logits.argmax(-1, keepdim=True)), dim=1)
        tokens: list[int] = text[0, len(prompt) :].tolist()
        return tokens

    def _peer(self, prompt: list[int], num_new: int) -> list[int]:
        text = self.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            min_new_tokens=num_new,
            max_new_tokens=num_new,
            eos_token_id=None,
            pad_token_id=0,
        )
        tokens: list[int] = text[0, len(prompt) :].tolist()
        return tokens


def _as_hugging_face(model: GPTModel) -> Any:
    # Only the peer's own process pays for the import.
    import transformers  # noqa: PLC0415

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        save_as_hugging_face(Model(model.config, model.state_dict()), folder, None)
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def measure(size: Size, num_rounds: int) -> dict[str, Any]:
    """The figures."""
    with contestants(*((Writer, (side, size)) for side in SIDES)) as made:
        take_turns(
            made,
            num_rounds=num_rounds,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
        named = dict(zip(SIDES, made, strict=True))
        texts = {side: contestant.describe() for side, contestant in named.items()}
        figures: dict[str, Any] = {
            f"{side}_tokens_per_second": round(
                size.num_new_tokens / contestant.median("wall_seconds"), 1
            )
            for side, contestant in named.items()
        }
        for side in (NO_CACHE, PEER):
            ratio = paired_ratio(named[side], named[CACHE], "wall_seconds")
            figures[f"ratio_to_{side}"] = round(ratio, 2)
            figures[f"equal_to_{side}"] = texts[side] == texts[CACHE]
    return figures | {
        "num_new_tokens": size.num_new_tokens,
        "num_distinct_tokens": len(set(texts[CACHE])),
        "num_threads": torch.get_num_threads(),
    }


def misses(figures: dict[str, Any], *, timed: bool = True) -> list[str]:
    """A line for each target that the figures do not reach; `timed` False: for equality alone."""
    found = [
        f"the text differs from that of {side}"
        for side in (NO_CACHE, PEER)
        if not figures[f"equal_to_{side}"]
    ]
    least = {NO_CACHE: LEAST_RATIO_TO_NO_CACHE, PEER: LEAST_RATIO_TO_PEER}
    for side, ratio in least.items() if timed else ():
        if figures[f"ratio_to_{side}"] < ratio:
            found.append(f"{figures[f'ratio_to_{side}']} times as fast as {side}, not {ratio}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 if texts differ, or if `--check` is given and a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--small", action="store_true", help="a tiny model")
    parser.add_argument("--rounds", type=int, default=5, help="counted texts of each side")
    options = parser.parse_args(argv)
    if options.small and options.check:
        parser.error("--check needs the full size: leave out --small")
    # Threads that spin while another process has its turn would slow that one down.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    figures = measure(SMALL if options.small else Size(), options.rounds)
    missed = misses(figures, timed=options.check)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    print(json.dumps(figures))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
