"""Laws of attribution: the map equals a reference, explains the answer, and finds the object."""

import math
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn

from thaw.data.pictures import Normaliser, Preprocessing, turned_back, view
from thaw.learning.attribution import evidence, log_odds
from thaw.learning.backbones import Classifier, create
from thaw.learning.convolutions import quicken
from thaw.learning.folding import fold_batchnorm

# The last features with places, written down for one member of each family.
LAYERS = {
    "alexnet": "avgpool",
    "convnext_tiny": "features",
    "densenet121": "features",
    "efficientnet_lite0": "features",
    "efficientnet_v2_s": "features",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "maxvit_t": "blocks.3",
    "mnasnet0_5": "layers",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "features",
    "regnet_y_400mf": "trunk_output",
    "resnet18": "layer4",
    "shufflenet_v2_x0_5": "conv5",
    "squeezenet1_1": "classifier.2",
    "swin_t": "permute",
    "swin_v2_t": "permute",
    "vgg11_bn": "avgpool",
    "vit_b_32": "encoder.layers.encoder_layer_11.ln_1",
}
EVERY_DAY = {"densenet121", "efficientnet_lite0", "resnet18", "swin_t", "vit_b_32"}
SIDES = {"inception_v3": 139, "maxvit_t": 224}  # others take 64 pixels


