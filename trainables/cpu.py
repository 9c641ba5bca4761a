"""What the CPU of this machine is called; without PyTorch, since drivers ask, too."""

import platform


def cpu_name() -> str:
    """The model's name, as ``/proc/cpuinfo`` or else Python tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            name = next(names, "")
    except OSError:
        name = ""
    return name or platform.processor() or platform.machine()
