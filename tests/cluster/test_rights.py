"""What the head may do on AWS: what Ray asks for there, to the machines of its own cluster, and no more."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cluster_lint import ROOT


def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def granted() -> dict[str, dict]:
    """The statements of the head's policy, by name, the actions of each as a list."""
    statements = json.loads((ROOT / "clusters" / "aws_head_policy.json").read_text())["Statement"]
    for statement in statements:
        statement["Action"] = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
    return {statement["Sid"]: statement for statement in statements}


def test_the_head_s_rights_on_aws_are_those_that_ray_uses_there(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("boto3")
    from ray.autoscaler._private.aws import node_provider

    monkeypatch.setattr(node_provider, "TAG_BATCH_DELAY", 0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    cluster = config()
    instance = {"InstanceId": "i-0", "State": {"Name": "running"}, "PrivateIpAddress": "10.0.0.2", "Tags": []}
    used: set[str] = set()

    def answer(model: Any, **rest: Any) -> tuple[Any, dict[str, Any]]:  # in place of the request
        used.add(f"ec2:{model.name}")
        return SimpleNamespace(status_code=200), {"Instances": [instance], "Reservations": [{"Instances": [instance]}]}

    on_head = node_provider.AWSNodeProvider(cluster["provider"], cluster["cluster_name"])
    for client in (on_head.ec2.meta.client, on_head.ec2_fail_fast.meta.client):
        client.meta.events.register("before-call.ec2", answer)
    on_head.create_node(cluster["available_node_types"]["gpu_spot"]["node_config"], {"ray-node-type": "worker"}, 1)
    (worker,) = on_head.non_terminated_nodes({"ray-node-type": "worker"})
    on_head.set_node_tags(worker, {"ray-node-status": "up-to-date"})
    assert on_head.internal_ip(worker) == "10.0.0.2"
    assert not on_head.is_terminated(worker)
    on_head.terminate_nodes([worker])
    actions = {action for statement in granted().values() for action in statement["Action"]}
    assert {action for action in actions if action.startswith("ec2:")} == used


def test_the_head_s_rights_on_aws_end_with_its_cluster():
    statements = granted()
    assert not any("*" in action for statement in statements.values() for action in statement["Action"])
    of_the_cluster = statements["EndAndTagThoseOfTheCluster"]["Condition"]["StringEquals"]
    assert of_the_cluster["aws:ResourceTag/ray-cluster-name"] == config()["cluster_name"]
    worker = config()["available_node_types"]["gpu_spot"]["node_config"]
    assert statements["GiveWorkersTheirRole"]["Resource"].endswith(f"role/{worker['IamInstanceProfile']['Name']}")
