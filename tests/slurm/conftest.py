"""A real SLURM of two nodes on this machine, with a folder, ports and daemons of its own."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.killing import signal_all

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobRequeue=1
MaxArraySize=6
MailProg=/bin/true
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4096
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4096
PartitionName=main Nodes=n0,n1 Default=YES OverSubscribe=YES
"""


@dataclass
class Cluster:
    """The running cluster: `environment` makes SLURM's commands speak to it."""

    folder: Path
    environment: dict[str, str]

    def let_save(self, *job):
        """Send a job the signal at which it saves and requeues itself.

        It may have done so before scancel asks whether the signal came, which then ends with SLURM's error 2021,
        "already completing or completed", modulo 256: what became of the job says more.
        """
        ended = subprocess.run(
            ["scancel", "--signal=USR1", *job], env=self.environment, check=False
        )
        assert ended.returncode in (0, 2021 % 256)

    def output_of(self, *command):
        ended = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def start(self, script, *arguments, **settings):
        """Output of a script of ours that is started with these settings."""
        ours = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            ["bash", str(script), *arguments],
            env=self.environment | ours | settings,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def run_printed(self, commands):
        """What a dry run prints is what a run does."""
        subprocess.run(["bash", "-e"], input=commands, env=self.environment, text=True, check=True)

    def end_jobs(self):
        """Cancel what a failed test left in the queue."""
        if self.output_of("squeue", "--noheader").strip():
            self.output_of("scancel", f"--user={getpass.getuser()}")
            self.wait_for_jobs()

    def lose_node(self, node):
        """Its daemon dies, SLURM is told, and every process of jobs on it is killed."""
        end_daemon(self.folder / f"slurmd-{node}.pid")
        self.output_of("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        signal_all(signal.SIGKILL, SLURM_CONF=self.environment["SLURM_CONF"], SLURMD_NODENAME=node)

    def bring_back(self, node):
        """The daemon of a node that was lost or drained, and its readiness for jobs."""
        start_node(self.folder, node, self.environment)
        states = "idle", "alloc", "mix"
        deadline = time.monotonic() + 30
        while True:
            with suppress(AssertionError):
                self.output_of("scontrol", "update", f"nodename={node}", "state=resume")
            if (
                self.output_of("sinfo", "--noheader", f"--nodes={node}", "--format=%t").strip()
                in states
            ):
                return
            assert time.monotonic() < deadline, self.output_of("sinfo", "--Node", "--long")
            time.sleep(0.3)

    def wait_for_jobs(self, seconds=120):
        """What SLURM says of each job or array task by its number, once none is left in the queue."""
        deadline = time.monotonic() + seconds
        while self.output_of("squeue", "--noheader").strip():
            assert time.monotonic() < deadline, self.output_of("squeue")
            time.sleep(0.3)
        states = {}
        for line in self.output_of("scontrol", "show", "job", "--oneliner").splitlines():
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "JobId" in fields:
                states[fields["JobId"]] = fields
        return states


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    missing = [program for program in PROGRAMS if find_program(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    with ExitStack() as stack:
        yield start_cluster(folder, stack)


def find_program(name):
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def start_cluster(folder, stack):
    host = socket.gethostname().split(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(host=host, user=getpass.getuser(), folder=folder, ports=free_ports(3))
    )
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    # `--force`: its folder is a private one, of which munged would warn.
    start_daemon(
        stack,
        folder / "munge.pid",
        [
            *("munged", "--force", f"--socket={folder}/munge.socket"),
            *(f"--key-file={folder}/munge.key", f"--pid-file={folder}/munge.pid"),
            *(f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"),
        ],
        environment,
    )
    start_daemon(
        stack, folder / "slurmctld.pid", ["slurmctld", "-f", str(configuration)], environment
    )
    for node in ("n0", "n1"):
        start_node(folder, node, environment)
        stack.callback(end_daemon, folder / f"slurmd-{node}.pid")
    cluster = Cluster(folder, environment)
    # Daemons that end leave their jobs running.
    stack.callback(cluster.end_jobs)
    deadline = time.monotonic() + 30
    while cluster.output_of("sinfo", "--noheader", "--format=%D %t").split() != ["2", "idle"]:
        assert time.monotonic() < deadline, cluster.output_of("sinfo", "--Node", "--long")
        time.sleep(0.3)
    return cluster


def start_node(folder, node, environment):
    """Starts the daemon of a node, unless it runs."""
    pid_file = folder / f"slurmd-{node}.pid"
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int(pid_file.read_text()), 0)
        return
    run_daemon(pid_file, ["slurmd", "-f", environment["SLURM_CONF"], "-N", node], environment)


def start_daemon(stack, pid_file, command, environment):
    """Starts a daemon, and ends it with the stack."""
    run_daemon(pid_file, command, environment)
    stack.callback(end_daemon, pid_file)


def run_daemon(pid_file, command, environment):
    """Starts a daemon, which goes into the background."""
    program = find_program(command[0])
    ended = subprocess.run(
        [program, *command[1:]],
        env=environment,
        cwd=pid_file.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
    )
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}"


def end_daemon(pid_file):
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        for _ in range(50):
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)


def free_ports(number):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
