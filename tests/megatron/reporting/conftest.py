"""Made-up runs that look like real ones."""

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron.reporting import RunLogger

SAMPLES = 5000
LENGTH = 256
LAYERS = 4
BATCH = 16

WriteRun = Callable[..., Path]


def write_made_up_run(
    folder: Path,
    *,
    curriculum: bool = False,
    random_ltd: bool = False,
    gain: float = 0.0,
    budget: int = 1_300_000,
    finished: bool = True,
    sentence_loss: float | None = None,
) -> Path:
    """Writes the log of a run that trains until its effective tokens reach the budget.

    With a sentence loss it is a BERT: its first loss is the one of a run without.
    """
    names = ["lm"] if sentence_loss is None else ["masked_lm", "sentence"]
    noise = np.random.default_rng(zlib.crc32(folder.name.encode()))
    counters = {"consumed_samples": 0, "corpus_tokens": 0, "loss_tokens": 0, "layer_tokens": 0}
    counters |= {"effective_tokens": 0, "flops": 0, "seconds": 0.0}
    step = 0
    with RunLogger(folder) as logger:
        logger.write(
            {
                "kind": "start",
                "num_parameters": 3_446_784,
                "num_layers": LAYERS,
                "losses": names,
                "num_random_ltd_layers": 2 if random_ltd else 0,
                "sequence_length": LENGTH,
                "global_batch_size": BATCH,
                "train_samples_in_dataset": SAMPLES,
                "flags": {},
                "data_efficiency": {},
            }
        )
        while counters["effective_tokens"] < budget:
            step += 1
            part = min(1.0, step / 250)
            length = 64 + int(192 * part) // 8 * 8 if curriculum else LENGTH
            kept = min(length, 64 + int(192 * min(1.0, step / 300)) // 16 * 16)
            layers = 2 * length + 2 * (kept if random_ltd else length)
            tokens = BATCH * length
            counters["consumed_samples"] += BATCH
            counters["corpus_tokens"] += tokens
            counters["loss_tokens"] += tokens
            counters["layer_tokens"] += BATCH * layers
            counters["effective_tokens"] += BATCH * layers // LAYERS
            step_flops = 6 * 1_600_000 * tokens + 6 * 440_000 * BATCH * layers
            counters["flops"] += step_flops
            step_seconds = step_flops / 6.5e10 * (1 + 0.05 * abs(noise.normal()))
            counters["seconds"] += step_seconds
            seen = counters["effective_tokens"] / 20_000
            loss = 4.45 + 4.6 * (1 + seen) ** -0.35 - gain * (1 - math.exp(-seen / 20))
            if step % 5 == 0:
                logger.write(
                    {
                        "kind": "train",
                        "step": step,
                        "loss": loss + 0.1 * noise.normal(),
                        "learning_rate": 1e-3,
                        "grad_norm": 1.0,
                        "sequence_length": length,
                        "kept_length": kept if random_ltd else None,
                        "actual_seq_length": layers // LAYERS,
                        "difficulties": {},
                        "pool_size": int(SAMPLES * max(0.01, math.sqrt(part)))
                        if curriculum
                        else SAMPLES,
                        **counters,
                        "step_seconds": step_seconds,
                        "tokens_per_second": tokens / step_seconds,
                        "flops_per_second": step_flops / step_seconds,
                    }
                )
            if step % 20 == 0 or counters["effective_tokens"] >= budget:
                level = loss + 0.006 * noise.normal()
                losses = {f"{names[0]}_loss": level}
                if sentence_loss is not None:
                    losses["sentence_loss"] = sentence_loss
                logger.write(
                    {"kind": "valid", "step": step, "loss": sum(losses.values())}
                    | losses
                    | {"perplexity": math.exp(level)}
                    | counters
                )
        if finished:
            logger.write({"kind": "end", "step": step, "reason": "token budget", **counters})
    return folder


@pytest.fixture
def write_run() -> WriteRun:
    return write_made_up_run


@pytest.fixture
def four_runs(tmp_path: Path) -> dict[str, Path]:
    """The folders of the quick start's four variants."""
    both = {"curriculum": True, "random_ltd": True}
    return {
        "baseline": write_made_up_run(tmp_path / "baseline"),
        "curriculum": write_made_up_run(tmp_path / "curriculum", curriculum=True, gain=0.06),
        "random_ltd": write_made_up_run(tmp_path / "random_ltd", random_ltd=True, gain=0.03),
        "curriculum_random_ltd": write_made_up_run(tmp_path / "both", gain=0.08, **both),
    }
