"""A Slurm cluster of one node on loopback, with daemons, key and files of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from histocast.inference.triton.task_server import free_port

WAIT_S = 60.0

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} Gres=gpu:1 State=UNKNOWN
PartitionName=small Nodes={host} MaxTime=INFINITE State=UP
PartitionName=work Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

# A GPU that any machine has: what is tested is who asks for it.
GPUS = "NodeName={host} Name=gpu File=/dev/zero\n"


class SlurmCluster:
    """munged, slurmctld and slurmd, started by `start` and ended by `stop`."""

    def __init__(self, *, cpus: int, memory_mb: int) -> None:
        # Short, because it holds sockets; and open above the key, as munge demands.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self.host = socket.gethostname().partition(".")[0]
        configuration = self.folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                host=self.host,
                folder=self.folder,
                cpus=cpus,
                memory_mb=memory_mb,
                controller_port=free_port(),
                node_port=free_port(),
            )
        )
        (self.folder / "gres.conf").write_text(GPUS.format(host=self.host))
        self.environment = {"SLURM_CONF": str(configuration)}
        self.daemons: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def start(self) -> SlurmCluster:
        """Start the daemons one after the other, and wait until the node takes jobs."""
        munge = self.folder / "munge"
        self._start(
            "munged",
            "--foreground",
            *(f"--{name}-file={munge / name}" for name in ("key", "log", "pid", "seed")),
            f"--socket={munge / 'socket'}",
        )
        self._until("munge's socket", (munge / "socket").exists)
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D", "-N", self.host)
        self._until("an idle node", lambda: self.ask("sinfo", "--noheader", "--format=%T") == ["idle"])
        return self

    def _start(self, program: str, *options: str) -> None:
        log = (self.folder / f"{program}.log").open("wb")
        process = subprocess.Popen(
            [program, *options], env={**os.environ, **self.environment}, stdout=log, stderr=log, start_new_session=True
        )
        self.daemons.append((process, log))

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        until_s = time.monotonic() + WAIT_S
        while not holds():
            if time.monotonic() > until_s or any(process.poll() is not None for process, _ in self.daemons):
                raise AssertionError(f"no {what} within {WAIT_S:.0f} s:\n{self.logs()}")
            time.sleep(0.2)

    def ask(self, *command: str) -> list[str]:
        """Lines that a client of the cluster writes."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        return done.stdout.split("\n")[:-1] if done.returncode == 0 else []

    def logs(self) -> str:
        """What the daemons wrote last."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """End the daemons, the last started first, and remove what they wrote."""
        for process, log in reversed(self.daemons):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()
        shutil.rmtree(self.folder)
