"""Nodes that Ray starts on a cloud know the name of their type, by which they may have a price."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cluster_lint import ROOT

from sweeps.engine.nodes import node_in


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/gcp.yaml"])
def test_workers_are_told_the_type_that_prices_go_by(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec
    from ray.autoscaler.v2.instance_manager import ray_installer
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    config = yaml.safe_load((ROOT / name).read_text())
    commands: list[str] = []

    class Updater:  # in place of the one that runs them over SSH
        def __init__(self, ray_start_commands: list[str], **rest: Any) -> None:
            commands.extend(ray_start_commands)

        def run(self) -> None:
            pass

    monkeypatch.setattr(ray_installer, "NodeUpdater", Updater)
    monkeypatch.setenv("HOME", str(tmp_path))  # with the token that Ray mounts
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    provider = SimpleNamespace(node_tags=lambda node: {"ray-node-status": "up-to-date"})
    installer = ray_installer.RayInstaller(provider, AutoscalingConfig(copy.deepcopy(config), skip_content_hash=True))
    installer.install_ray(SimpleNamespace(instance_type="gpu_spot", cloud_instance_id="i-0"), "10.0.0.1")
    (start,) = (command for command in commands if "ray start" in command)
    told, _, _ = start.partition("ulimit")
    assert "export RAY_NODE_TYPE_NAME=gpu_spot;" in told
    monkeypatch.setenv("RAY_NODE_TYPE_NAME", "gpu_spot")
    labels = ResourceAndLabelSpec._get_default_labels(None)
    found = node_in([{"NodeID": "a", "Resources": {"CPU": 8.0, "GPU": 1.0}, "Labels": labels}], "a")
    assert found is not None
    assert found.node_type == "gpu_spot"
