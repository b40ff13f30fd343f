"""A SLURM cluster of two nodes on this machine: Debian's daemons, each node in a network namespace of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

NODES = {"na": "10.78.7.1", "nb": "10.78.7.2"}
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "mungekey", "ip", "nsenter", "unshare")
# In a node: its network, a host name and a table of hosts of its own. (`ip netns exec` mounts /sys anew, in which
# slurmd then finds no control groups.)
_ENTER = 'hostname "$0"; mount --bind "$1" /etc/hosts; shift; exec "$@"'
_CONF = """
ClusterName=test
SlurmctldHost=na({na})
SlurmUser=root
SlurmctldPort=16817
SlurmctldPidFile={home}/ctld.pid
SlurmctldLogFile={home}/log/ctld.log
StateSaveLocation={home}/ctld
SlurmdPidFile={home}/%n.pid
SlurmdLogFile={home}/log/%n.log
SlurmdSpoolDir={home}/%n
AuthType=auth/munge
AuthInfo=cred_expire=5,socket={home}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=30
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=bf_interval=2,batch_sched_delay=1,sched_interval=2
NodeName=na NodeHostname=na NodeAddr={na} Port=16818 CPUs=2 RealMemory=4000
NodeName=nb NodeHostname=nb NodeAddr={nb} Port=16818 CPUs=2 RealMemory=4000
PartitionName=cpu Nodes=na,nb Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""
# submitit asks sacct for the states of jobs, which knows none without a database of accounts.
_SACCT = f"""#!{sys.executable}
import subprocess, sys
words = sys.argv[1:]
print("JobID|State|NodeList")
for job in (words[i + 1] for i, word in enumerate(words) if word == "-j"):
    shown = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True)
    for text in shown.stdout.splitlines():
        one = dict(word.split("=", 1) for word in text.split() if "=" in word)
        if "JobState" in one:
            name = f"{{one['ArrayJobId']}}_{{one['ArrayTaskId']}}" if "ArrayJobId" in one else one["JobId"]
            print(f"{{name}}|{{one['JobState']}}|{{one.get('NodeList', '')}}")
"""


def missing() -> str | None:
    """What this machine lacks for such a cluster; None if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it takes Linux and root, for network namespaces and SLURM's daemons"
    absent = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)}: not installed; apt-get install slurmctld slurmd slurm-client munge iproute2"
    return None


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Cluster:
    """The cluster; a context in which it runs.

    Args:
        home: An empty folder for its state.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._names = {node: f"dl{os.getpid()}{node}" for node in NODES}
        for folder in ("ctld", *NODES, "log", "bin", "munge"):
            (home / folder).mkdir(parents=True)
        (home / "slurm.conf").write_text(_CONF.format(home=home, **NODES))
        (home / "bin" / "sacct").write_text(_SACCT)
        (home / "bin" / "sacct").chmod(0o755)
        (home / "hosts").write_text("".join(f"{a} {n}\n" for n, a in {"localhost": "127.0.0.1", **NODES}.items()))
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "DENOISELAB_RUN_ID"))},
            "SLURM_CONF": str(home / "slurm.conf"),
            "GLOO_SOCKET_IFNAME": "veth0",
            "PATH": f"{home / 'bin'}:{_path()}",
        }

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def command(self, node: str, *words: str | Path) -> list[str]:
        """The command line that runs `words` on a node."""
        inside = ["bash", "-c", _ENTER, node, str(self.home / "hosts"), *map(str, words)]
        return ["nsenter", f"--net=/run/netns/{self._names[node]}", "unshare", "--uts", "--mount", *inside]

    def run(
        self, node: str, *words: str | Path, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node to its end; its whole process group ends at the timeout."""
        with subprocess.Popen(
            self.command(node, *words), env=self.environment | environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job; empty once it has forgotten it, and where it does not answer."""
        try:
            shown = self.run("na", "scontrol", "-o", "show", "job", number, timeout=20).stdout
        except subprocess.TimeoutExpired:
            return {}
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait(self, number: str, states: str = "COMPLETED FAILED CANCELLED TIMEOUT", timeout: float = 120) -> str:
        """Wait until a job is in one of the states, and return it.

        Raises:
            TimeoutError: If it is in none within `timeout` seconds.
        """
        end, state = time.monotonic() + timeout, ""
        while time.monotonic() < end:
            if (state := self.job(number).get("JobState", "")) in states.split():
                return state
            time.sleep(0.5)
        log = (self.home / "log" / "ctld.log").read_text()[-3000:]
        raise TimeoutError(f"job {number} is {state or 'unknown'} after {timeout} s; the controller's log:\n{log}")

    def kill(self, words: str) -> int:
        """SIGKILL to the processes on the nodes that have `words` on their command line, and return their number."""
        found = 0
        for number in self._inside():
            with contextlib.suppress(OSError):
                if words.encode() in Path(f"/proc/{number}/cmdline").read_bytes():
                    os.kill(number, signal.SIGKILL)
                    found += 1
        return found

    def _inside(self) -> list[int]:
        """The processes on the nodes."""
        listed = [["ip", "netns", "pids", name] for name in self._names.values()]
        return [
            int(n) for words in listed for n in subprocess.run(words, capture_output=True, text=True).stdout.split()
        ]

    def _start(self) -> None:
        a, b = self._names.values()
        for words in (
            ("netns", "add", a),
            ("netns", "add", b),
            ("link", "add", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b),
            *(("-n", self._names[node], "addr", "add", f"{place}/24", "dev", "veth0") for node, place in NODES.items()),
            *(("-n", name, "link", "set", device, "up") for name in (a, b) for device in ("lo", "veth0")),
        ):
            subprocess.run(["ip", *words], check=True, env=self.environment)
        place = self.home / "munge"  # an own one, so that several clusters may run
        subprocess.run(["mungekey", "--create", f"--keyfile={place / 'key'}"], check=True, env=self.environment)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("na", "munged", "--force", *(f"--{option}={place / name}" for option, name in files.items()))
        conf = str(self.home / "slurm.conf")
        self._daemon("na", "slurmctld", "-f", conf)
        for node in NODES:
            self._daemon(node, "slurmd", "-f", conf, "-N", node)
        end = time.monotonic() + 20
        while self.run("na", "sinfo", "-h", "-t", "idle", "-o", "%D").stdout.strip() != "2":
            if time.monotonic() > end:
                raise RuntimeError("no two idle nodes after 20 s: " + self.run("na", "sinfo", "-N", "-l").stdout)
            time.sleep(0.2)

    def _daemon(self, node: str, *words: str) -> None:
        # Not by pipes, which a daemon that forks would keep open.
        with (self.home / "log" / "start.log").open("a") as log:
            subprocess.run(
                self.command(node, *words), check=True, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip

    def _stop(self) -> None:
        """End the jobs, the daemons and what is left in the namespaces, and remove these."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self.run("na", "scancel", "-u", "root", timeout=10)
        for name in ("ctld.pid", *(f"{node}.pid" for node in NODES), "munge/pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.home / name).read_text()), signal.SIGTERM)
        time.sleep(0.5)
        for number in self._inside():
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
