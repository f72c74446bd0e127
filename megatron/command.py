"""How a command ends, imported before all that takes seconds, so that Ctrl-C meanwhile is a line as well."""

import sys
import time

from data_efficiency.command_end import STOPPED, TRACEBACK_HELP, run_command, tell_of_imports

__all__ = ["STARTED", "STOPPED", "TRACEBACK_HELP", "run_command"]

STARTED = time.monotonic()
"""When this process began to import."""

sys.excepthook = tell_of_imports
