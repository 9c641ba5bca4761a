"""The order of the data, its two paths, and its fingerprints."""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from trainables.data import TrainingData, epoch_order, grouped_order, validation_batches
from trainables.task import Task

CPU = torch.device("cpu")


def training_data(
    task: Task, batch_size: int = 16, num_parts: int = 1, seed: int = 0, dtype: torch.dtype | None = None
) -> TrainingData:
    return TrainingData(task, batch_size, num_parts, seed, CPU, dtype)


def first(data: TrainingData, num_steps: int, first_step: int = 0) -> list[torch.Tensor]:
    """Inputs of the first steps, micro-batches joined."""
    return [torch.cat([part[0] for part in parts]) for parts in islice(data.batches(first_step), num_steps)]


class Items(Dataset[Any]):
    """The same items one by one, which takes the path through ``DataLoader``."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]


@given(st.integers(1, 200), st.integers(0, 2**31 - 1), st.integers(0, 50))
def test_an_epoch_visits_every_item_once_in_an_order_of_seed_and_epoch_alone(
    num_items: int, seed: int, epoch: int
) -> None:
    order = epoch_order(num_items, seed, epoch)
    torch.manual_seed(seed + 1)
    torch.rand(3)
    assert torch.equal(epoch_order(num_items, seed, epoch), order)
    assert sorted(order.tolist()) == list(range(num_items))


def test_orders_of_other_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


@given(st.lists(st.integers(1, 100), min_size=1, max_size=300), st.integers(1, 16), st.integers(0, 99))
def test_grouped_by_length_every_item_comes_once(lengths: list[int], batch_size: int, seed: int) -> None:
    order = grouped_order(lengths, batch_size, seed, epoch=1)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert torch.equal(grouped_order(lengths, batch_size, seed, epoch=1), order)


def test_grouped_batches_hold_similar_lengths_in_shuffled_order() -> None:
    lengths = torch.randint(1, 1000, (800,), generator=torch.Generator().manual_seed(0))
    grouped = [lengths[b] for b in grouped_order(lengths.tolist(), 8, seed=0, epoch=0).split(8)]
    spread = sum(float(b.max() - b.min()) for b in grouped) / 100
    assert spread < 60  # a batch of 8 at random spreads over 780; sorted by 400, over 20
    longest = [int(b.max()) for b in grouped]
    assert longest != sorted(longest, reverse=True)
    other = grouped_order(lengths.tolist(), 8, seed=0, epoch=1)
    assert not torch.equal(other, grouped_order(lengths.tolist(), 8, seed=0, epoch=0))


@pytest.mark.parametrize("num_parts", [1, 4])
@pytest.mark.parametrize("first_step", [0, 1, 3, 4, 5, 11])
@pytest.mark.parametrize("wrap", [lambda data: data, Items])
def test_batches_from_a_step_on_continue_what_came_before(
    tiny_task: Callable[..., Task], num_parts: int, first_step: int, wrap: Callable[[Any], Any]
) -> None:
    task = tiny_task(num_items=70)  # 4 steps an epoch, 6 items left over
    task = Task(task.model, wrap(task.train_set), task.val_set)
    whole = first(training_data(task, num_parts=num_parts), 14)
    continued = first(training_data(task, num_parts=num_parts), 14 - first_step, first_step)
    assert all(torch.equal(a, b) for a, b in zip(whole[first_step:], continued, strict=True))
    assert all(len(batch) == 16 for batch in whole)


def test_micro_batches_split_a_batch(tiny_task: Callable[..., Task]) -> None:
    data = training_data(tiny_task(), num_parts=4)
    parts = next(data.batches())
    assert [len(part[0]) for part in parts] == [4, 4, 4, 4]
    assert data.shares == [0.25] * 4
    assert torch.equal(data.first_part()[0], parts[0][0])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_both_paths_give_the_same_batches(tiny_task: Callable[..., Task], dtype: torch.dtype | None) -> None:
    task = tiny_task()
    one_by_one = Task(task.model, Items(task.train_set), Items(task.val_set))
    gathered, loaded = (next(training_data(t, dtype=dtype).batches())[0] for t in (task, one_by_one))
    assert torch.equal(gathered[0], loaded[0])
    assert torch.equal(gathered[1], loaded[1])
    assert gathered[0].dtype == loaded[0].dtype == (dtype or torch.float32)
    assert loaded[1].dtype is torch.int64
    passes = [validation_batches(t, 24, CPU, dtype) for t in (task, one_by_one)]
    for a, b in zip(passes[0](), passes[1](), strict=True):
        assert torch.equal(a[0], b[0])
    assert [len(batch[0]) for batch in passes[0]()] == [24, 24, 16]
    assert [len(batch[0]) for batch in passes[0]()] == [24, 24, 16]  # as often as it is asked


@pytest.mark.parametrize("wrap", [lambda data: data, Items])
def test_drawing_batches_leaves_the_global_generator_alone(
    tiny_task: Callable[..., Task], wrap: Callable[[Any], Any]
) -> None:
    task = tiny_task()
    task = Task(task.model, wrap(task.train_set), wrap(task.val_set))
    before = torch.get_rng_state()
    data = training_data(task)
    first(data, 9)
    data.first_part()
    data.digest()
    list(validation_batches(task, 16, CPU, None)())
    assert torch.equal(torch.get_rng_state(), before)


def digest(task: Task, num_steps: int = 6, **options: Any) -> str:
    data = training_data(task, **options)
    first(data, num_steps)
    return data.digest()


def test_digests_agree_across_precisions_and_paths(tiny_task: Callable[..., Task]) -> None:
    task = tiny_task()
    one_by_one = Task(task.model, Items(task.train_set), task.val_set)
    assert digest(task) == digest(task, dtype=torch.bfloat16) == digest(one_by_one)


def test_digests_tell_another_seed_order_length_and_content(tiny_task: Callable[..., Task]) -> None:
    task = tiny_task()
    changed = TensorDataset(task.train_set.tensors[0] + 1e-6, task.train_set.tensors[1])
    found = [
        digest(task),
        digest(task, seed=1),
        digest(task, num_steps=3),
        digest(Task(task.model, changed, task.val_set)),
        digest(Task(task.model, task.train_set, task.val_set, lengths=list(range(64)))),
    ]
    assert len(set(found)) == len(found)


class Encoding(Mapping[str, torch.Tensor]):
    """A mapping that is no dict, as tokenizers return it."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.ids = ids

    def __getitem__(self, name: str) -> torch.Tensor:
        return {"input_ids": self.ids}[name]

    def __iter__(self) -> Any:
        return iter(["input_ids"])

    def __len__(self) -> int:
        return 1


