"""fastai's `fine_tune`: one cycle on the head, then one on all with lower backbone rates.

Best settings: channels last, BatchNorm frozen with the backbone (its default trains it, and so is
slower in phase 1).
"""

from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import (
    Callback,
    CrossEntropyLossFlat,
    DihedralItem,
    ImageDataLoaders,
    Learner,
    Normalize,
    Recorder,
    Resize,
    accuracy,
    params,
    set_seed,
)
from PIL.Image import Resampling
from torch import nn

from benchmarks.peers import pictures
from benchmarks.peers.contest import BATCH_SIZE, WORKERS, Contest, from_command_line, laps, write_predictions


def main(contest: Contest) -> None:
    """Both phases and the test."""
    rows = pictures.rows_of(contest, "train", "val")
    set_seed(contest.seed)
    loaders = ImageDataLoaders.from_df(
        rows.assign(is_valid=rows["split"] == "val"),
        path=f"{contest.workspace}/data",
        fn_col="path",
        label_col="label",
        valid_col="is_valid",
        item_tfms=[Resize(contest.size, "squish", resamples=(Resampling.BICUBIC, Resampling.NEAREST)), DihedralItem(1)],
        batch_tfms=Normalize.from_stats(*pictures.statistics(contest), cuda=False),
        bs=BATCH_SIZE,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    model = pictures.network(contest)
    lap = laps(contest)

    class Laps(Callback):
        order = Recorder.order + 1  # after the recorder has the accuracy

        def after_epoch(self) -> None:
            lap(self.recorder.values[-1][-1])

    learner = Learner(
        loaders,
        model,
        CrossEntropyLossFlat(),
        splitter=backbone_and_head,
        metrics=accuracy,
        cbs=[ChannelsLast(), Laps()],
        train_bn=False,
    )
    with learner.no_bar():
        learner.fine_tune(contest.epochs, contest.rate * 2e-3, freeze_epochs=contest.head_epochs)
        learner.remove_cb(Laps)
        test = pictures.rows_of(contest, "test")
        probabilities, _ = learner.get_preds(dl=loaders.test_dl(test))
    order = [loaders.vocab.o2i[label] for label in pictures.classes_of(contest)]
    write_predictions(contest, test["path"].tolist(), probabilities[:, order].tolist())


def backbone_and_head(model: nn.Module) -> list[list[nn.Parameter]]:
    """fastai's parameter groups."""
    return [params(model.backbone), params(model.head)]


if __name__ == "__main__":
    main(from_command_line())
