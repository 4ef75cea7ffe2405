"""Laws of every classifier of torchvision: its head, its blocks, and what freezing leaves alone.

Structure is checked on all of them, on the meta device, where a network of 600 million weights
costs a second and no memory; numbers on one small member of each family.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from families import ONE_OF_EACH_FAMILY, VIT, size_for
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torchvision.models import get_model, get_model_weights, regnet
from torchvision.ops import StochasticDepth

from thaw.errors import InputError
from thaw.learning import checkpoint
from thaw.learning.backbones import Block, Classifier, blocks, check_size, create, names, preprocessing_of
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import parameter_groups, unfreeze

EVERY_DAY = {
    "convnext_tiny",
    "densenet121",
    "efficientnet_lite0",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "swin_t",
    "vit_b_32",
}
WITHOUT_BATCHNORM = {"alexnet", "convnext_tiny", "squeezenet1_1", "swin_t", "swin_v2_t", "vit_b_32"}
RANDOM = (nn.modules.dropout._DropoutNd, StochasticDepth)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def cases(backbones: list[str]) -> list[Any]:
    """The backbones as parameters of a law; `make quick` takes those of every day."""
    return [name if name in EVERY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in backbones]


def on_meta(name: str) -> Classifier:
    """The network without memory for its weights."""
    widths = regnet.BlockParams.from_init_params

    def with_numbers(*args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):  # RegNet computes its widths with tensors
            return widths(*args, **kwargs)

    with mock.patch.object(regnet.BlockParams, "from_init_params", with_numbers), torch.device("meta"):
        return create(name, "random", 3, size_for(name))


class Walk(NamedTuple):
    """What was seen while a picture went through a network."""

    name: str
    model: Classifier
    blocks: list[Block]
    # a block's number, each time one of its modules ends or one of its parameters is used
    order: list[int]
    used: set[nn.Parameter]
    ends: dict[int, Any]  # where the output of each block is in the graph of gradients
    features: Tensor


class ParametersUsed(TorchFunctionMode):
    """Reports every parameter that is handed to a function of torch."""

    def __init__(self, report: Any) -> None:
        self.report = report

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, nn.Parameter):
                self.report(value)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=cases(names()))
def walk(request: pytest.FixtureRequest) -> Walk:
    """Each network, and the path of two pictures through its backbone in training mode."""
    model = on_meta(request.param).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # is quicker there
    result = blocks(model.backbone)
    of_parameter = {parameter: number for number, block in enumerate(result) for parameter in block.parameters}
    of_module = {part: n for n, block in enumerate(result) for module in block.modules for part in module.modules()}
    order: list[int] = []
    used: set[nn.Parameter] = set()
    ends: dict[int, Any] = {}

    def parameter_used(parameter: nn.Parameter) -> None:
        used.add(parameter)
        order.append(of_parameter[parameter])

    def module_ended(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in of_module:
            order.append(of_module[module])
            if isinstance(output, Tensor):
                ends[of_module[module]] = output.grad_fn

    hooks = [module.register_forward_hook(module_ended) for module in model.backbone.modules()]
    size = size_for(request.param)
    with ParametersUsed(parameter_used):
        features = model.backbone(torch.empty(2, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    return Walk(request.param, model, result, order, used, ends, features)


def parameters_behind(node: Any, stop: Any) -> Iterator[nn.Parameter]:
    """The parameters that `node` of the graph of gradients depends on other than through `stop`."""
    waiting, seen = [node], {None, stop}
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            if hasattr(node, "variable"):
                yield node.variable


def test_head_is_replaced_and_auxiliary_heads_are_gone(walk: Walk) -> None:
    assert walk.features.shape == (2, walk.model.head.in_features)
    assert walk.model.head(walk.features).shape == (2, 3)
    assert walk.used == set(walk.model.backbone.parameters())


def test_every_parameter_and_every_module_that_changes_or_draws_is_in_exactly_one_block(walk: Walk) -> None:
    held = [parameter for block in walk.blocks for parameter in block.parameters]
    assert len(held) == len(set(held))
    assert set(held) == set(walk.model.backbone.parameters())
    parts = [part for block in walk.blocks for module in block.modules for part in module.modules()]
    assert len(parts) == len(set(parts))
    assert set(parts) >= {part for part in walk.model.backbone.modules() if isinstance(part, (*NORMS, *RANDOM))}
    assert len(walk.blocks) >= 7
    assert len({block.name for block in walk.blocks}) == len(walk.blocks)


def test_blocks_run_one_after_the_other_from_input_to_output(walk: Walk) -> None:
    assert walk.order == sorted(walk.order)
    assert set(walk.order) == set(range(len(walk.blocks)))


def test_no_block_is_cut_in_two(walk: Walk) -> None:
    """Later blocks see earlier ones through the block's output alone: no shortcut bypasses it."""
    of_parameter = {parameter: number for number, block in enumerate(walk.blocks) for parameter in block.parameters}
    for number in range(len(walk.blocks) - 1):
        around = parameters_behind(walk.features.grad_fn, walk.ends[number])
        assert min(map(of_parameter.__getitem__, around)) > number, walk.blocks[number].name


