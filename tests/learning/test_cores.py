"""Laws of cores: who learns from a batch in parts learns the same as from the whole of it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from thaw.learning import cores
from thaw.learning.cores import MAX_PARTS, MIN_PICTURES

CLASSES, PICTURES = 3, 4 * MIN_PICTURES + 1


@pytest.fixture(autouse=True)
def several_cores() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    cores._team.cache_clear()
    yield 3
    torch.set_num_threads(before)


def network(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), *between, nn.ReLU(), nn.Linear(16, CLASSES)).train()


def batch(pictures: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(pictures, 3, 4, 4, generator=random), torch.rand(pictures, CLASSES, generator=random)


def learnt(
    model: nn.Module, in_parts: bool, counts: float = 1.0, of: int = PICTURES
) -> tuple[Tensor, list[Tensor | None], list[int]]:
    """Loss, gradients, and the number of pictures the network saw at a time."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    pictures, targets = batch(of)

    if in_parts:
        loss = cores.backward(model, nn.functional.cross_entropy, pictures, targets, counts)
    else:
        loss = counts * nn.functional.cross_entropy(model(pictures), targets)
        loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], seen


def test_parts_teach_what_the_whole_teaches(several_cores: int) -> None:
    whole, gradients, _ = learnt(network(), False, counts=0.7)
    loss, result, seen = learnt(network(), True, counts=0.7)
    assert len(seen) == several_cores
    assert sum(seen) == PICTURES
    assert min(seen) >= MIN_PICTURES
    torch.testing.assert_close(loss, whole)
    for one, other in zip(result, gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.get_num_threads() == several_cores


def test_what_is_frozen_or_takes_no_part_gets_no_gradient() -> None:
    model = network()
    model[-1].requires_grad_(False)
    model.spare = nn.Parameter(torch.zeros(2))
    gradients = dict(zip([name for name, _ in model.named_parameters()], learnt(model, True)[1], strict=True))
    assert {name for name, gradient in gradients.items() if gradient is None} == {"spare", "3.weight", "3.bias"}


def test_where_the_first_layer_is_frozen_a_batch_is_learnt_at_once() -> None:
    model = network()
    model[1].requires_grad_(False)
    assert learnt(model, True)[2] == [PICTURES]


@pytest.mark.parametrize("between", [nn.BatchNorm1d(16), nn.Dropout(0.5), StochasticDepth(0.5, "row")])
def test_pictures_that_see_each_other_or_chance_are_learnt_together(between: nn.Module) -> None:
    assert learnt(network(between), True)[2] == [PICTURES]
    assert len(learnt(network(between).eval(), True)[2]) > 1


def test_a_small_batch_is_learnt_at_once() -> None:
    assert learnt(network(), True, of=2 * MIN_PICTURES - 1)[2] == [2 * MIN_PICTURES - 1]


@pytest.mark.parametrize(("threads", "parts"), [(1, 1), (2, 2), (4, 4), (5, 1), (6, 3), (16, 4)])
def test_no_core_is_idle(threads: int, parts: int) -> None:
    torch.set_num_threads(threads)
    assert len(learnt(network(), True)[2]) == parts


def test_there_are_not_more_gradients_than_memory_can_be_expected_to_hold() -> None:
    torch.set_num_threads(2 * MAX_PARTS)
    assert len(learnt(network(), True, of=4 * MAX_PARTS * MIN_PICTURES)[2]) == MAX_PARTS


def test_each_part_has_its_share_of_the_cores(several_cores: int) -> None:
    model, threads = network(), []
    model.register_forward_pre_hook(lambda *_: threads.append(torch.get_num_threads()))
    learnt(model, True)
    assert threads == [1] * several_cores
    with ThreadPoolExecutor() as another:  # that begins after them
        assert another.submit(torch.get_num_threads).result() == several_cores


def test_a_failure_in_a_part_is_told() -> None:
    def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        cores.backward(network(), loss_fn, *batch(PICTURES))
