"""The files that start clusters: valid by Ray's and AWS' own schemas, and safe; and the checks see what is planted."""

import copy
import re
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from cluster_lint import ROOT, faults, faults_of_text
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

UP = ("cluster.yaml", "clusters/local.yaml", "clusters/gcp.yaml")
LOCK = ROOT / "clusters" / "requirements.lock"
INSTALLS = ("clusters/setup.sh", "clusters/Dockerfile")


def read(name: str) -> str:
    return (ROOT / name).read_text()


def validate(config: dict) -> dict:
    """Ray's own validation, as ``ray up`` does it first."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", UP)
def test_files_of_ray_up_are_valid_and_safe(name: str):
    pytest.importorskip("botocore")
    config = yaml.safe_load(read(name))
    prepared = validate(config)
    assert list(faults(read(name), config)) == []
    for field in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[field] == config[field]  # nothing of Ray's own is added
    assert prepared.get("head_setup_commands") in ([], config["setup_commands"])


FAULTS = {
    "the dashboard for all": ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "0.0.0.0"),
    "the dashboard by default": ("--dashboard-host=127.0.0.1", "", "not on loopback"),
    "no token on the head": ("RAY_AUTH_MODE=token RAY_", "RAY_", "head_start_ray_commands: no token"),
    "no token on workers": ("RAY_AUTH_MODE=token ray start --address", "ray start --address", "worker_start_ray"),
    "token authentication off": ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "no token"),
    "no autoscaler": ("--autoscaling-config=~/ray_bootstrap_config.yaml", "", "no autoscaler"),
    "3 s for SIGTERM": ("RAY_JOB_STOP_WAIT_TIME_S=30 ", "", "3 s to leave"),
    "Ray's set-up": ("\nsetup_commands:", "\ninitialization_commands:", "setup_commands: missing"),
    "Ray's start of workers": (
        "worker_start_ray_commands:",
        "worker_setup_commands:",
        "worker_start_ray_commands: missing",
    ),
    "a file that is not there": ('"~/ampsweep": "."', '"~/ampsweep": "src"', "src, which does not exist"),
    "a script that is not there": ("clusters/setup.sh", "clusters/set-up.sh", "set-up.sh does not exist"),
    "PyTorch without CUDA": ("setup.sh]", "setup.sh, pip install torch==2.13.0+cpu]", r"\+cpu"),
    "what is not locked": ("setup.sh]", "setup.sh, pip install wandb]", "pip install wandb.*not from the lock"),
    "a nightly build": ("setup.sh]", "setup.sh, pip install --no-deps ray-3.0.0.dev0.whl]", "dev0: not a pinned"),
    "a token": ("cluster_name:", "auth_token: 6f1c9e0b4d5a4f1e\ncluster_name:", "secret: a token"),
    "a key of AWS": ("cluster_name:", "x: AKIAIOSFODNN7EXAMPLE\ncluster_name:", "secret: a key of AWS"),
}
CLOUD_FAULTS = {
    "Ray's set-up of the head": ("head_setup_commands:", "worker_setup_commands:", "head_setup_commands: missing"),
    "a head that runs trials": ("{CPU: 0}", "{CPU: 2}", "the head runs trials"),
    "workers that are always there": ("min_workers: 0", "min_workers: 1", "come from zero"),
    "nodes without their type": ("ray start --head", "RAY_enable_autoscaler_v2=0 ray start --head", "no price by type"),
    "idle nodes that are kept": ("cache_stopped_nodes: false", "cache_stopped_nodes: true", "paid for"),
}
AWS_FAULTS = {
    "Ray's security group": (r"SecurityGroupIds: [sg-FILL-IN]", "EbsOptimized: true", "head.SecurityGroupIds: missing"),
    "Ray's role": ("IamInstanceProfile: {Name: ampsweep-head}", "EbsOptimized: true", "head.IamInstanceProfile"),
    "keys for forged requests": ("{HttpTokens: required}", "{HttpTokens: optional}", "MetadataOptions"),
    "a misspelt parameter": ("ImageId:", "ImageID:", "head.ImageId: missing"),
    "an unknown parameter": ("MarketType: spot", "MarketTyp: spot", "Unknown parameter.*MarketTyp"),
    "a size that is text": ("VolumeSize: 100", "VolumeSize: 100GB", "VolumeSize.*type"),
    "workers on demand": ("InstanceMarketOptions: {MarketType: spot}", "EbsOptimized: true", "gpu_spot: the head must"),
}
GCP_FAULTS = {
    "a family of images": ("images/FILL-IN", "images/family/common-cu129", "not a pinned version"),
    "Ray's network": ("networkInterfaces:", "labels:", "head.networkInterfaces: missing"),
    "workers on demand": ("provisioningModel: SPOT", "provisioningModel: STANDARD", "gpu_spot: the head must"),
    "no wait for the driver": ("until nvidia-smi", "if nvidia-smi", "worker_setup_commands: none waits"),
    "Google's default disk": ("diskType:", "diskName:", "gpu_spot.disks.diskType: missing"),
    "a disk that g2 machines cannot have": ("/pd-balanced", "/pd-standard", "pd-standard: not one"),
    "disks of another zone": ("_zone: us-central1-a", "_zone: us-central1-b", "can have in us-central1-b"),
    "Ray's account": ("serviceAccounts:", "labels:", "gpu_spot.serviceAccounts: missing"),
}
PLANTED = [
    *((name, what, *fault) for name in UP for what, fault in FAULTS.items()),
    *((name, what, *fault) for name in ("cluster.yaml", "clusters/gcp.yaml") for what, fault in CLOUD_FAULTS.items()),
    *(("cluster.yaml", what, *fault) for what, fault in AWS_FAULTS.items()),
    *(("clusters/gcp.yaml", what, *fault) for what, fault in GCP_FAULTS.items()),
]


@pytest.mark.parametrize(("name", "what", "old", "new", "said"), PLANTED, ids=[f"{p[0]}: {p[1]}" for p in PLANTED])
def test_the_lint_sees_what_is_planted(name: str, what: str, old: str, new: str, said: str):
    pytest.importorskip("botocore")
    text = read(name)
    assert old in text
    planted = text.replace(old, new)
    found = list(faults(planted, yaml.safe_load(planted)))
    assert any(re.search(said, fault) for fault in found), found


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("cluster.yaml", "max_workers:", "most_workers:"),
        ("cluster.yaml", "head_node_type: head", "head_node_type: chief"),
        ("cluster.yaml", "    min_workers: 0", "    min_workers: 9"),
        ("clusters/gcp.yaml", "resources: {CPU: 8, GPU: 1}", "resources: many"),
        ("clusters/local.yaml", "type: local", "type: locale"),
    ],
)
def test_ray_s_validation_sees_what_is_planted(name: str, old: str, new: str):
    text = read(name)
    assert old in text
    with pytest.raises(Exception, match=r".+"):
        validate(yaml.safe_load(text.replace(old, new)))


def kuberay() -> tuple[dict, dict]:
    job, policy = yaml.safe_load_all(read("clusters/kuberay.yaml"))
    return job, policy


def test_ray_reads_what_its_autoscaler_is_to_do_on_kubernetes():
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    cluster = kuberay()[0]["spec"]["rayClusterSpec"]
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "a", "namespace": "n"}, "spec": cluster})
    validate_config(config)
    kinds = config["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    assert (kinds["gpu-spot"]["min_workers"], kinds["gpu-spot"]["max_workers"]) == (0, 8)
    assert (kinds["gpu-spot"]["resources"]["CPU"], kinds["gpu-spot"]["resources"]["GPU"]) == (7, 1)
    assert config["idle_timeout_minutes"] == 3


def kuberay_faults(text: str) -> list[str]:
    found = list(faults_of_text(text))
    job, policy = yaml.safe_load_all(text)
    cluster = job["spec"]["rayClusterSpec"]
    if cluster.get("authOptions") != {"mode": "token"}:
        found.append("authOptions: no token is asked for")
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    chosen = policy["spec"]["podSelector"]["matchLabels"].items()
    for pod in (group["template"] for group in pods):
        if not chosen <= pod["metadata"]["labels"].items():
            found.append("NetworkPolicy: does not hold for all pods")
        if not pod["spec"]["containers"][0]["image"].endswith(f":{cluster['rayVersion']}"):
            found.append("image: is not of rayVersion")
        container = pod["spec"]["containers"][0]
        if container["securityContext"]["allowPrivilegeEscalation"]:
            found.append("securityContext: processes may gain rights")
        if container["resources"]["requests"]["cpu"] in ("4", "8", "16", "32", "48", "64", "96"):
            found.append("requests: no machine with so many CPUs has them all to give")
        tolerated = {toleration["key"] for toleration in pod["spec"].get("tolerations", ())}
        if not tolerated >= {"nvidia.com/gpu"} & container["resources"]["limits"].keys():
            found.append("tolerations: no node that is kept for pods with GPUs takes this one")
    if not job["spec"].get("ttlSecondsAfterFinished"):
        found.append("ttlSecondsAfterFinished: the head's disk goes as soon as the job has ended")
    return found


def test_the_job_of_kubernetes_is_safe_and_the_lint_sees_what_is_planted():
    text = read("clusters/kuberay.yaml")
    assert kuberay_faults(text) == []
    for old, new, said in [
        ("authOptions: {mode: token}", "authOptions: {mode: disabled}", "no token"),
        ('num-gpus: "0"}', 'num-gpus: "0", dashboard-host: 0.0.0.0}', "0.0.0.0"),
        ("ampsweep:2.60.0", "ampsweep:latest", "latest"),
        ("rayVersion: 2.60.0", "rayVersion: 2.61.0", "not of rayVersion"),
        ("metadata: {labels: {app: ampsweep}}", "metadata: {labels: {app: other}}", "NetworkPolicy"),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "gain rights"),
        ("key: nvidia.com/gpu", "key: other", "no node that is kept"),
        ('requests: {cpu: "7"', 'requests: {cpu: "8"', "has them all to give"),
        ("ttlSecondsAfterFinished: 3600", "ttlSecondsAfterFinished: 0", "as soon as the job"),
    ]:
        assert old in text
        assert any(said in fault for fault in kuberay_faults(text.replace(old, new, 1))), said


def locked() -> dict[str, str]:
    """The versions of the lock, by name."""
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", LOCK.read_text(), re.M))


def test_the_lock_pins_all_that_a_node_needs_by_hash():
    text, versions = LOCK.read_text(), locked()
    assert list(faults_of_text(re.sub(r"--hash=sha256:[0-9a-f]{64}", "", text))) == []
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.M).strip()):
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
    project = tomllib.loads(read("pyproject.toml"))
    extras = ("cluster", "aws", "gcp", "digits", "huggingface", "lora", "tpe", "fp8", "nvml")
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    wanted += [name for extra in extras for name in project["project"]["optional-dependencies"][extra]]
    for requirement in map(Requirement, wanted):
        if requirement.name != "ampsweep":
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
    assert versions["ray"].startswith("2.60.")
    assert any(name.startswith("nvidia-") for name in versions)  # PyTorch with CUDA


@pytest.mark.parametrize("name", INSTALLS)
def test_what_installs_takes_the_lock(name: str):
    text = read(name)
    assert list(faults_of_text(text)) == []
    assert "requirements.lock" in text
    if name.endswith("Dockerfile"):
        assert "ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in text  # of GKE, which says so to no container
        assert re.search(rf"^FROM rayproject/ray:{re.escape(locked()['ray'])}-py312$", text, re.M)


DRIVERS = {"13": 580}
"""The oldest NVIDIA driver that runs a major version of CUDA."""


@pytest.mark.parametrize("name", [*UP, "clusters/kuberay.yaml"])
def test_files_ask_for_the_driver_that_the_lock_s_cuda_needs(name: str):
    cuda = locked()["nvidia-cublas"].split(".")[0]
    asked = " ".join(read(name).replace("\n#", "").split())
    assert f"{DRIVERS[cuda]} or newer, for CUDA {cuda}" in asked


@pytest.mark.parametrize("name", [*UP, "clusters/kuberay.yaml"])
def test_files_name_tests_that_are_there(name: str):
    for test in re.findall(r"tests/[\w/.]+\.py", read(name)):
        assert (ROOT / test).exists(), test


def test_what_ray_up_leaves_out_as_secret_or_large_is_in_no_job_s_package(tmp_path: Path):
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    project = tmp_path / "project"
    patterns = yaml.safe_load(read("cluster.yaml"))["rsync_exclude"]
    left_out = [pattern.removeprefix("**").strip("/") for pattern in patterns]
    assert {".env", "runs"} < set(left_out)
    for name in (*left_out, "src"):
        (project / name).mkdir(parents=True)
        (project / name / "file").touch()
    (project / ".gitignore").write_text(read(".gitignore"))
    package = tmp_path / "package.zip"
    create_package(str(project), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    assert {name.split("/")[0] for name in zipfile.ZipFile(package).namelist()} == {".gitignore", "src"}


def test_the_readme_has_five_commands_up_to_a_sweep_and_a_tunnel_that_leaves_the_terminal_alone():
    from launched import readme_commands

    commands = readme_commands()
    (submit,) = (number for number, command in enumerate(commands) if command.startswith("ray job submit"))
    assert submit < 5
    assert "</dev/null & until curl" in commands[submit - 1]  # SSH reads what comes next otherwise; it takes seconds