def test_freezing_covers_whatever_a_frozen_block_holds_and_outlasts_every_train(walk: Walk) -> None:
    everywhere = [block.name for block in walk.blocks]
    middle = len(everywhere) // 2
    for selection, expected in (
        (middle, everywhere[-middle:]),
        (f"first {middle}", everywhere[:middle]),
        ([everywhere[-1], everywhere[1]], [everywhere[1], everywhere[-1]]),
        ("all", everywhere),
    ):
        assert unfreeze(walk.model, selection, "train") == expected
        for module in walk.model.modules():
            module.train()
        for block in walk.blocks:
            trainable = block.name in expected
            assert {parameter.requires_grad for parameter in block.parameters} == {trainable}
            assert {part.training for module in block.modules for part in module.modules()} == {trainable}
        assert walk.model.head.weight.requires_grad


def test_decay_is_for_weights_of_layers_alone_and_each_block_learns_slower_than_the_next(walk: Walk) -> None:
    unfreeze(walk.model, "all", "frozen")
    groups = parameter_groups(walk.model, rate=0.01, ratio=20, weight_decay=0.1, layer_decay=0.5)
    held = [parameter for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == set(walk.model.parameters())
    layers = [part for part in walk.model.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    weights = {layer.weight for layer in layers}
    weights |= {part.in_proj_weight for part in walk.model.modules() if isinstance(part, nn.MultiheadAttention)}
    # Swin v2 computes its tables from these
    tables = {parameter for name, parameter in walk.model.named_parameters() if "cpb_mlp" in name}
    assert {p for group in groups if group["weight_decay"] for p in group["params"]} == weights - tables
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    for before, block in enumerate(reversed(walk.blocks)):
        assert {rates[parameter] for parameter in block.parameters} == {0.01 / 20 * 0.5**before}
    assert rates[walk.model.head.weight] == rates[walk.model.head.bias] == 0.01


class Step(NamedTuple):
    """A training step of a middle block while all others have dropout, then a prediction."""

    # parameters and buffers outside the block, before and after
    frozen: list[tuple[Tensor, Tensor]]
    trained: list[tuple[Tensor, Tensor]]
    into: list[Tensor]  # what came to the block, in the step and in the prediction


@pytest.fixture(scope="module", params=cases(ONE_OF_EACH_FAMILY))
def step(request: pytest.FixtureRequest) -> Step:
    torch.manual_seed(0)
    model = create(request.param, "random", 3, size_for(request.param))
    result = blocks(model.backbone)
    middle = result[len(result) // 2]
    unfreeze(model, [middle.name], "train")
    for module in model.modules():
        module.train()
        if isinstance(module, RANDOM):
            module.p = 0.0 if module.training else 0.5
    others = [block for block in result if block is not middle]
    kept = [parameter for block in others for parameter in block.parameters]
    kept += [buffer for block in others for module in block.modules for buffer in module.buffers()]
    trained = [*middle.parameters, *model.head.parameters()]
    before = [value.detach().clone() for value in (*kept, *trained)]
    into: list[Tensor] = []
    middle.modules[0].register_forward_pre_hook(lambda module, inputs: into.append(inputs[0].detach().clone()))

    pictures = torch.randn(2, 3, size_for(request.param), size_for(request.param))
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 10, 0.05, 0.9))
    nn.functional.cross_entropy(model(pictures), torch.tensor([0, 2])).backward()
    optimizer.step()
    with torch.no_grad():
        model.eval()(pictures)
    pairs = list(zip(before, (*kept, *trained), strict=True))
    return Step(pairs[: len(kept)], pairs[len(kept) :], into)


def test_frozen_parameters_and_buffers_are_bit_identical_after_a_training_step(step: Step) -> None:
    assert all(torch.equal(before, after) for before, after in step.frozen)
    assert all(not torch.equal(before, after) for before, after in step.trained)


def test_frozen_blocks_compute_the_same_in_training_and_in_prediction(step: Step) -> None:
    assert torch.equal(*step.into)


@pytest.mark.parametrize("name", cases(sorted(set(ONE_OF_EACH_FAMILY) - WITHOUT_BATCHNORM)))
def test_folding_batchnorm_changes_no_output_and_no_block(name: str) -> None:
    model = create(name, "random", 3, size_for(name)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    pictures = torch.randn(2, 3, size_for(name), size_for(name))
    result = blocks(model.backbone)
    with torch.no_grad():
        before = model(pictures)
        folded = fold_batchnorm(model, pictures[:1])(pictures)
    torch.testing.assert_close(folded, before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))
    assert [block.name for block in blocks(model.backbone)] == [block.name for block in result]


@pytest.mark.parametrize(
    ("name", "weights", "taken", "refused"),
    [
        ("alexnet", "IMAGENET1K_V1", 63, 62),
        ("convnext_tiny", "IMAGENET1K_V1", 32, 31),
        ("densenet121", "IMAGENET1K_V1", 29, 28),
        ("googlenet", "IMAGENET1K_V1", 15, 14),
        ("inception_v3", "IMAGENET1K_V1", 75, 74),
        ("maxvit_t", "IMAGENET1K_V1", 224, 160),
        ("swin_t", "IMAGENET1K_V1", 4, 3),
        ("vgg11_bn", "IMAGENET1K_V1", 32, 31),
        ("vit_b_16", "IMAGENET1K_V1", 224, 160),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", 384, 224),
        ("vit_h_14", "DEFAULT", 518, 224),
        ("vit_b_16", "mine.pth", 160, 150),
        ("vit_b_16", "random", 32, 40),
    ],
)
def test_sizes_that_a_backbone_cannot_take_are_refused_with_one_that_it_can(
    name: str, weights: str, taken: int, refused: int
) -> None:
    check_size(name, weights, taken)
    expected = preprocessing_of(name, weights).size
    check_size(name, weights, expected)
    sentence = (
        f"^{name} cannot take pictures of {refused} x {refused} .*set prepare.resolution to {expected}, the size its"
    )
    with pytest.raises(InputError, match=sentence):
        check_size(name, weights, refused)


@pytest.mark.parametrize("name", [*cases(["densenet121", "googlenet", "inception_v3", "mnasnet0_5", "vit_b_16"]), VIT])
def test_a_checkpoint_rebuilds_what_pretrained_weights_made(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered weights bring their own auxiliary heads, input scaling and picture size."""
    weights = "IMAGENET1K_SWAG_E2E_V1" if name == "vit_b_16" else "IMAGENET1K_V1"
    pretend_weights(name, weights, monkeypatch)
    size = preprocessing_of(name, weights).size if name.startswith("vit_") else size_for(name)
    check_size(name, weights, size)
    model = create(name, weights, 2, size).eval()
    shape = {"size": size, "resize": size, "interpolation": "bilinear", "fit": "whole", "channels": 3}
    meta = {"backbone": name, "classes": ["no", "yes"], "shape": shape, "folded": False}
    checkpoint.save(tmp_path, model.state_dict(), meta)
    rebuilt, _ = checkpoint.load(tmp_path)
    pictures = torch.randn(1, 3, size, size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(pictures), model(pictures), rtol=1e-3, atol=1e-5)


def pretend_weights(name: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Random numbers in the place of what torchvision would download."""
    entry = get_model_weights(name)[weights]
    own = {"image_size": entry.meta["min_size"][0]} if name.startswith("vit_") else {}
    own |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    state: dict[str, Tensor] = get_model(name, weights=None, **own).state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(0.01, 0.1)
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: state)
    return state
