"""What all tests share: fast ones first, then those that use Ray, in one session of it for each test process."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent))


LONGEST = ["test_readme.py", "test_resume.py", "test_run.py", "test_workers_per_trial.py"]
"""Files whose tests are begun before all others that use Ray, lest one process be left with them in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (item.get_closest_marker("ray") is not None, _turn(item)))


def _turn(item: pytest.Item) -> int:
    return LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)


def pytest_collection_finish() -> None:
    """Trials collect garbage as they end; like the processes that run them, they need not walk what stays for good."""
    gc.collect()
    gc.freeze()


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "very", "not", "a", "the", "was"]


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with random weights and 24 positions, and its tokenizer, which knows :data:`WORDS`."""
    import tokenizers
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        transformers.BertModel(config).save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(dict(zip(WORDS, range(12), strict=True)), "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    words.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    return folder


@pytest.fixture
def text_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``train.tsv`` (64 texts) and ``dev.tsv`` (16), without headers; the cache lies in it, too."""
    monkeypatch.setenv("AMPSWEEP_CACHE", str(tmp_path / "cache"))
    rows = [f"the film was {'very ' * (i % 5)}{('bad', 'good')[i % 2]}\t{i % 2}" for i in range(80)]
    (tmp_path / "train.tsv").write_text("\n".join(rows[:64]) + "\n")
    (tmp_path / "dev.tsv").write_text("\n".join(rows[64:]) + "\n")
    return tmp_path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokens that tests and the workers of their Ray make are gone with them."""
    os.environ["AMPSWEEP_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    yield
    del os.environ["AMPSWEEP_CACHE"]


@pytest.fixture(autouse=True)
def brief_timing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps of tests that run beside others time briefly."""
    if request.node.get_closest_marker("ray") and not request.node.get_closest_marker("quiet"):
        from brief_timing import time_briefly

        time_briefly(monkeypatch)


@pytest.fixture(scope="session")
def ray_address(own_cache: None) -> Iterator[str]:
    """One Ray for all tests that need one, on two CPUs; commands that tests start find it by its address.

    Workers that have imported PyTorch stay for the sweeps of later tests.
    """
    import ray

    settings = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    context = ray.init(**settings, _system_config={"num_workers_soft_limit": 6, "enable_worker_prestart": False})
    address = context.address_info["address"]
    os.environ["RAY_ADDRESS"] = address
    yield address
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()
