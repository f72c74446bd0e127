"""What tests of several folders share."""

import signal
import subprocess

import pytest


def pytest_configure():
    """Lets Ctrl-C reach the programs that tests start.

    A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
