"""What a dry run says of prices and budgets."""

from pathlib import Path

import pytest

from sweeps import Sweep
from sweeps.engine import dry_costs
from sweeps.engine.dry_run import describe
from sweeps.engine.prices import PricedNode


def costs(here: PricedNode | None, monkeypatch: pytest.MonkeyPatch, **fields: object) -> list[str]:
    monkeypatch.setattr(dry_costs, "this_machine", lambda sweep: here)
    return dry_costs.costs(Sweep(**{"name": "s", "task": "t:b", "space": {}} | fields))


@pytest.mark.parametrize(
    ("here", "fields", "line"),
    [
        (PricedNode(8, 0), {"usd_per_hour": 0.4}, "8 at once: $0.4 an hour, $0.05 for each"),
        (PricedNode(8, 0), {"usd_per_hour": 0.4, "cpus_per_trial": 3}, "2 at once: $0.3 an hour, $0.15 for each"),
        (PricedNode(32, 4), {"usd_per_hour": 12, "gpus_per_trial": 0.3}, "12 at once: $10.80 an hour, $0.9 for"),
        (
            PricedNode(9, 0),
            {"usd_per_hour": 9, "cpus_per_trial": 4, "workers_per_trial": 2},
            "2 at once: $8.00 an hour, $4.00 for each",
        ),
        (PricedNode(2, 0), {"usd_per_hour": 0.4, "cpus_per_trial": 2}, "1 at once: $0.4 an hour"),
        (PricedNode(32, 4), {"usd_per_hour": {"gpu": 12, "cpu": 1}}, "4 at once: $12.00 an hour, $3.00 for each"),
        (
            PricedNode(32, 4),
            {"usd_per_hour": {"gpu": 12, "cpu": 1}, "gpus_per_trial": 0},
            "32 at once: $1.00 an hour, $0.03",
        ),
    ],
)
def test_what_trials_cost_that_fill_this_machine(
    monkeypatch: pytest.MonkeyPatch, here: PricedNode, fields: dict[str, object], line: str
) -> None:
    (_, said) = costs(here, monkeypatch, **fields)
    assert said.startswith(f"        on this machine {line}")


def test_a_machine_that_no_trial_fits_on_has_no_price(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(costs(PricedNode(2, 0), monkeypatch, usd_per_hour=1, cpus_per_trial=4)) == 1


def test_prices_and_budgets_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert costs(PricedNode(8, 0), monkeypatch) == []
    said = "price   an hour of a node: {}; each run pays for the share that it holds"
    table = {"H100": 12.3, "cpu": 0.4}
    assert costs(None, monkeypatch, usd_per_hour=table) == [said.format("H100 $12.30, cpu $0.4")]
    assert costs(PricedNode(8, 1), monkeypatch, usd_per_hour={"H100": 12.3}) == [said.format("H100 $12.30")]
    ends = costs(None, monkeypatch, usd_per_hour=2, budget_usd=5, budget_hours=1.5)[1]
    assert ends == "budget  the search ends after $5.00 or 1.5 hours, and what it found is confirmed"
    assert costs(None, monkeypatch, stage="search", budget_hours=2) == ["budget  the search ends after 2 hours"]


def test_a_plan_ends_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    sweep = Sweep("s", "trainables.tasks.digits:build", {"width": 4}, num_trials=3, budget_hours=1, storage=tmp_path)
    assert describe(sweep).endswith("\nbudget  the search ends after 1 hour, and what it found is confirmed")
    assert dry_costs.this_machine(sweep).cpus >= 1
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert dry_costs.this_machine(sweep) is None


@pytest.mark.parametrize(("visible", "num"), [(None, 4), ("", 0), ("2", 1), ("0,1", 2), ("0,1,2,3,4,5", 4)])
def test_gpus_that_are_hidden_from_ray_are_not_counted(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, num: int
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert dry_costs.visible_gpus(4) == num
