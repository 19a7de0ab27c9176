"""A SLURM cluster of two virtual nodes on this machine, on loopback: munged, slurmctld and a slurmd
for each node, without systemd, cgroups or a database. Needs root, slurm-wlm and munge."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from two_processes import free_port

NODES = ("n1", "n2")
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "unshare")
CONF = """
ClusterName=lab
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
MailProg=/bin/true
# Listens on these addresses alone, not on every interface.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
ReturnToService=1
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=20
# A signal to a step is answered when the step has ended. One that is not answered in time is sent
# again a minute later, by the step's number, and ends the job's next start.
MessageTimeout=60
MinJobAge=600
# JAX takes its port from a job's number: not that of another lab on this machine.
FirstJobId={job}
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
# Of one host: it may be found to have other cores and memory than is said here.
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=4000
PartitionName=lab Nodes=n[1-2] Default=YES MaxTime=01:00:00 State=UP
"""


class Lab:
    """A context manager, in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.env = os.environ | {"SLURM_CONF": str(self.conf)}

    def __enter__(self) -> "Lab":
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        names = ("controller", "first", "second")
        ports = {name: free_port() for name in names}
        job = 1 + 32 * (os.getpid() % 2000)
        self.conf.write_text(CONF.format(folder=self.folder, job=job, **ports))
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        at = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._do(
            "munged", f"--key-file={key}", f"--socket={at['socket']}", f"--pid-file={at['pid']}",
            f"--log-file={at['log']}", f"--seed-file={at['seed']}", "--force",
        )  # fmt: skip
        # The nodes' names are to resolve where tasks run, and not elsewhere.
        hosts = self.folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {' '.join(NODES)} {socket.gethostname()}\n")
        self._do("slurmctld", "-c", "-f", str(self.conf))
        for node in NODES:
            own = f'mount --bind "{hosts}" /etc/hosts && exec slurmd -N {node} -f "{self.conf}"'
            self._do("unshare", "--mount", "--propagation", "private", "bash", "-c", own)
        self.until(lambda: self("sinfo", "-h", "-N", "-o", "%t").split() == ["idle"] * 2, 30)
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends what still runs, since tasks outlive SLURM, and SLURM."""
        with contextlib.suppress(AssertionError):
            self("scancel", "--user=root", "--full", "--signal=KILL")
            self("scancel", "--user=root")
            self.until(lambda: not self._keepers(), 30)
        for path in sorted(self.folder.glob("*.pid"), key=lambda path: "munge" in path.name):
            try:
                os.kill(int(path.read_text()), signal.SIGTERM)
            except (OSError, ValueError):
                continue
        time.sleep(1)

    def __call__(self, *command: str, **more) -> str:
        """What a command says. Raises CalledProcessError."""
        done = subprocess.run(
            command, env=self.env | more.pop("env", {}), capture_output=True, text=True, **more
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def _do(self, *command: str) -> None:
        # Daemons keep what they are given: a pipe would never end.
        log = (self.folder / f"{command[0]}.start").open("a")
        done = subprocess.run(command, env=self.env, stdout=log, stderr=log)
        assert done.returncode == 0, Path(log.name).read_text()

    def until(self, ready, seconds: float):
        end = time.monotonic() + seconds
        while not (found := ready()):
            assert time.monotonic() < end, self("squeue") + self("sinfo", "-N", "-l")
            time.sleep(0.2)
        return found

    def submit(self, *args: str, cwd: Path, **env: str) -> int:
        return int(self("sbatch", "--parsable", *args, cwd=cwd, env=env).split(";")[0])

    def job(self, number: int | str) -> dict[str, str]:
        """What scontrol says of a job."""
        words = self("scontrol", "show", "job", "-o", str(number)).split()
        return dict(word.partition("=")[::2] for word in words)

    def minutes(self, number: int | str) -> int:
        """Whole ones that a job has run."""
        *days, clock = self.job(number)["RunTime"].split("-")
        hours, minutes, _ = map(int, clock.split(":"))
        return 24 * 60 * sum(map(int, days)) + 60 * hours + minutes

    def rests(self, number: int | str) -> bool:
        """Whether nothing of a job runs, and no node has still to end any."""
        if self("sinfo", "-h", "-N", "-o", "%t").split() != ["idle"] * 2:
            return False
        return not any(f"[{number}." in name for name in self._keepers())

    @staticmethod
    def _keepers() -> list[str]:
        """The titles of the processes that SLURM keeps beside its tasks: of steps "[JOB.STEP]"."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                name = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if name.startswith("slurmstepd"):
                found.append(name)
        return found

    def state(self, number: int | str) -> str:
        return self.job(number)["JobState"]


def available() -> str:
    """Why there is no lab here; "" if there can be."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"no {absent[0]}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "needs root"
