"""What is wrong with a cluster's file, in words: what Ray's own validation lets pass."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MADE_BY_THE_USER = {"~/.ray/auth_token"}

SECRETS = {
    "a key of AWS": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN",
    "a token or password": r"(?i)(token|password|secret|api_?key)\w*\s*[:=]\s*[\"']?[\w+/-]{16,}",
    "a long random string": r"\b[0-9a-f]{32,}\b|\b(ghp|hf|sk)_\w{16,}",
}


def faults(text: str, config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a file of ``ray up``.

    Args:
        text: the file.
        config: what it says.
    """
    yield from faults_of_text(text)
    yield from _faults_of_commands(config)
    for target, source in (config.get("file_mounts") or {}).items():
        if source not in MADE_BY_THE_USER and not (ROOT / source).exists():
            yield f"file_mounts: {target} comes from {source}, which does not exist"
    if config["provider"]["type"] != "local":
        yield from _faults_of_node_types(config)


def faults_of_text(text: str) -> Iterator[str]:
    """What no file may contain, of ``ray up`` or not."""
    if "0.0.0.0" in text:
        yield "0.0.0.0: something listens to, or lets in, the whole world"
    if "+cpu" in text:
        yield "+cpu: PyTorch without CUDA"
    for what, pattern in SECRETS.items():
        if re.search(pattern, text):
            yield f"secret: {what}"
    for found in re.findall(
        r"\bnightly\b|\blatest\b|dev0", "\n".join(_without_comment(line) for line in text.splitlines())
    ):
        yield f"{found}: not a pinned version"
    for found in re.findall(r"image: (?:&\w+ )?([^\s*]+)", text):
        if not re.search(r":\d+\.\d+\.\d+", found):
            yield f"image {found}: not a pinned version"
    for found in re.findall(r"pip install (.*)", text):
        if "--require-hashes" not in found and "--no-deps" not in found:
            yield f"pip install {found}: not from the lock"


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line)


def _faults_of_commands(config: Mapping[str, Any]) -> Iterator[str]:
    for field in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        if not config.get(field):
            yield f"{field}: missing, so that Ray's own are run"
    if config["provider"]["type"] != "local" and "head_setup_commands" not in config:
        yield "head_setup_commands: missing, so that Ray's own are run"
    for command in config.get("setup_commands") or []:
        for script in re.findall(r"~/ampsweep/(\S+)", command):
            if not (ROOT / script).exists():
                yield f"setup_commands: {script} does not exist"
    head, worker = (" ".join(config.get(f"{who}_start_ray_commands") or []) for who in ("head", "worker"))
    for who, commands in (("head", head), ("worker", worker)):
        if "RAY_AUTH_MODE=token ray start" not in re.sub(r"(RAY_(?!AUTH)\w+=\S+ )", "", commands):
            yield f"{who}_start_ray_commands: no token is asked for"
    if "--dashboard-host=127.0.0.1" not in head:
        yield "head_start_ray_commands: the dashboard is not on loopback by name"
    if "--autoscaling-config=~/ray_bootstrap_config.yaml" not in head:
        yield "head_start_ray_commands: no autoscaler"
    if not re.search(r"RAY_JOB_STOP_WAIT_TIME_S=\d\d", head):
        yield "head_start_ray_commands: a driver has 3 s to leave in good order"


def _faults_of_node_types(config: Mapping[str, Any]) -> Iterator[str]:
    provider, head = config["provider"]["type"], config["head_node_type"]
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        spot = "InstanceMarketOptions" in node or node.get("scheduling", {}).get("provisioningModel") == "SPOT"
        if spot == (name == head):
            yield f"{name}: the head must be on demand, workers on spot"
        if name == head and kind["resources"].get("CPU") != 0:
            yield f"{name}: the head runs trials"
        if name != head and (kind.get("min_workers", 0), "GPU" in kind["resources"]) != (0, True):
            yield f"{name}: workers must come from zero, and have GPUs"
        if provider == "aws":
            yield from _faults_of_aws(name, node)
        else:
            yield from _faults_of_gcp(name, node, config["provider"]["availability_zone"])
            if "until nvidia-smi" not in " ".join(config.get("worker_setup_commands") or []):
                yield "worker_setup_commands: none waits for the driver, which is installed after the first boot"
            if name != head and "serviceAccounts" not in node:
                yield f"{name}.serviceAccounts: missing, so that workers have no rights of their own"
    if "RAY_enable_autoscaler_v2=0" in " ".join(config["head_start_ray_commands"]):
        yield "head_start_ray_commands: Ray's first autoscaler tells no node its type, so that no price by type fits"
    if config["provider"].get("cache_stopped_nodes") is not False:
        yield "cache_stopped_nodes: idle nodes are kept and paid for"


def _faults_of_aws(name: str, node: Mapping[str, Any]) -> Iterator[str]:
    for field in ("ImageId", "SubnetIds", "SecurityGroupIds", "IamInstanceProfile"):
        if field not in node:
            yield f"{name}.{field}: missing, so that Ray chooses or makes one"
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield f"{name}.MetadataOptions: the role's keys can be read by a forged request"
    from botocore.session import Session
    from botocore.validate import ParamValidator

    # Ray asks for one subnet of several, and for how many machines, itself.
    asked = {"MinCount": 1, "MaxCount": 1, **{key: value for key, value in node.items() if key != "SubnetIds"}}
    model = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = ParamValidator().validate(asked, model)
    if report.has_errors():
        yield f"{name}: {' '.join(report.generate_report().split())}"


def _faults_of_gcp(name: str, node: Mapping[str, Any], zone: str) -> Iterator[str]:
    if "networkInterfaces" not in node:
        yield f"{name}.networkInterfaces: missing, so that Ray takes the first subnetwork that it finds"
    if "/family/" in str(node.get("disks")):
        yield f"{name}.disks: a family of images is not a pinned version"
    for disk in node["disks"]:
        kind = disk["initializeParams"].get("diskType", "missing")
        if kind not in (f"zones/{zone}/diskTypes/pd-balanced", f"zones/{zone}/diskTypes/pd-ssd"):
            yield f"{name}.disks.diskType: {kind}: not one that g2 machines can have in {zone}"
