"""The console command `data-efficiency`: how difficult are the samples, and what will a run do?"""

from collections.abc import Sequence

from data_efficiency.command_end import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    return run_command(_carry_out, argv, when_stopped="stopped")


def _carry_out(words: list[str]) -> None:
    # What takes seconds is imported here, where Ctrl-C and a missing package are one line.
    from data_efficiency.command.commands import carry_out  # noqa: PLC0415

    carry_out(words)
