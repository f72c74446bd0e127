"""What tests of several folders share."""

import os
import signal
import subprocess

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's matter: a busy one fails no test by it.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


def pytest_configure(config):
    """Hides GPUs from all tests but those of `-m gpu`, and lets Ctrl-C and hang-ups reach what tests start.

    Several processes cannot share a GPU, and what is compared bit by bit is a CPU's. SHOW_GPU=1 shows
    them all the same, to see what a GPU changes. A shell starts what it runs in the background with
    Ctrl-C ignored, nohup with hang-ups ignored, and children inherit that.
    """
    if config.getoption("markexpr") != "gpu" and os.environ.get("SHOW_GPU") != "1":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Each kind of device in turn."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    return torch.device(request.param)


@pytest.fixture
def refused(capsys):
    """A function (main, arguments) -> the one line that a command ends with, its exit code being 1."""

    def run(main, arguments):
        assert main(list(map(str, arguments))) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error.rstrip()

    return run


@pytest.fixture
def small_disk(tmp_path, request):
    """A folder on a disk of its own of 64 KiB, or of the size that the test's parameter says."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = getattr(request, "param", "64k")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(autouse=True)
def own_working_folder(tmp_path_factory, monkeypatch):
    """Runs that are given no folder make one below the working folder."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
