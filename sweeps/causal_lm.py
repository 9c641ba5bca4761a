"""Precisions and learning rates for training a language model on your text: pretrained, or a small GPT on bytes.

python -m sweeps.causal_lm
python -m sweeps.causal_lm --train-file corpus.txt
python -m sweeps.causal_lm --model FOLDER --train-file train.jsonl --val-file dev.jsonl --context 512 --lora-rank 8
"""

from sweeps import Confirm, Sweep, loguniform, main
from trainables.language.inputs import check_text_inputs
from trainables.language.settings import CAUSAL_LM

sweep = Sweep(
    name="causal-lm",
    task="trainables.tasks.causal_lm:build",
    space={
        "learning_rate": loguniform(3e-4, 3e-3),
        "batch_size": 4,
        "warmup_frac": 0.1,
        "lr_schedule": "cosine",
        "max_grad_norm": 1.0,
        "val_blocks": 256,
    },
    precisions=("fp32", "bf16-mixed"),
    metric="val_loss",
    mode="min",
    num_trials=8,
    max_steps=240,
    report_every_steps=60,
    confirm=Confirm(top_k=1, num_seeds=5, target_speedup=1.5, margin=0.05),
)

if __name__ == "__main__":
    main(sweep, settings=CAUSAL_LM, check=check_text_inputs)
