"""Laws of the stand-in for mmcv's compiled operators, stated on mmcv's public functions."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import mmcv_oracles as oracles
import pytest
import torch
from mmcv_map_oracles import MAP_CASES
from mmcv_oracles import CASES, Case, normal
from torch import Tensor

from hybrid_backbones import mmcv_ops

mmcv_ops.install()

import mmcv.ops  # noqa: E402

pytestmark = [
    pytest.mark.upstream,
    pytest.mark.skipif(not mmcv_ops.is_standin(), reason="mmcv has its own operators"),
]
needs_cuda = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")]
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
ALL_CASES = CASES | MAP_CASES
on_each_case = pytest.mark.parametrize("case", ALL_CASES.values(), ids=ALL_CASES.keys())


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Thousands of calls on tiny tensors: threads would wait for each other most of the time."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def run(case: Case, inputs: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the output and the gradients of all inputs for a fixed gradient of the output."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = case.operator(*leaves)
    grad = normal(*output.shape, seed=1).to(torch.bfloat16).to(output)
    return output.detach(), torch.autograd.grad(output, leaves, grad)


@on_each_device
@on_each_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_operator_equals_its_definition(case, dtype, device):
    expected = torch.tensor(
        case.definition(*(tensor.numpy() for tensor in case.inputs)), dtype=torch.float64
    )
    output = case.operator(*(tensor.to(device, dtype) for tensor in case.inputs))
    assert output.dtype == dtype
    # sums of some dozens of terms of order 1
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.cpu().double(), expected, rtol=tolerance, atol=tolerance)


@on_each_device
@on_each_case
def test_gradients_equal_finite_differences(case, device):
    inputs = [tensor.to(device).requires_grad_() for tensor in case.inputs]
    # on a GPU the sums of a gradient come in any order
    assert torch.autograd.gradcheck(case.operator, inputs, nondet_tol=1e-12)


@on_each_device
@on_each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_under_autocast_lose_only_roundings(case, dtype, device):
    rounded = [tensor.to(device, dtype) for tensor in case.inputs]
    expected, expected_grads = run(case, [tensor.double() for tensor in rounded])
    with torch.autocast(device, dtype):
        output, grads = run(case, rounded)
    tolerance = case.num_roundings * torch.finfo(dtype).eps
    # on a GPU, autocast sums in float32, and so does the loss of the compiled operator
    summed = device == "cuda" and output.dim() == 0
    assert output.dtype == (torch.float32 if summed else dtype)
    assert all(grad.dtype == dtype for grad in grads)
    for got, want in zip((output, *grads), (expected, *expected_grads), strict=True):
        atol = tolerance * want.abs().mean().item()
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=atol)


@on_each_device
@pytest.mark.parametrize("layer", ["DeformConv2dPack", "ModulatedDeformConv2dPack"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_deformable_layers_train_under_autocast(layer, dtype, device):
    layer = getattr(mmcv.ops, layer)(4, 6, kernel_size=3, padding=1)
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = 0.2 * normal(*parameter.shape, seed=i).float()
    layer, maps = layer.to(device), normal(2, 4, 5, 5).to(device, torch.float32)
    with torch.autocast(device, dtype):
        output = layer(maps)
    assert output.dtype == dtype
    # offsets of order 1 are rounded, and the value at a point moves by as much
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.float(), layer(maps), rtol=tolerance, atol=tolerance)
    output.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


@on_each_device
@pytest.mark.parametrize("name", ["sigmoid_focal_loss", "softmax_focal_loss"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_losses_are_exact_and_smooth_at_logits_of_a_hundred(name, gamma, device):
    extreme = torch.tensor([[100.0, -100.0], [-100.0, 100.0], [100.0, 100.0], [20.0, 0.0]])
    target = torch.tensor([0, 0, 1, 1])
    leaves = [
        extreme.to(device, dtype, copy=True).requires_grad_()
        for dtype in (torch.float32, torch.float64)
    ]
    losses = [
        getattr(mmcv.ops, name)(x, target.to(device), gamma, 0.25, None, "sum") for x in leaves
    ]
    grads = [torch.autograd.grad(loss, x)[0] for loss, x in zip(losses, leaves, strict=True)]
    assert all(grad.isfinite().all() for grad in grads)
    torch.testing.assert_close(grads[0].double(), grads[1], rtol=1e-5, atol=1e-6)
    if name == "sigmoid_focal_loss":
        expected = oracles.sigmoid_focal_loss(extreme.numpy(), target.numpy(), gamma, 0.25, [])
        torch.testing.assert_close(losses[0].item(), expected, rtol=1e-6, atol=0)


def random_boxes(num: int) -> tuple[Tensor, Tensor]:
    """Return boxes with integer corners and different scores, all exact in bfloat16."""
    corners = (20 * normal(num, 4).abs()).clamp(max=100).round()
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1)
    return boxes, (torch.randperm(num, generator=torch.Generator().manual_seed(0)) + 1) / 64


@on_each_device
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("iou_threshold", [0.2, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_nms_keeps_what_no_better_box_overlaps(offset, iou_threshold, dtype, device):
    boxes, scores = (tensor.to(device, dtype) for tensor in random_boxes(40))
    dets, inds = mmcv.ops.nms(boxes, scores, iou_threshold, offset)
    assert inds.tolist() == oracles.nms(boxes.tolist(), scores.tolist(), iou_threshold, offset)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], dim=1)[inds])


@on_each_device
@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_a_box_that_overlaps_by_exactly_the_threshold(offset, device):
    # 60 / 100 rounded to float32 is more than 0.6 in float64
    boxes = torch.tensor([[0, 0, 10 - offset, 10 - offset], [0, 0, 10 - offset, 6 - offset]])
    boxes, scores = boxes.to(device, torch.float32), torch.tensor([0.9, 0.8], device=device)
    assert len(mmcv.ops.nms(boxes, scores, 0.6, offset)[1]) == 2
    assert len(mmcv.ops.nms(boxes, scores, 0.59, offset)[1]) == 1


@on_each_device
def test_batched_nms_is_nms_of_each_class(device):
    boxes, scores = (tensor.to(device, torch.float32) for tensor in random_boxes(40))
    classes = torch.arange(40, device=device) % 3
    _, inds = mmcv.ops.batched_nms(boxes, scores, classes, dict(type="nms", iou_threshold=0.3))
    kept = []
    for label in range(3):
        (members,) = torch.where(classes == label)
        chosen = oracles.nms(boxes[members].tolist(), scores[members].tolist(), 0.3, 0)
        kept += members[chosen].tolist()
    assert inds.tolist() == sorted(kept, key=lambda i: -scores[i])


@on_each_device
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_soft_nms_takes_the_best_and_decays_the_rest(method, offset, dtype, device):
    boxes, scores = (tensor.to(device, dtype) for tensor in random_boxes(40))
    settings = dict(iou_threshold=0.3, sigma=0.4, min_score=0.06, method=method, offset=offset)
    dets, inds = mmcv.ops.soft_nms(boxes, scores, **settings)
    expected_inds, expected_scores = oracles.soft_nms(boxes.tolist(), scores.tolist(), **settings)
    assert 10 < len(inds) < 40
    assert inds.tolist() == expected_inds
    assert torch.equal(dets[:, :4], boxes[inds])
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(dets[:, 4].tolist(), expected_scores, rtol=tolerance, atol=0)


# made with the operator of mmcv 2.3.6, compiled for the CPU
TIED = {
    "naive": [2, 5, 8, 4, 1, 10, 16, 13, 0, 9, 3, 6],
    "linear": [2, 5, 8, 14, 11, 1, 10, 4, 16, 13, 17, 7, 6, 9, 0, 3],
}


@pytest.mark.parametrize("method", TIED)
def test_soft_nms_decides_among_equal_scores_as_the_compiled_operator(method):
    boxes, scores = random_boxes(40)[0][:18].float(), (torch.arange(18) % 3 + 1) / 4
    settings = dict(iou_threshold=0.1, min_score=0.2, method=method)
    assert mmcv.ops.soft_nms(boxes, scores, **settings)[1].tolist() == TIED[method]


def test_soft_nms_gives_empty_boxes_no_overlap():
    boxes = torch.tensor([[3.0, 1.0, 3.0, 1.0]]).repeat(3, 1).requires_grad_()
    for method in ("naive", "linear", "gaussian"):
        dets, inds = mmcv.ops.soft_nms(boxes, torch.tensor([0.5, 0.9, 0.7]), method=method)
        assert inds.tolist() == [1, 2, 0]
        torch.testing.assert_close(dets[:, 4].detach(), torch.tensor([0.9, 0.7, 0.5]))


@on_each_device
def test_operators_take_nothing_and_give_nothing(device):
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    labels = scores.long()
    for function in (mmcv.ops.nms, mmcv.ops.soft_nms):
        dets, inds = function(boxes, scores, iou_threshold=0.5)
        assert dets.shape == (0, 5)
        assert inds.shape == (0,)
    maps = torch.ones(2, 3, 4, 4, device=device, requires_grad=True)
    pooled = mmcv.ops.RoIAlign(2)(maps, torch.zeros(0, 5, device=device))
    pooled.sum().backward()
    assert pooled.shape == (0, 3, 2, 2)
    assert not maps.grad.any()
    for loss in (mmcv.ops.sigmoid_focal_loss, mmcv.ops.softmax_focal_loss):
        logits = torch.zeros(0, 3, device=device, requires_grad=True)
        loss(logits, labels, 2.0, 0.25, None, "sum").backward()
        assert logits.grad.shape == (0, 3)


def test_max_pooling_is_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"roi_align.*max"):
        mmcv.ops.RoIAlign(2, pool_mode="max")(torch.ones(1, 1, 4, 4), torch.zeros(1, 5))


def test_an_operator_without_stand_in_is_refused_by_name_when_called():
    with pytest.raises(NotImplementedError, match=r"'roi_pool_forward'(.|\n)*pip install"):
        mmcv.ops.roi_pool(torch.ones(1, 4, 3, 3), torch.zeros(1, 5), 2)


def test_the_stand_in_passes_for_a_module():
    extension = sys.modules["mmcv._ext"]
    assert mmcv_ops.install()
    assert sys.modules["mmcv._ext"] is extension
    assert mmcv_ops.is_standin()
    assert importlib.util.find_spec("mmcv._ext") is extension.__spec__
    assert not hasattr(extension, "__wrapped__")
    assert "stand-in" in mmcv.ops.get_compiler_version()
    assert "stand-in" in mmcv.ops.get_compiling_cuda_version()


@pytest.fixture
def other_mmcv(tmp_path, monkeypatch):
    """A folder that stands for an installed mmcv, found before the real one; restored later."""
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "mmcv")
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.syspath_prepend(tmp_path)
    return package


def test_a_compiled_extension_is_left_alone(other_mmcv):
    (other_mmcv / "_ext.py").write_text("raise ImportError('undefined symbol')")
    assert not mmcv_ops.install()
    assert not mmcv_ops.is_standin()
    # one that does not load says so itself
    with pytest.raises(ImportError, match="undefined symbol"):
        importlib.import_module("mmcv._ext")


def test_nothing_is_installed_where_mmcv_is_missing(other_mmcv, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv", None)
    assert not mmcv_ops.install()
    assert "mmcv._ext" not in sys.modules


def test_mmdet_models_can_be_imported_after_install():
    script = "from hybrid_backbones import mmcv_ops; mmcv_ops.install(); import mmdet.models"
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
