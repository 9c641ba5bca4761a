"""What a node costs, by the names of prices, and which part of it a run pays for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.nodes import NODE_TYPE, node_in
from sweeps.engine.prices import PricedNode, price_of, share_of

H100, A10G, XEON = "NVIDIA H100 80GB HBM3", "NVIDIA A10G", "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz"
GPU_NODE, CPU_NODE = PricedNode(96, 8, "gpu_spot"), PricedNode(16, 0)


@pytest.mark.parametrize(
    ("prices", "device", "place", "price"),
    [
        (3.5, None, CPU_NODE, 3.5),
        ({"H100": 12.3, "cpu": 0.4}, H100, GPU_NODE, 12.3),
        ({"H100": 12.3, "cpu": 0.4}, XEON, CPU_NODE, 0.4),
        ({"H100": 12.3, "cpu": 0.4}, None, CPU_NODE, 0.4),
        ({"nvidia h100 80gb hbm3": 12.3, "H100 80GB HBM3": 1.0}, H100, GPU_NODE, 12.3),
        ({"HBM3 h100": 12.3, "nvidia": 1.0, "gpu": 2.0}, H100, GPU_NODE, 12.3),
        ({"nvidia": 1.0, "gpu": 2.0}, A10G, GPU_NODE, 1.0),
        ({"gpu": 2.0, "cpu": 1.0}, A10G, GPU_NODE, 2.0),
        ({"GPU_spot": 5.0, "A10G": 9.0}, A10G, GPU_NODE, 5.0),
        ({"gpu_spot": 5.0, "NVIDIA A10G": 9.0}, A10G, GPU_NODE, 5.0),  # the type says more than the whole name
        ({"A10": 1.0}, A10G, GPU_NODE, None),  # another device
        ({"A10": 1.0}, "NVIDIA A100-SXM4-80GB", GPU_NODE, None),
        ({"A100": 4.0}, "NVIDIA A100-SXM4-80GB", GPU_NODE, 4.0),
        ({"nvidia": 1.0, "H100": 12.3}, H100, GPU_NODE, None),  # both say one word
        ({"nvidia": 12.3, "H100": 12.3}, H100, GPU_NODE, 12.3),
        ({"H100": 12.3}, None, GPU_NODE, None),
        ({"xeon": 0.3, "cpu": 0.4}, XEON, CPU_NODE, 0.3),
        ({"gpu": 2.0}, XEON, CPU_NODE, None),
    ],
)
def test_the_price_that_says_most_of_a_node(prices, device, place, price):
    assert price_of(prices, device, place, uses_gpus=place.gpus > 0) == price


def test_a_run_pays_for_the_larger_of_its_shares():
    assert share_of(PricedNode(16, 0), 4, 0) == 0.25
    assert share_of(PricedNode(96, 8), 12, 1) == 0.125
    assert share_of(PricedNode(96, 8), 48, 1) == 0.5  # nobody can use the GPUs beside it
    assert share_of(PricedNode(96, 8), 1, 0.5) == 0.0625
    assert share_of(PricedNode(2, 0), 3, 0) == 1.0


@given(st.integers(1, 64), st.integers(0, 8), st.floats(1e-4, 64), st.floats(0, 8))
def test_a_share_is_a_share(cpus, gpus, held_cpus, held_gpus):
    share = share_of(PricedNode(cpus, gpus), held_cpus, held_gpus)
    assert 0 < share <= 1
    assert share >= min(1, held_cpus / cpus)
    assert gpus == 0 or share >= min(1, held_gpus / gpus)


def test_nodes_as_ray_lists_them():
    nodes = [
        {"NodeID": "a", "Resources": {"CPU": 16.0, "memory": 1e9}, "Labels": {"ray.io/node-id": "a"}},
        {"NodeID": "b", "Resources": {"CPU": 96.0, "GPU": 8.0}, "Labels": {NODE_TYPE: "gpu_spot"}},
        {"NodeID": "gone", "Resources": {}},
    ]
    assert node_in(nodes, "a") == PricedNode(16, 0)
    assert node_in(nodes, "b") == GPU_NODE
    assert node_in(nodes, "gone") is None
    assert node_in(nodes, "other") is None
