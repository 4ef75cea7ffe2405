"""evaluate: the head-only and the fine-tuned network on the same test pictures, which nothing saw before.

python -m tasks.evaluate      artifacts/{head,unfreeze} -> artifacts/evaluate/{metrics.json,predictions.csv,...}
"""

import numpy as np
import pandas as pd

from tasks import networks, phase
from tasks.settings import Settings
from tasks.workspace import EVALUATE, HEAD, UNFREEZE
from thaw import checkpoint, metrics, processes
from thaw.folding import fold_batchnorm
from thaw.manifest import labels_of
from thaw.pictures import VIEWS, Normaliser
from thaw.prediction import predict
from thaw.progress import Progress

NETWORKS = {"head": HEAD / "model", "finetuned": UNFREEZE / "model"}


def evaluate(chosen: Settings) -> None:
    """From two networks to what the second gained."""
    device = networks.use_resources(chosen)
    data = networks.dataset(chosen)
    test = data.split("test")
    processes.check("test", len(test))
    rows = data.rows.iloc[test].reset_index(drop=True)
    labels, views = labels_of(rows, data.classes), VIEWS[chosen.evaluate.views]
    normalise = Normaliser(networks.preprocessing(data), device)
    slices = data.meta["slices"]
    progress = Progress(len(NETWORKS) * len(test) * views)
    predictions = rows[["path", "label", "group", *slices]].copy()
    probabilities, columns, by_class, by_slice = {}, [], [], []
    for name, folder in NETWORKS.items():
        model, meta = checkpoint.load(folder)
        if not meta["folded"]:
            fold_batchnorm(model, data.pictures.shape.blank())
        model.to(device)
        logits = predict(model, data.pictures, test, normalise, views, chosen.evaluate.batch_size, progress, name)
        if not processes.first():
            continue
        probabilities[name] = found = logits.double().softmax(1).numpy()
        predictions[f"{name}_prediction"] = np.array(data.classes)[found.argmax(1)]
        columns.append(pd.DataFrame(found, columns=[f"{name}_p_{label}" for label in data.classes]))
        by_class.append(metrics.per_class(found, labels, data.classes).assign(model=name))
        by_slice.append(metrics.per_slice(found, labels, rows[slices]).assign(model=name))
    if not processes.first():
        return
    grouped = (rows["group"] != "").any()
    groups = rows["group"].where(rows["group"] != "", rows["hash"]).tolist() if grouped else None
    found_metrics = {
        "test_pictures": len(test),
        **{name: metrics.headline(found, labels) for name, found in probabilities.items()},
        "gain": metrics.gain(probabilities["head"], probabilities["finetuned"], labels, groups, chosen.seed),
    }
    with phase.outputs(EVALUATE) as folder:
        pd.concat([predictions, *columns], axis=1).to_csv(folder / "predictions.csv", index=False, lineterminator="\n")
        for file, tables in (("classes.csv", by_class), ("slices.csv", by_slice)):
            table = pd.concat(tables, ignore_index=True)
            first = table.pop("model")
            table.insert(0, "model", first)
            table.to_csv(folder / file, index=False, lineterminator="\n")
        phase.write_json(folder / "metrics.json", found_metrics)
    gain = found_metrics["gain"]
    print(
        f"accuracy {found_metrics['head']['accuracy']:.1%} -> {found_metrics['finetuned']['accuracy']:.1%}, "
        f"gain {gain['accuracy']:+.1%} (95 % interval {gain['low']:+.1%} to {gain['high']:+.1%})"
    )


if __name__ == "__main__":
    phase.start(evaluate, shared=True)
