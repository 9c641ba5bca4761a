"""Precisions and learning rates for fine-tuning a pretrained model to classify your texts.

python -m sweeps.text_classification --model FOLDER --train-file train.tsv --val-file dev.tsv
"""

from sweeps import Confirm, Sweep, loguniform, main
from trainables.language.inputs import check_labelled_inputs
from trainables.language.settings import TEXT_CLASSIFICATION

sweep = Sweep(
    name="text-classification",
    task="trainables.tasks.text_classification:build",
    space={
        "learning_rate": loguniform(3e-5, 3e-4),
        "batch_size": 32,
        "weight_decay": 0.01,
        "warmup_frac": 0.1,
        "lr_schedule": "linear",
        "max_length": 128,
    },
    precisions=("fp32", "bf16-mixed"),
    metric="val_accuracy",
    mode="max",
    num_trials=12,
    max_epochs=3,
    confirm=Confirm(top_k=1, num_seeds=5, target_speedup=1.5, margin=0.02),
    cpus_per_trial=2,
)

if __name__ == "__main__":
    main(sweep, settings=TEXT_CLASSIFICATION, check=check_labelled_inputs)
