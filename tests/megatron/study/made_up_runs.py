"""Made-up runs that look like real ones."""

import math
import zlib
from pathlib import Path

import numpy as np

from data_efficiency import Counters
from megatron.reporting import RunLogger

SAMPLES = 5000
LENGTH = 256
LAYERS = 4
BATCH = 16


def write_made_up_run(
    folder: Path,
    *,
    curriculum: bool = False,
    random_ltd: bool = False,
    gain: float = 0.0,
    budget: int = 1_300_000,
    finished: bool = True,
    sentence_loss: float | None = None,
    seed: int = 1,
) -> Path:
    """Writes the log of a run that trains until its effective tokens reach the budget.

    With a sentence loss it is a BERT: its first loss is the one of a run without.
    """
    names = ["lm"] if sentence_loss is None else ["masked_lm", "sentence"]
    noise = np.random.default_rng(zlib.crc32(f"{folder.parent.name}/{folder.name}".encode()))
    start = {"num_parameters": 3_446_784, "sequence_length": LENGTH, "losses": names}
    counters, step = Counters(), 0
    start |= {"kind": "start", "train_samples_in_dataset": SAMPLES}
    start |= {"settings": {"training": {"seed": seed}}}
    with RunLogger(folder, start) as logger:
        while counters.layer_tokens < budget * LAYERS:
            step += 1
            part = min(1.0, step / 250)
            length = 64 + int(192 * part) // 8 * 8 if curriculum else LENGTH
            kept = min(length, 64 + int(192 * min(1.0, step / 300)) // 16 * 16)
            layer_tokens = BATCH * 2 * (length + (kept if random_ltd else length))
            flops = 6 * 1_600_000 * BATCH * length + 6 * 440_000 * layer_tokens
            done = {"corpus_tokens": BATCH * length, "layer_tokens": layer_tokens, "flops": flops}
            counters = counters.plus(Counters(steps=1, **done))
            clocks = {
                "step": step,
                "corpus_tokens": counters.corpus_tokens,
                "effective_tokens": counters.layer_tokens // LAYERS,
                "flops": counters.flops,
                "seconds": counters.flops / 6.5e10 * (1 + 0.001 * abs(noise.normal())),
            }
            seen = clocks["effective_tokens"] / 20_000
            loss = 4.45 + 4.6 * (1 + seen) ** -0.35 - gain * (1 - math.exp(-seen / 20))
            if step % 5 == 0:
                paced = {"sequence_length": length, "kept_length": kept if random_ltd else None}
                share = max(0.01, math.sqrt(part)) if curriculum else 1
                paced["pool_size"] = int(SAMPLES * share)
                logger.write(
                    {"kind": "train", "loss": loss + 0.1 * noise.normal()} | paced | clocks
                )
            if step % 20 == 0 or counters.layer_tokens >= budget * LAYERS:
                level = loss + 0.006 * noise.normal()
                losses = {f"{names[0]}_loss": level, "perplexity": math.exp(level)}
                if sentence_loss is not None:
                    losses["sentence_loss"] = sentence_loss
                total = level + (sentence_loss or 0)
                logger.write({"kind": "valid", "loss": total} | losses | clocks)
        if finished:
            logger.write({"kind": "end", "reason": "token budget"} | clocks)
    return folder


def four_runs(folder: Path) -> dict[str, Path]:
    """The folders of the quick start's four variants."""
    both = {"curriculum": True, "random_ltd": True}
    return {
        "baseline": write_made_up_run(folder / "baseline"),
        "curriculum": write_made_up_run(folder / "curriculum", curriculum=True, gain=0.06),
        "random_ltd": write_made_up_run(folder / "random_ltd", random_ltd=True, gain=0.03),
        "curriculum_random_ltd": write_made_up_run(folder / "both", gain=0.08, **both),
    }
