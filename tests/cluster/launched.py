"""The project's own ``clusters/local.yaml`` on a network of machines: a laptop, a head, and two workers of 8 GPUs.

The commands are those of the README, run on the laptop as they stand there but for what a user fills in.
"""

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lan import NETWORK, ROOT, Lan, end, wait_for

HEAD, WORKERS, LAPTOP = ("head", 10), {"first": 11, "second": 12}, ("laptop", 2)
DASHBOARD = "http://127.0.0.1:8265"
RESOURCES = """export RAY_OVERRIDE_RESOURCES='{"CPU": 2, "GPU": 8}'\n"""
"""What the workers say they have, since none of the GPUs is real; ``clusters/local.yaml`` leaves that to Ray."""

IMPATIENT = "export AUTOSCALER_HEARTBEAT_TIMEOUT_S=5\n"
"""The head starts Ray anew on a worker that it has not heard of for so long (Ray: 30 s)."""


def readme_commands() -> list[str]:
    """The commands of the README's section on clusters, in their order."""
    (section,) = re.findall(r"\n## On a cluster\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.S)
    return [line for block in re.findall(r"```sh\n(.*?)```", section, re.S) for line in block.splitlines()]


class Launched:
    """The machines, and a laptop at whose shell the README's commands are typed.

    Args:
        lan: the network.
        results: a folder that all machines see.
    """

    def __init__(self, lan: Lan, results: Path) -> None:
        self.lan, self._results = lan, results
        self._file = lan.folder / "local.yaml"
        self._file.write_text(self._filled_in())
        self._open: list[subprocess.Popen[Any]] = []
        for name in (HEAD[0], *WORKERS):
            (lan.home(name) / "ampsweep-venv").symlink_to(sys.prefix)
        for name in WORKERS:
            (lan.home(name) / ".bashrc").write_text(RESOURCES)
        (lan.home(HEAD[0]) / ".bashrc").write_text(IMPATIENT)
        shutil.copy(lan.folder / "key", lan.home(LAPTOP[0]) / ".ssh" / "ampsweep")
        for name, number in (LAPTOP, HEAD, *WORKERS.items()):
            lan.power_on(name, number)

    def _filled_in(self) -> str:
        text = (ROOT / "clusters" / "local.yaml").read_text()
        addresses = [f"{NETWORK}.{number}" for number in (HEAD[1], *WORKERS.values())]
        holes = ("FILL-IN-HEAD", "FILL-IN-WORKER-1", "FILL-IN-WORKER-2", "FILL-IN-USER")
        for hole, filling in zip(holes, (*addresses, "root"), strict=True):
            assert text.count(hole) == 1, hole
            text = text.replace(hole, filling)
        return text

    def command(self, start: str, instead: Mapping[str, str] | None = None) -> str:
        """A command of the README, by its beginning, with what a user fills in.

        Args:
            start: what it begins with.
            instead: other words of it to replace.
        """
        (found,) = (command for command in readme_commands() if command.startswith(start))
        filled_in = {"cluster.yaml": str(self._file), "s3://BUCKET/sweeps": str(self._results)}
        for old, new in (filled_in | dict(instead or {})).items():
            found = found.replace(old, new)
        return found

    def type(self, command: str, *, token: bool = True, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Types a command on the laptop and waits for its end.

        Args:
            command: for its shell.
            token: whether the laptop shows its token.
            timeout_s: seconds that it may take.
        """
        return self.lan.run(LAPTOP[0], "bash", "-c", command, environment=_shell(token), timeout=timeout_s)

    def begin(self, command: str, log: Path) -> "subprocess.Popen[bytes]":
        """Types a command on the laptop that goes on in the background, its output in a file."""
        words = self.lan.inside(LAPTOP[0], ["bash", "-c", command], _shell(True))
        with log.open("wb") as file:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self._open.append(process)
        return process

    def open_tunnel(self) -> str:
        """Pastes the command for the tunnel to the dashboard, and another after it, at a terminal of the laptop.

        Returns:
            what the shell says of its jobs once the first has given the terminal back.
        """
        words = self.lan.inside(LAPTOP[0], ["script", "-qfc", "bash -i", "/dev/null"], _shell(True))
        log = self.lan.folder / "terminal.log"
        with log.open("wb") as file:
            shell = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True)
        self._open.append(shell)
        assert shell.stdin is not None
        shell.stdin.write(f'{self.command("ray dashboard")}\necho "jobs: $(jobs)"\n'.encode())
        shell.stdin.flush()
        said = wait_for(lambda: re.search(r"^jobs: (.*)", log.read_text(), re.M), 60, f"the terminal ({log})")
        return str(said.group(1))

    def down(self) -> "subprocess.CompletedProcess[str]":
        """Takes the cluster down as the README says."""
        self.close()
        stopped = self.type(self.command("ray exec", {"clusters/local.yaml": str(self._file)}))
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        return self.type(self.command("ray down"))

    def close(self) -> None:
        """Ends what runs in the laptop's background."""
        for process in self._open:
            if process.stdin is not None and process.poll() is None:  # a terminal
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(b"kill %1\nexit\n", timeout=20)
            end(process)
        self._open.clear()


def _shell(token: bool) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token" if token else "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
