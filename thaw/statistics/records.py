"""What the metrics say that evaluate left; light, for those who only read them."""

from collections.abc import Mapping
from typing import Any

# What a new model may be judged by.
FIGURES = {"accuracy": "accuracy", "auc": "AUC", "macro_f1": "macro F1", "recall": "recall at the operating point"}


def same_networks(metrics: Mapping[str, Any]) -> bool:
    """Whether nothing of phase 2 was kept, so that there is no gain to measure; metrics of old records do not say."""
    return bool(metrics.get("phase_2", {}).get("same", False))
