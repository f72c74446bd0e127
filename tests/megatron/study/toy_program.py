"""A trainer whose truth is known: PROGRAM --config RUN.toml [sleeps; saves on SIGTERM; goes on].

Its loss falls with tokens, its seed moves it, and with random-LTD on it is lower by 0.2.
"""

import argparse
import json
import random
import signal
import sys
import time
import tomllib
from pathlib import Path

from megatron.reporting import RunLogger

STEPS = 10


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    settings = tomllib.loads(Path(parser.parse_args().config).read_text())
    folder = Path(settings["checkpoint"]["save"])
    seed, tokens = settings["training"]["seed"], settings["training"]["train_tokens"]
    if settings["training"]["lr"] == 666:
        sys.exit("error: this rate cannot be right")
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    state = folder / "state.json"
    done = json.loads(state.read_text()) if state.is_file() else 0
    noise = random.Random(seed).gauss(0, 0.02)
    gain = 0.2 if settings["data_efficiency"].get("data_routing") else 0.0
    with RunLogger(folder, resume_step=done or None) as logger:
        if not done:
            logger.write(
                {
                    "kind": "start",
                    "num_parameters": 10,
                    "train_samples_in_dataset": 10,
                    "sequence_length": 10,
                    "settings": settings,
                    "weights": seed,
                    "environment": {"device": "toy"},
                }
            )
        for step in range(done + 1, STEPS + 1):
            time.sleep(settings["training"]["adam_eps"])
            seen = tokens * step / STEPS
            loss = 3 + (seen / 1e6) ** -0.3 - gain + noise
            costs = dict.fromkeys(("corpus_tokens", "effective_tokens", "flops"), seen)
            costs |= {"step": step, "seconds": 0.1 * step, "waited": 0.0, "perplexity": 2.0**loss}
            logger.write({"kind": "valid", "loss": loss, **costs})
            state.write_text(json.dumps(step))
            if stopped:
                sys.exit(75)
        logger.write({"kind": "end", "reason": "tokens", "step": STEPS})


if __name__ == "__main__":
    main()
