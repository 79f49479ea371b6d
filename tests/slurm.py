"""A SLURM of one node, made on the spot: munged, slurmctld and slurmd, without an init system."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
CONFIG = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=standard Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    """Say why SLURM cannot be started here; None if it can."""
    if lacking := [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]:
        return f"not installed: {', '.join(lacking)} (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "slurmd starts as root only"
    return None


@contextmanager
def one_node(folder: Path):
    """Start SLURM in ``folder``; give the path of its slurm.conf."""
    host = socket.gethostname().partition(".")[0]
    config = folder / "slurm.conf"
    ports = {"controller": _free_port(), "node": _free_port()}
    config.write_text(CONFIG.format(host=host, folder=folder, cpus=os.cpu_count(), **ports))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    told = os.environ | {"SLURM_CONF": str(config), "PATH": _path()}
    names = {"key-file": key, "socket": folder / "munge.sock", "pid-file": folder / "munged.pid"}
    names |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
    with ExitStack() as stack:
        munge = [f"--{name}={path}" for name, path in names.items()]
        _start(stack, told, "munged", "--force", "--foreground", *munge)
        _wait((folder / "munge.sock").exists, "munged")
        _start(stack, told, "slurmctld", "-D", "-i")
        _start(stack, told, "slurmd", "-D", "-N", host)
        _wait(lambda: "idle" in _told(told, "sinfo", "-h", "-o", "%T"), "slurmctld and slurmd")
        yield config


def _path() -> str:
    return f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/usr/bin"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _start(stack, told, *command):
    process = subprocess.Popen(
        command, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)


def _told(told, *command) -> str:
    return subprocess.run(command, env=told, capture_output=True, text=True, check=False).stdout


def _wait(ready, what):
    end = time.monotonic() + 60
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not start within 60 seconds")
        time.sleep(0.2)
