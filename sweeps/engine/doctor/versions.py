"""Versions of the packages that a sweep depends on."""

import platform
from importlib import metadata

PACKAGES = ("ampsweep", "torch", "ray", "numpy", "pandas", "scipy", "pyarrow", "rich", "wandb", "optuna")
"""Those whose versions are shown; the last is optional."""


def versions() -> dict[str, str | None]:
    """Package -> version, ``None`` where it is not installed; Python among them."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def outdated() -> dict[str, str]:
    """Installed packages outside the versions that ampsweep declares -> what it declares."""
    try:
        declared = metadata.requires("ampsweep") or []
    except metadata.PackageNotFoundError:  # it runs from a working directory, and nothing is declared
        return {}
    return outside(declared, versions())


def outside(declared: list[str], installed: dict[str, str | None]) -> dict[str, str]:
    """Packages outside the declared versions -> the declared versions.

    Args:
        declared: requirements, such as ``torch<2.14,>=2.9``; those of an extra too.
        installed: package -> version.
    """
    from packaging.requirements import Requirement

    found = {}
    for requirement in map(Requirement, declared):
        version = installed.get(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            found[requirement.name] = str(requirement.specifier)
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
