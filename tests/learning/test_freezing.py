"""Laws of freezing: no bit of what is frozen changes; the optimizer holds only what trains."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import VIT
from hypothesis import given, settings
from hypothesis import strategies as st
from tuning import fine_tuning, fit, tune

from thaw.data.pictures import Normaliser, Pictures, drawn_views
from thaw.errors import InputError
from thaw.learning.backbones import Block, Classifier, blocks, create
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import parameter_groups, scale_dropout, select, unfreeze
from thaw.learning.prediction import features_of, predict
from thaw.learning.training import HeadTraining

CONFIG = fine_tuning(learning_rate=0.01, epochs=2, views=8)
TRAIN, VAL = np.arange(16), np.arange(16, 24)
Make = Callable[..., Classifier]


def frozen_state(model: Classifier, trained: list[str]) -> dict[str, torch.Tensor]:
    """Parameters and buffers of every block that is not trained."""
    return {
        f"{block.name}.{number}.{name}": value.clone()
        for block in blocks(model.backbone)
        if block.name not in trained
        for number, module in enumerate(block.modules)
        for name, value in module.state_dict().items()
    }


@pytest.mark.parametrize("batchnorm", ["frozen", "train"])
@pytest.mark.parametrize("folded", [False, True])
def test_frozen_blocks_are_bit_identical_after_unfreezing_whatever_calls_train(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser, batchnorm: str, folded: bool
) -> None:
    model = network()
    if folded:
        fold_batchnorm(model, pictures.shape.blank())
    trained = unfreeze(model, 3, batchnorm)
    before = frozen_state(model, trained)
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    model.backbone.layer1[0].train()
    model.backbone.train()
    model.train()
    assert not any(m.training for b in blocks(model.backbone)[:-3] for part in b.modules for m in part.modules())
    tune(model, pictures, (TRAIN, targets[TRAIN]), (VAL, targets[VAL]), normalise, CONFIG)
    after = frozen_state(model, trained)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(
        whole["backbone.layer4.1.conv2.weight"], model.state_dict()["backbone.layer4.1.conv2.weight"]
    )


def test_frozen_batchnorm_keeps_its_statistics_in_trained_blocks(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> None:
    model = network()
    unfreeze(model, "all", "frozen")
    before = {name: value.clone() for name, value in model.named_buffers()}
    tune(model, pictures, (TRAIN, targets[TRAIN]), (VAL, targets[VAL]), normalise, CONFIG)
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())


def test_backbone_is_bit_identical_after_head_training(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    features = np.empty((24, 2, model.head.in_features), np.float32)
    features_of(model, pictures, np.arange(24), normalise, drawn_views(24, 2, None), 8, features)
    config = HeadTraining(0, 0.01, 0.0, batch_size=8, max_epochs=5, patience=5)
    best = fit(model.head, (features[TRAIN], targets[TRAIN]), (features[VAL], targets[VAL]), config).weights
    model.head.load_state_dict(best)
    assert all(torch.equal(before[name], value) for name, value in model.backbone.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", VIT, "densenet121"])
def test_cached_feature_logits_equal_live_logits(
    network: Make, pictures: Pictures, normalise: Normaliser, name: str
) -> None:
    if name == "vit_b_32":
        pytest.importorskip("torchvision")
        model = create(name, "random", 2).eval()
        wide = Pictures(pictures.files, pictures.shape.__class__(224, 224, "bilinear", "whole", 1), None, 2)
        pictures = wide
    else:
        model = network(name)
    rows = np.arange(4)
    live = predict(model, pictures, rows, normalise, views=2, batch_size=3)
    fold_batchnorm(model, pictures.shape.blank())
    features = np.empty((len(rows), 2, model.head.in_features), np.float32)
    features_of(model, pictures, rows, normalise, drawn_views(len(rows), 2, None), 2, features)
    with torch.no_grad():
        cached = model.head(torch.from_numpy(features)).mean(1)
    torch.testing.assert_close(cached, live, rtol=1e-3, atol=1e-4 * float(live.abs().max()))


@given(
    selection=st.one_of(
        st.just("all"),
        st.integers(1, 9),
        st.integers(1, 9).map(lambda number: f"first {number}"),
        st.sets(st.sampled_from(range(9)), min_size=1),
    )
)
@settings(max_examples=15, deadline=None)
def test_each_trainable_parameter_is_in_exactly_one_group_and_no_frozen_one_in_any(selection: object) -> None:
    model = create("resnet18", "random", 2)
    names = [block.name for block in blocks(model.backbone)]
    trained = unfreeze(model, [names[n] for n in selection] if isinstance(selection, set) else selection, "frozen")  # type: ignore[arg-type]
    groups = parameter_groups(model, rate=0.01, ratio=20, weight_decay=0.1, layer_decay=1.0)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    expected = {id(p) for b in blocks(model.backbone) if b.name in trained for p in b.parameters}
    assert set(held) == expected | {id(parameter) for parameter in model.head.parameters()}


def test_backbone_learns_slower_than_the_head_by_the_ratio_and_norms_do_not_decay(network: Make) -> None:
    model = network()
    unfreeze(model, "all", "frozen")
    groups = parameter_groups(model, rate=0.01, ratio=20, weight_decay=0.1, layer_decay=1.0)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["head"] == pytest.approx(20 * rates["backbone"])
    for group in groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}


@pytest.mark.parametrize("head_ratio", [1, 5])
def test_ratios_hold_through_the_whole_schedule(
    network: Make,
    pictures: Pictures,
    targets: torch.Tensor,
    normalise: Normaliser,
    monkeypatch: pytest.MonkeyPatch,
    head_ratio: float,
) -> None:
    seen: list[tuple[float, float]] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: object) -> object:
        rates = {group["name"]: group["lr"] for group in self.param_groups}
        seen.append((rates["head"], rates["backbone"]))
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    model = network()
    unfreeze(model, 2, "frozen")
    config = replace(CONFIG, head_ratio=head_ratio)
    tune(model, pictures, (TRAIN, targets[TRAIN]), (VAL, targets[VAL]), normalise, config)
    assert len(seen) == 4
    for head, backbone in seen:
        assert head == pytest.approx(config.ratio / head_ratio * backbone)
        assert 0 < backbone <= config.learning_rate / config.ratio


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        (10, "unfreeze.blocks is 10, but the backbone has 9 blocks: use all, 1 to 9 for the last ones, or first 1 to"),
        (0, "use all, 1 to 9 for the last ones"),
        ("first 10", "unfreeze.blocks is first 10, but the backbone has 9 blocks: .* or first 1 to first 9"),
        ("first 0", "first 1 to first 9"),
        ([], r"unfreeze.blocks is \[\]; allowed are all, gradual"),
        (["layer4.0", "layer4.2"], "'layer4.2', which is no block of this backbone; nearest is 'layer4.1'"),
        ("last", "allowed are all, gradual, a number of last blocks, first N, or a list of names"),
    ],
)
def test_blocks_that_do_not_exist_are_refused(network: Make, selection: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        select(blocks(network().backbone), selection)  # type: ignore[arg-type]


def test_first_blocks_are_those_at_the_input_and_last_ones_those_at_the_head(network: Make) -> None:
    result = blocks(network().backbone)
    assert select(result, "first 2") == result[:2]
    assert select(result, 2) == result[-2:]
    assert select(result, "first 9") == select(result, 9) == select(result, "all") == result


@given(count=st.integers(1, 90), epochs=st.integers(1, 30))
def test_gradual_unfreezes_from_the_head_evenly_and_all_in_the_last_epoch(count: int, epochs: int) -> None:
    results = [Block(f"block {number}", (), ()) for number in range(count)]
    selected = [select(results, "gradual", epoch, epochs) for epoch in range(1, epochs + 1)]
    assert all(layer_blocks == results[-len(layer_blocks) :] for layer_blocks in selected)
    counts = [0, *map(len, selected)]
    assert counts[1] >= 1
    assert counts[-1] == count
    more = np.diff(counts)
    assert more.max() - more.min() <= 1


def test_unfreezing_other_blocks_forgets_what_was_frozen_before(network: Make) -> None:
    model, fresh = network(), network()
    for selection in (3, "all", ["layer1.0"], "first 2"):
        unfreeze(model, selection, "train")
    unfreeze(fresh, "first 2", "train")
    for one, other in zip(model.train().modules(), fresh.train().modules(), strict=True):
        assert one.training == other.training
    for one, other in zip(model.parameters(), fresh.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad


def test_positional_parameters_and_norms_are_frozen_with_their_blocks(network: Make) -> None:
    model = network("vit_b_32")
    unfreeze(model, 2, "frozen")
    trained = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert "encoder.ln.weight" in trained
    assert not trained & {"class_token", "encoder.pos_embedding"}
    assert {name.split(".")[2] for name in trained if "layers" in name} == {"encoder_layer_10", "encoder_layer_11"}
    unfreeze(model, "first 1", "frozen")
    trained = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert trained == {"class_token", "encoder.pos_embedding", "conv_proj.weight", "conv_proj.bias"}


def test_dropout_can_be_scaled_down_to_nothing(network: Make) -> None:
    model = network("efficientnet_lite0")
    scale_dropout(model, 0)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(pictures), model(pictures))