def pixels(number: int = 2, size: int = 64) -> Tensor:
    return torch.randint(256, (number, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize(
    "name", [name if name in EVERY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in LAYERS]
)
def test_the_map_is_that_of_captum_on_the_last_features_with_places(name: str, normalise: Normaliser) -> None:
    size = SIDES.get(name, 64)
    model = create(name, "random", 3, size).eval()
    batch, targets = pixels(size=size), torch.tensor([2, 0])
    maps, logits = evidence(model, batch, normalise, 1, targets)
    layer = model.backbone.get_submodule(LAYERS[name])
    theirs = LayerGradientXActivation(lambda inputs: log_odds(model(inputs), targets), layer).attribute(
        normalise(batch)
    )
    places = theirs.sum(1) if theirs.ndim == 4 else theirs[:, 1:].sum(2).unflatten(1, maps.shape[1:])
    assert len(maps[0]) > 1
    assert maps.abs().amax() > 0
    torch.testing.assert_close(maps, places.detach(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(logits, model(normalise(batch)).detach())


def test_the_map_adds_up_to_the_log_odds_without_their_bias(
    network: Callable[..., Classifier], normalise: Normaliser
) -> None:
    model = network()
    torch.nn.init.normal_(model.head.bias)
    maps, logits = evidence(model, pixels(4), normalise, 8, torch.tensor([0, 1, 1, 0]))
    signs = torch.tensor([1, -1, -1, 1])
    expected = signs * ((logits - model.head.bias.detach()) @ torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(maps.sum((1, 2)), expected, rtol=1e-3, atol=1e-4)


def test_the_class_is_the_one_that_the_network_names_unless_another_is_asked_for(
    network: Callable[..., Classifier], normalise: Normaliser
) -> None:
    model, batch = network(classes=3), pixels(3)
    maps, logits = evidence(model, batch, normalise, 2)
    assert torch.equal(maps, evidence(model, batch, normalise, 2, logits.argmax(1))[0])
    other = evidence(model, batch, normalise, 2, (logits.argmax(1) + 1) % 3)[0]
    assert (other - maps).abs().amax() > 0.01 * maps.abs().amax()


@pytest.mark.parametrize("number", range(8))
def test_what_a_view_did_is_turned_back(number: int) -> None:
    pictures = torch.randn(2, 1, 5, 5)
    assert torch.equal(turned_back(view(pictures, number), number), pictures)


def test_the_map_turns_with_the_picture(network: Callable[..., Classifier], normalise: Normaliser) -> None:
    model, batch = network(), pixels()
    maps, logits = evidence(model, batch, normalise, 8, torch.tensor([0, 1]))
    for number in range(8):
        turned, same = evidence(model, view(batch, number), normalise, 8, torch.tensor([0, 1]))
        torch.testing.assert_close(same, logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(turned, view(maps[:, None], number)[:, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v2"])
def test_the_quick_way_gives_the_same_map(name: str, network: Callable[..., Classifier], normalise: Normaliser) -> None:
    model, batch = network(name), pixels()
    maps, _ = evidence(model, batch, normalise, 1)
    fold_batchnorm(model, torch.zeros(1, 3, 64, 64))
    quick = deepcopy(model)
    quicken(quick)
    for changed in (model, quick):
        torch.testing.assert_close(evidence(changed, batch, normalise, 1)[0], maps, rtol=1e-3, atol=1e-4)


def test_the_network_is_left_as_it_was(network: Callable[..., Classifier], normalise: Normaliser) -> None:
    model, batch = network(), pixels()
    model.head.bias.requires_grad_(False)
    before = model(normalise(batch))
    evidence(model, batch, normalise, 2)
    assert torch.equal(model(normalise(batch)), before)
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {"head.bias"}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def with_defects(number: int, size: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, with a bright square of 6 pixels in class 1; and the middle of each square."""
    batch = torch.randint(120, (number, 1, size, size), dtype=torch.uint8)
    targets, corners = torch.arange(number) % 2, torch.randint(size - 6, (number, 2))
    for picture, (top, left) in zip(batch[1::2], corners[1::2].tolist(), strict=True):
        picture[:, top : top + 6, left : left + 6] += 120
    return batch, targets, corners + 3


@pytest.fixture(scope="module")
def trained() -> Classifier:
    """A small network that has learnt to find the squares."""
    normalise = Normaliser(Preprocessing(32, 32, "bilinear", (0.5,) * 3, (0.25,) * 3), torch.device("cpu"))
    torch.manual_seed(0)
    widths = [3, 16, 32, 32]
    layers: list[nn.Module] = []
    for wide, wider in pairwise(widths):
        layers += [nn.Conv2d(wide, wider, 3, 1 + (wide < 32), 1), nn.BatchNorm2d(wider), nn.ReLU(inplace=True)]
    model = Classifier(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(32, 2)).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        batch, targets, _ = with_defects(32)
        loss = nn.functional.cross_entropy(model(normalise(batch)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_a_drawn_defect_is_where_the_map_is_largest(trained: Classifier, normalise: Normaliser) -> None:
    batch, targets, middles = with_defects(64)
    maps, logits = evidence(trained, batch, normalise, 8)
    assert (logits.argmax(1) == targets).float().mean() > 0.9
    maps, middles = maps[1::2], middles[1::2]
    largest = torch.stack(torch.unravel_index(maps.flatten(1).argmax(1), maps.shape[1:]), 1)
    distance = ((largest + 0.5) * 32 / maps.shape[1] - middles).norm(dim=1)
    assert (distance < 6).float().mean() > 0.9


def test_randomised_weights_change_the_map(trained: Classifier, normalise: Normaliser) -> None:
    batch, targets, _ = with_defects(64)
    maps = [evidence(trained, batch, normalise, 8, targets)[0]]
    for layers in (1, 3):
        drawn = deepcopy(trained)
        for module in [module for module in drawn.backbone if isinstance(module, nn.Conv2d)][-layers:]:
            module.reset_parameters()
        maps.append(evidence(drawn, batch, normalise, 8, targets)[0])
    own, last, every = (torch.corrcoef(torch.stack([maps[0].flatten(), of_map.flatten()]))[0, 1] for of_map in maps)
    assert own == pytest.approx(1)
    assert last < 0.7
    assert every < 0.7


def test_what_all_classes_share_is_evidence_for_none(network: Callable[..., Classifier], normalise: Normaliser) -> None:
    model, batch = network(classes=3), pixels()
    before = evidence(model, batch, normalise, 1, torch.tensor([0, 1]))[0]
    with torch.no_grad():
        model.head.weight += torch.randn(model.head.in_features) * math.sqrt(0.01)
    after = evidence(model, batch, normalise, 1, torch.tensor([0, 1]))[0]
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
