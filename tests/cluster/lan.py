"""A network of machines on this one: namespaces with an address, a name, processes, /root and /tmp of their own, and an
SSH server that lets in one key. They share everything else, and folders that are named. Needs root.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

NETWORK = "10.99.0"
"""The first three numbers of all addresses; nothing outside of the namespaces sees them."""

TOOLS = ("sshd", "ssh", "ssh-keygen", "rsync", "ip", "unshare", "nsenter", "ps", "script", "curl")
ROOT = Path(__file__).parents[2]
PATH = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str | None:
    """Why there can be no machines here, in words; ``None`` where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        packages = "openssh-server openssh-client rsync iproute2 procps bsdutils curl"
        return f"{', '.join(missing)} missing: apt-get install {packages}"
    tried = subprocess.run(["unshare", "--net", "--pid", "--mount", "--fork", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"this container allows no namespaces ({tried.stderr.decode().strip()})"


class Lan:
    """A switch, and the machines that were switched on; all of it goes with :meth:`close`.

    Args:
        kept: folders that all machines see where they are.
    """

    def __init__(self, kept: Sequence[Path]) -> None:
        # Not in /tmp, which each machine has of its own.
        self.folder = Path(tempfile.mkdtemp(prefix="ampsweep-lan-", dir="/var/tmp"))
        self._kept = [str(path.resolve()) for path in kept]
        self._machines: dict[str, subprocess.Popen[bytes]] = {}
        self._prefix = f"amp{os.getpid()}"
        _do("ip", "netns", "add", self._space("switch"))
        _do("ip", "-n", self._space("switch"), "link", "add", "bridge", "type", "bridge")
        _do("ip", "-n", self._space("switch"), "link", "set", "bridge", "up")
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key"))

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def home(self, name: str) -> Path:
        """What a machine has as ``/root``, also while it is off."""
        home = self.folder / "homes" / name
        if not home.exists():
            (home / ".ssh").mkdir(parents=True, mode=0o700)
            shutil.copy(self.folder / "key.pub", home / ".ssh" / "authorized_keys")
            (home / ".bashrc").touch()
        return home

    def power_on(self, name: str, number: int) -> None:
        """Starts a machine.

        Args:
            name: its host name.
            number: the last one of its address.
        """
        self.home(name)
        space, plug = self._space(name), f"{name}-plug"
        _do("ip", "netns", "add", space)
        pair = ("netns", self._space("switch"), "type", "veth", "peer", "name", "eth0", "netns", space)
        _do("ip", "link", "add", plug, *pair)
        _do("ip", "-n", self._space("switch"), "link", "set", plug, "master", "bridge", "up")
        _do(
            "ip", "-n", space, "link", "set", "eth0", "address", f"02:00:00:00:00:{number:02x}"
        )  # as other machines know
        _do("ip", "-n", space, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        _do("ip", "-n", space, "link", "set", "eth0", "up")
        _do("ip", "-n", space, "route", "add", "default", "dev", "eth0")  # Ray asks by it which address is its own
        words = [
            "ip",
            "netns",
            "exec",
            space,
            "unshare",
            "--pid",
            "--mount",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
        ]
        words += ["--mount-proc", str(Path(__file__).with_name("machine.sh")), name, str(self.folder), *self._kept]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._machines[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), start_new_session=True
            )
        wait_for(lambda: b"listening" in (self.folder / f"{name}.log").read_bytes(), 20, f"the SSH server of {name}")

    def power_off(self, name: str) -> None:
        """Ends a machine and all that runs on it at once; its disk stays."""
        machine = self._machines.pop(name)
        machine.kill()  # the first process of the namespace dies with it, and the kernel ends all others
        machine.wait()
        (self.folder / f"{name}.log").write_bytes(b"")
        _do("ip", "-n", self._space("switch"), "link", "del", f"{name}-plug")  # not only once the kernel gets to it
        _do("ip", "netns", "del", self._space(name))

    def inside(self, name: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """The command that runs words on a machine, as its root, in the project's folder."""
        unshare = self._machines[name].pid
        (first,) = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
        variables = [f"{key}={value}" for key, value in _environment(environment).items()]
        enter = ["nsenter", "-t", first, "-n", "-p", "-m", "-u", "-i"]
        return [*enter, "env", "-i", "-C", str(ROOT), *variables, *words]

    def run(self, name: str, *words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Runs a command on a machine and waits for its end.

        Args:
            name: of the machine.
            words: the command.
            options: ``environment`` for it; all others are those of ``subprocess.run``.
        """
        command = self.inside(name, words, options.pop("environment", None))
        usual = {"capture_output": True, "text": True, "check": False, "timeout": 120, "stdin": subprocess.DEVNULL}
        return subprocess.run(command, **usual | options)

    def processes(self, name: str) -> list[str]:
        """What runs on a machine besides the SSH server."""
        found = self.run(name, "ps", "-e", "-o", "args=", check=True).stdout.splitlines()
        return [line for line in found if not line.startswith(("sshd:", "/usr/sbin/sshd", "ps -e"))]

    def close(self) -> None:
        """Switches everything off and removes its files."""
        for name in list(self._machines):
            self.power_off(name)
        _do("ip", "netns", "del", self._space("switch"))
        shutil.rmtree(self.folder)


def wait_for(happened: Callable[[], Any], seconds: float, what: str) -> Any:
    """Waits until something holds, and gives it.

    Raises:
        TimeoutError: it took longer.
    """
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.2)
    return found


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "USER": "root", **(more or {})}


def _do(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def end(process: "subprocess.Popen[Any]") -> None:
    """Ends a process and those that it started, which :meth:`Lan.inside` put into its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