def test_digests_see_inside_any_mapping(tiny_task: Callable[..., Task]) -> None:
    def collate(items: list[Any]) -> Encoding:
        return Encoding(torch.stack([item[0] for item in items]))

    task = tiny_task(collate=collate)
    changed = TensorDataset(-task.train_set.tensors[0], task.train_set.tensors[1])
    digests = [
        TrainingData(t, 16, 1, 0, CPU, None).digest() for t in (task, tiny_task(train_set=changed, collate=collate))
    ]
    assert digests[0] != digests[1]


class Augmented(Items):
    def __getitem__(self, index: int) -> Any:
        inputs, label = self.data[index]
        return inputs + torch.randn(()), label


def test_digests_of_randomly_augmented_items_do_not_depend_on_when_they_are_asked_for(
    tiny_task: Callable[..., Task],
) -> None:
    task = tiny_task()
    found = []
    for draws in (0, 5):
        torch.manual_seed(0)
        data = training_data(Task(task.model, Augmented(task.train_set), task.val_set))
        torch.rand(draws)  # as dropout of another precision might
        found.append(data.digest())
    assert found[0] == found[1]


@pytest.mark.parametrize("num_items", [1, 3, 15])
def test_a_data_set_smaller_than_a_batch_is_one_batch(tiny_task: Callable[..., Task], num_items: int) -> None:
    data = training_data(tiny_task(num_items=num_items), num_parts=4)
    assert (data.batch_size, data.steps_per_epoch) == (num_items, 1)
    for parts in islice(data.batches(), 3):
        assert sum(len(part[0]) for part in parts) == num_items
        assert [len(part[0]) / num_items for part in parts] == pytest.approx(data.shares)
    assert sum(data.shares) == pytest.approx(1)
