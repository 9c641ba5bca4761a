"""Precisions and learning rates for a small convolutional network on scikit-learn's digits; minutes on a laptop."""

from sweeps import Confirm, Sweep, choice, loguniform, main

sweep = Sweep(
    name="digits",
    task="trainables.tasks.digits:build",
    space={
        "learning_rate": loguniform(1e-4, 3e-2),
        "weight_decay": loguniform(1e-5, 1e-1),
        "width": choice([16, 32, 64]),
    },
    precisions=("fp32", "bf16-mixed", "fp16-mixed"),
    metric="val_accuracy",
    mode="max",
    num_trials=32,
    max_epochs=12,
    scheduler="asha",
    searcher="random",
    confirm=Confirm(top_k=1, num_seeds=6, target_speedup=1.5, margin=0.01),
)

if __name__ == "__main__":
    main(sweep)
