"""Runs commands in children of a process that has imported everything, with a fault armed in each.

One JSON object a line on standard input: command (a module with `main`), argv, fault (folder, operations,
number, action; see faults.c) and output (a file for what it prints). The answer is one line: the exit
status as `os.waitpid` gives it, negative for a signal, and how many operations there were, -1 where the
child was killed.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback

COMMANDS = ("pretrain_gpt", "tools.preprocess_data", "tools.analyze_data", "tools.train_tokenizer")


def arm(folder, operations, number, action):
    preloaded = ctypes.CDLL(None)
    preloaded.fault_arm(folder.encode(), operations.encode(), ctypes.c_long(number), action)


def run(request, counted):
    """In the child: runs the command and leaves."""
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 99
    try:
        arm(*request["fault"])
        code = importlib.import_module(request["command"]).main(request["argv"])
    except BaseException:
        traceback.print_exc()
    finally:
        arm("", "", 0, 0)
        os.write(counted, str(ctypes.CDLL(None).fault_total()).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve():
    for name in COMMANDS:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        reading, counted = os.pipe()
        child = os.fork()
        if child == 0:
            run(request, counted)
        os.close(counted)
        _, status = os.waitpid(child, 0)
        told = os.read(reading, 20)
        os.close(reading)
        print(json.dumps([os.waitstatus_to_exitcode(status), int(told or -1)]), flush=True)


if __name__ == "__main__":
    serve()
