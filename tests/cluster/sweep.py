"""A sweep of short trials for a cluster whose GPUs are made up: they train on CPUs, and mostly wait."""

from sweeps import Sweep, loguniform, main

sweep = Sweep(
    name="waiting",
    task="tests/cluster/waiting.py:build",
    space={"learning_rate": loguniform(1e-3, 1e-1), "batch_size": 16},
    precisions=("fp32",),
    num_trials=24,
    max_epochs=20,
    scheduler="fifo",
    stage="search",
    gpus_per_trial=0,
    checkpoint_every_s=1,
)

if __name__ == "__main__":
    main(sweep)
