r"""Shows runs in a browser while they train: losses, lengths, pools, texts, and the plan beside the run.

python tools/watch.py runs/quickstart                 a study's folder: arms, with bands over their seeds
python tools/watch.py runs/a runs/b --port 9000       some runs
python tools/watch.py runs/quickstart --html page.html     one file that needs nothing else, for papers and mails

A run need not have begun, be whole or go on. On another machine the page is reached through
`ssh -N -L 8765:127.0.0.1:8765 MACHINE`. Only files below RUNS and --data are read.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

from data_efficiency import files
from data_efficiency.command.parser import command_parser
from megatron.run_page import LOCAL_NAMES, PageServer, Runs, live_assets, static_page


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "runs", type=Path, nargs="+", metavar="RUNS", help="folders of runs, or that runs lie below"
    )
    add(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="corpora and difficulty indexes below it may be read too; repeat for each",
    )
    add("--title", help="of the page; else the names of RUNS")
    either = parser.add_mutually_exclusive_group().add_argument
    either("--html", type=Path, metavar="FILE", help="write the page as it is now, and end")
    either("--port", type=int, default=8765, metavar="N", help="0: one that is free (8765)")
    add("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    return parser.parse_args(argv)


def carry_out(arguments: argparse.Namespace) -> None:
    """Write the page, or serve it until Ctrl-C."""
    runs = Runs(arguments.runs, arguments.data)
    title = arguments.title or ", ".join(folder.resolve().name for folder in arguments.runs)
    if arguments.html is not None:
        files.refuse_writing_over([arguments.html], runs.read_files())
        written = time.strftime("%Y-%m-%d %H:%M")
        files.write_file(arguments.html, static_page(title, runs.snapshot(), written))
        print(arguments.html)
        return
    assets = live_assets(title)
    with PageServer(arguments.host, arguments.port, assets, runs.snapshot) as server:
        print(f"{server.address} shows {title}; Ctrl-C ends it", flush=True)
        if arguments.host not in LOCAL_NAMES:
            print("whoever reaches this machine can read it", flush=True)
        server.serve_forever(poll_interval=0.2)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after --html, 130 after Ctrl-C, 1 after an error."""
    return run_command(
        lambda words: carry_out(parse_arguments(words)), argv, when_stopped="no longer served"
    )


if __name__ == "__main__":
    raise SystemExit(main())
