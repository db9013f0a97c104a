"""Laws of the routes of bi-level routing attention."""

import torch

from hybrid_backbones.ops.biformer import region_means, route_regions


def test_routes_are_the_regions_of_the_largest_mean_products():
    # regions of two tokens, one channel; the mean keys are 1, -2, 3, 0
    key = torch.tensor([[0.0, 2.0], [-5.0, 1.0], [3.0, 3.0], [4.0, -4.0]])[None, :, :, None]
    query = torch.tensor([[1.0, 1.0], [-1.0, -3.0]])[None, :, :, None]
    assert route_regions(query, key, 2).tolist() == [[[2, 0], [1, 3]]]


def test_half_precision_tells_apart_regions_whose_products_it_does_not_hold():
    # query · key is 64 · 60 · 60 for the best region, three times what half precision holds
    query = torch.full((1, 1, 2, 64), 60.0)
    key = torch.linspace(30, 60, 5)[None, :, None, None].expand(1, 5, 2, 64)
    expected = [4, 3, 2]
    assert route_regions(query, key, 3)[0, 0].tolist() == expected
    assert route_regions(query.half(), key.half(), 3)[0, 0].tolist() == expected


def test_routes_are_those_of_the_real_tokens():
    valid_mask = torch.tensor([[True, True], [False, True], [True, False], [True, True]])
    # the mean keys are 1, 1, 3, 0
    key = torch.tensor([[0.0, 2.0], [-5.0, 1.0], [3.0, -9.0], [4.0, -4.0]])[None, :, :, None]
    assert region_means(key, valid_mask).flatten().tolist() == [1, 1, 3, 0]
    assert route_regions(key + 1, key, 1, valid_mask).flatten().tolist() == [2] * 4


def test_no_gradient_passes_the_choice_of_routes():
    query, key = torch.randn(2, 1, 4, 2, 3, requires_grad=True)
    assert not route_regions(query, key, 2).requires_grad
