"""A trainer whose truth is known: PROGRAM --config RUN.toml [sleeps; saves on SIGTERM; goes on].

Its loss falls with tokens, its seed moves it, and with adam_beta2 = 0.5 it is lower by 0.2.
"""

import argparse
import json
import random
import signal
import sys
import time
import tomllib
from pathlib import Path

STEPS = 10


def write(log, record):
    log.write(json.dumps(record) + "\n")


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
    gain = 0.2 if settings["training"]["adam_beta2"] == 0.5 else 0.0
    lines = (folder / "log.jsonl").read_text().splitlines() if done else []
    (folder / "log.jsonl").write_text("".join(line + "\n" for line in lines[: 1 + done]))
    with (folder / "log.jsonl").open("a", buffering=1) as log:
        if not done:
            write(
                log,
                {
                    "kind": "start",
                    "num_parameters": 10,
                    "train_samples_in_dataset": 10,
                    "sequence_length": 10,
                    "settings": settings,
                    "weights": seed,
                    "environment": {"device": "toy"},
                },
            )
        for step in range(done + 1, STEPS + 1):
            time.sleep(settings["training"]["adam_eps"])
            seen = tokens * step / STEPS
            loss = 3 + (seen / 1e6) ** -0.3 - gain + noise
            costs = dict.fromkeys(("corpus_tokens", "effective_tokens", "flops"), seen)
            costs |= {"step": step, "seconds": 0.1 * step, "waited": 0.0, "perplexity": 2.0**loss}
            write(log, {"kind": "valid", "loss": loss, **costs})
            state.write_text(json.dumps(step))
            if stopped:
                sys.exit(75)
        write(log, {"kind": "end", "reason": "tokens", "step": STEPS})


if __name__ == "__main__":
    main()
