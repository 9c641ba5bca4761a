"""What the doctor reads: files of the kernel, the driver's tables, folders and keys."""

import os
from pathlib import Path

import pytest

from sweeps.engine.doctor.gpus import find_gpus, parse_smi
from sweeps.engine.doctor.machine import parse_cpuinfo, parse_meminfo, parse_memory_limit, parse_quota
from sweeps.engine.doctor.places import file_system, look_at_storage, look_at_tracking, marked, sees
from sweeps.engine.doctor.versions import outside

XEON = """processor\t: {cpu}
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R)
physical id\t: 0
core id\t\t: {core}
flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile amx_bf16 ht
"""


def test_cpuinfo_tells_instructions_and_physical_cores():
    text = "\n".join(XEON.format(cpu=cpu, core=cpu // 2) for cpu in range(4))
    instructions = ("avx2", "avx512f", "amx_tile", "avx512_bf16", "amx_bf16")
    assert parse_cpuinfo(text) == ("GenuineIntel", instructions, 2)


def test_cpuinfo_of_arm_and_none_at_all():
    arm = "processor\t: 0\nFeatures\t: fp asimd asimdhp bf16 i8mm\nCPU implementer\t: 0x41\n\nprocessor\t: 1\n"
    assert parse_cpuinfo(arm) == ("0x41", ("bf16", "asimdhp", "i8mm"), None)
    assert parse_cpuinfo("") == (None, None, None)


def test_limits_of_control_groups():
    assert parse_quota("200000", "100000") == 2.0
    assert parse_quota("max", "100000") is None
    assert parse_quota("-1", "100000") is None
    assert parse_memory_limit("max") is None
    assert parse_memory_limit("9223372036854771712") is None
    assert parse_memory_limit("1073741824") == 2**30
    assert parse_memory_limit(None) is None
    assert parse_meminfo("MemTotal:  2048 kB\nMemAvailable: 1024 kB\nHugePages_Total: 0\n")["MemAvailable"] == 2**20


def test_the_driver_tells_each_gpu_and_what_it_does_not_know_is_missing():
    h100, a2 = parse_smi(
        "NVIDIA H100 80GB HBM3, 9.0, 81559, 1024, Default, 350.00, 700.00, 550.54.15\n"
        "NVIDIA A2, 8.6, 15356, [N/A], Exclusive_Process, [N/A], [Not Supported], 550.54.15\n"
    )
    assert (h100.name, h100.capability, h100.driver) == ("NVIDIA H100 80GB HBM3", (9, 0), "550.54.15")
    assert (h100.memory_bytes, h100.used_bytes) == (81559 * 2**20, 2**30)
    assert (h100.power_watts, h100.max_power_watts) == (350.0, 700.0)
    assert (a2.capability, a2.used_bytes, a2.power_watts, a2.max_power_watts) == ((8, 6), None, None, None)
    assert a2.compute_mode == "Exclusive_Process"
    assert parse_smi("No devices were found\n") == ()


def test_the_driver_is_asked_for_what_the_table_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A mock of ``nvidia-smi``, since there is no GPU here: it prints as many values as it is asked for."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho \"$1\" | sed 's/.*=//; s/,/, /g'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (gpu,) = find_gpus()
    assert (gpu.name, gpu.compute_mode, gpu.driver, gpu.memory_bytes) == (
        "name",
        "compute_mode",
        "driver_version",
        None,
    )
    program.write_text("#!/bin/sh\nexit 9\n")
    assert find_gpus() == ()


def test_versions_outside_the_declared_ones_are_found():
    declared = ["torch<2.14,>=2.9", "ray[train,tune]<2.61,>=2.60", 'ruff<1; extra == "dev"', "rich<16,>=13.7"]
    installed = {"torch": "2.14.0+cu128", "ray": "2.60.0", "rich": None}
    assert outside(declared, installed) == {"torch": "<2.14,>=2.9"}


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path):
    storage = look_at_storage(str(tmp_path / "not" / "yet"))
    assert (storage.error, storage.can_lock) == (None, True)
    assert storage.folder == str(tmp_path / "not" / "yet")
    assert storage.total_bytes >= storage.free_bytes > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("place", "error"), [("/proc/none", "No such file"), ("nosuch://bucket/sweeps", "nosuch")])
def test_a_place_that_cannot_be_used_says_why(place: str, error: str):
    assert error in look_at_storage(place).error


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert "is no folder" in look_at_storage(str(tmp_path / "file")).error
    assert "is no folder" in look_at_storage(str(tmp_path / "file" / "runs")).error


def test_a_mark_is_seen_by_those_who_share_the_folder_and_goes_away(tmp_path: Path):
    with marked(str(tmp_path / "runs")) as (mark, token):
        assert sees(mark, token)
        assert not sees(mark, "another folder's")
    assert not sees(mark, token)
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_mount_tells_the_file_system():
    mounts = "overlay / overlay rw 0 0\n/dev/sda /data ext4 rw 0 0\nnas:/x /data/shared nfs4 rw 0 0\n"
    assert file_system(Path("/data/shared/runs"), mounts) == "nfs4"
    assert file_system(Path("/data/sharedness"), mounts) == "ext4"
    assert file_system(Path("/home"), mounts) == "overlay"
    assert file_system(Path("/home"), "") is None


KEY = "0123456789abcdef0123456789abcdef01234567"


def netrc(tmp_path: Path, host: str) -> dict[str, str]:
    path = tmp_path / "keys"
    path.write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    path.chmod(0o600)
    return {"NETRC": str(path)}


def test_a_login_is_found_and_its_key_is_not_kept(tmp_path: Path):
    for environment in ({"WANDB_API_KEY": KEY}, netrc(tmp_path, "api.wandb.ai")):
        found = look_at_tracking(environment, tmp_path)
        assert found.key_from in ("WANDB_API_KEY", str(tmp_path / "keys"))
        assert KEY not in repr(found)


def test_a_login_to_another_server_does_not_count(tmp_path: Path):
    environment = netrc(tmp_path, "wandb.example.com")
    assert look_at_tracking(environment, tmp_path).key_from is None
    there = environment | {"WANDB_BASE_URL": "https://wandb.example.com"}
    assert look_at_tracking(there, tmp_path).key_from == environment["NETRC"]
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.com\n")
    assert look_at_tracking(environment | {"WANDB_CONFIG_DIR": str(tmp_path)}, tmp_path).host == "wandb.example.com"


def test_no_login_and_a_broken_file_of_keys(tmp_path: Path):
    assert look_at_tracking({"WANDB_MODE": "offline"}, tmp_path).mode == "offline"
    assert look_at_tracking({}, tmp_path).key_from is None
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai password {KEY} nonsense\n")
    os.chmod(tmp_path / ".netrc", 0o600)
    broken = look_at_tracking({}, tmp_path)
    assert broken.error == f"{tmp_path / '.netrc'}: it does not parse"
