"""How much faster is mixed precision, at what accuracy? One configuration of any task, straight to the verdict.

python -m sweeps.amp_speedup trainables.tasks.digits:build --learning-rate 1e-3 --space width=32
"""

from sweeps import Confirm, Sweep, main_with_task

sweep = Sweep(
    name="amp-speedup",
    task="trainables.tasks.digits:build",
    space={},
    precisions=("fp32", "tf32", "bf16-mixed", "fp16-mixed"),
    num_trials=0,
    max_epochs=10,
    confirm=Confirm(num_seeds=6, target_speedup=1.5, margin=0.01),
)

if __name__ == "__main__":
    main_with_task(sweep)
