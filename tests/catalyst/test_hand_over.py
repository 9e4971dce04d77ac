"""The smaller model's stream is the original's as far as least squares go, and what is zero stays zero."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.hand_over import hand_over
from extcon_cli.catalyst.local_hand_over import fit_compensation
from extcon_cli.channels import channel_groups, evaluating, remove_zeros, zero_channels
from extcon_cli.channels.compare import Inputs


def zeroed(net: nn.Module, filters: Filters, decided: Tensor) -> nn.Module:
    """A copy with the decided filters at zero."""
    small = copy.deepcopy(net)
    for group, part in zip(filters.groups, filters.chosen(decided), strict=True):
        zero_channels(small, group, part.numpy())
    return small


class Between(nn.Module):
    """Six channels, the last three of them copies of the first, that other maps read."""

    def __init__(self, first: nn.Module, *reading: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.norm = nn.BatchNorm2d(6) if isinstance(first, nn.Conv2d) else nn.Identity()
        self.reading = nn.ModuleList(reading)
        with torch.no_grad():
            first.weight[3:] = first.weight[:3]
            if first.bias is not None:
                first.bias[3:] = first.bias[:3]

    def forward(self, x: Tensor) -> list[Tensor]:
        h = torch.relu(self.norm(self.first(x)))
        return [one(h) for one in self.reading]


def conv(**arguments: object) -> nn.Module:
    return nn.Conv2d(6, 4, 3, **arguments)  # type: ignore[arg-type]


SHARED = nn.Conv2d(6, 4, 3)
READERS: dict[str, tuple[nn.Module, ...]] = {
    "convolution": (conv(bias=False, padding=1),),
    "stride": (conv(stride=2),),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1),),
    "several": (conv(), conv(dilation=2, padding=2), nn.ConvTranspose2d(6, 2, 2)),
    "a norm behind": (nn.Sequential(conv(bias=False), nn.BatchNorm2d(4), nn.ReLU()),),
    "linear": (conv(bias=False), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))),
    "shared": (SHARED, SHARED, conv()),
}  # fmt: skip


@pytest.mark.parametrize("readers", READERS.values(), ids=READERS)
def test_copies_are_replaced_without_a_trace(readers: tuple[nn.Module, ...]) -> None:
    torch.manual_seed(0)
    net = Between(nn.Conv2d(2, 6, 1), *copy.deepcopy(readers)).double().eval()
    x = torch.randn(64, 2, 9, 9).double()
    channels = channel_groups(net, (x[:2],))
    filters = Filters.of(channels.groups)
    decided = torch.zeros(len(filters), dtype=torch.bool)
    decided[filters.spans()[[group.name for group in filters.groups].index("first")].start + 3 :][:3] = True
    net.requires_grad_(False)
    small = zeroed(net, filters, decided)
    before = net(x)
    scale = max(float(y.detach().abs().max()) for y in before)
    assert max(float((a - b).abs().max()) for a, b in zip(small(x), before, strict=True)) > 0.05 * scale
    found = hand_over(small, net, channels, filters, decided, [(x[:32],), (x[32:],)], ridge=1e-10)
    assert max(float((a - b).abs().max()) for a, b in zip(small(x), before, strict=True)) < 1e-6 * scale
    assert len(found.maps) == len({id(one) for one in readers})


def test_groups_are_handed_over_each_by_itself() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2)).double()
    with torch.no_grad():
        copies = torch.tensor([0, 1, 0, 1, 4, 5, 4, 5])  # in either group the last two are the first two
        net[0].weight.copy_(net[0].weight[copies])
        net[0].bias.copy_(net[0].bias[copies])
    x = torch.randn(40, 2, 6, 6).double()
    channels = channel_groups(net, (x[:2],))
    filters = Filters.of(channels.groups)
    decided = torch.tensor([False, False, True, True])
    small = zeroed(net, filters, decided)
    hand_over(small, net, channels, filters, decided, [(x,)], ridge=1e-10)
    torch.testing.assert_close(small(x), net(x), rtol=1e-6, atol=1e-6)
    assert remove_zeros(small, (x[:2],)).module[2].weight.shape == (6, 2, 3, 3)


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_copies_are_replaced_in_one_to_three_dimensions(kind: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    rank, outputs = int(kind.__name__[-2]), 1 if "Transpose" in kind.__name__ else 0
    net = nn.Sequential(kind(2, 6, 1), nn.ReLU(), kind(6, 3, 2, stride=2)).double()
    x = torch.randn(24, 2, *(4,) * rank).double()
    with torch.no_grad():
        net[0].weight.copy_(net[0].weight.index_select(outputs, torch.tensor([0, 1, 2, 0, 1, 2])))
        net[0].bias[3:] = net[0].bias[:3]
    channels = channel_groups(net, (x[:2],))
    filters = Filters.of(channels.groups)
    decided = torch.arange(len(filters)) >= 3
    small = zeroed(net, filters, decided)
    hand_over(small, net, channels, filters, decided, [(x,)], ridge=1e-10)
    torch.testing.assert_close(small(x), net(x), rtol=1e-6, atol=1e-6)


DEPTHWISE: dict[str, tuple[nn.Module, ...]] = {
    "plain": (nn.Conv2d(5, 5, 3, padding=1, groups=5),),
    "two outputs a channel": (nn.Conv2d(5, 10, 3, groups=5),),
    "transposed": (nn.ConvTranspose2d(5, 5, 3, stride=2, groups=5),),
    "a norm behind": (nn.Conv2d(5, 5, 3, groups=5, bias=False), nn.BatchNorm2d(5)),
}


@pytest.mark.parametrize("depthwise", DEPTHWISE.values(), ids=DEPTHWISE)
def test_a_depthwise_filter_is_fitted_to_its_own_channel(depthwise: tuple[nn.Module, ...]) -> None:
    """What it reads has half of its size: its taps double; those of a channel that goes stay as they are."""
    torch.manual_seed(0)
    wide = depthwise[0].out_channels
    net = nn.Sequential(nn.Conv2d(2, 5, 1), *copy.deepcopy(depthwise), nn.ReLU(), nn.Conv2d(wide, 2, 1)).double()
    net.eval().requires_grad_(False)
    x = torch.randn(40, 2, 6, 6).double()
    channels = channel_groups(net, (x[:2],))
    filters = Filters.of([group for group in channels.groups if group.name == "0"])
    decided = torch.arange(5) == 1
    small = zeroed(net, filters, decided)
    small[0].weight *= 0.5
    small[0].bias *= 0.5
    gone = small[1].weight[wide // 5 :][: wide // 5].clone()
    found = hand_over(small, net, channels, filters, decided, [(x,)], ridge=1e-12)
    assert found.maps[0] == "1.weight"
    kept = torch.arange(wide) // (wide // 5) != 1
    torch.testing.assert_close(small[1].weight[kept], 2 * net[1].weight[kept], rtol=1e-6, atol=1e-6)
    assert torch.equal(small[1].weight[~kept], gone)
    assert remove_zeros(small, (x[:2],), decided=filters.masks(decided)).certificate.exact


def test_what_reads_an_embedding_is_fitted() -> None:
    torch.manual_seed(0)
    net, tokens = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 4)).double(), torch.randint(10, (16, 7))
    with torch.no_grad():
        net[0].weight[:, 3:] = net[0].weight[:, :3]
    channels = channel_groups(net, (tokens[:2],))
    filters = Filters.of(channels.groups)
    decided = torch.arange(len(filters)) >= 3
    small = zeroed(net, filters, decided)
    assert hand_over(small, net, channels, filters, decided, [(tokens,)], ridge=1e-10).maps == ("1.weight",)
    torch.testing.assert_close(small(tokens), net(tokens), rtol=1e-6, atol=1e-6)


def test_attention_projections_and_neurons_of_a_transformer() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).double().eval()
    with torch.no_grad():
        layer.linear1.weight[6:], layer.linear1.bias[6:] = layer.linear1.weight[:6], layer.linear1.bias[:6]
    x = torch.randn(32, 5, 8).double()
    channels = channel_groups(layer, (x[:2],))
    filters = Filters.of(channels.groups)
    names = [group.name for group in filters.groups]
    neurons = filters.spans()[names.index("linear1")]
    decided = torch.zeros(len(filters), dtype=torch.bool)
    decided[neurons.start + 6 : neurons.stop] = True
    small = zeroed(layer, filters, decided)
    before = layer(x)
    hand_over(small, layer, channels, filters, decided, [(x,)], ridge=1e-10)
    torch.testing.assert_close(small(x), before, rtol=1e-6, atol=1e-6)


@pytest.fixture
def inputs(batches: list[tuple[Tensor, Tensor]]) -> list[Inputs]:
    return [(x,) for x, _ in batches]


def test_the_stream_is_nearer_than_after_the_local_hand_over(
    net: nn.Module, filters: Filters, inputs: list[Inputs]
) -> None:
    net.eval()
    x = torch.cat([one for (one,) in inputs])
    channels = channel_groups(net, (x[:2],))
    decided = torch.arange(len(filters)) % 2 == 0
    wanted = net(x)
    local = copy.deepcopy(net)
    fit_compensation(local, channels, filters, decided, [x], local).step(decided.float())
    local = zeroed(local, filters, decided)
    small = zeroed(net, filters, decided)
    found = hand_over(small, net, channels, filters, decided, inputs)
    with torch.no_grad():
        assert float((small(x) - wanted).norm()) < 0.7 * float((local(x) - wanted).norm())
    assert found.maps == ("conv1.weight", "conv2.weight", "bare.weight", "fc.weight")
    assert found.norms == ("bn1.running_mean", "bn2.running_mean")


def test_what_is_zero_stays_zero_and_goes_exactly(net: nn.Module, filters: Filters, inputs: list[Inputs]) -> None:
    net.eval()
    channels = channel_groups(net, (inputs[0][0][:2],))  # type: ignore[index]
    decided = torch.arange(len(filters)) % 2 == 0
    small = zeroed(net, filters, decided)
    hand_over(small, net, channels, filters, decided, inputs)
    for group, part in zip(filters.groups, filters.chosen(decided), strict=True):
        for piece in group.zeroing_slices:
            held = small.get_parameter(piece.parameter)
            assert not held.index_select(piece.dim, torch.from_numpy(piece.index[part.numpy()].ravel())).any()
    removal = remove_zeros(small, (inputs[0][0][:2],), decided=filters.masks(decided))  # type: ignore[index]
    assert removal.certificate.exact
    assert removal.filters == int(decided.sum())


def test_where_nothing_went_nothing_changes(net: nn.Module, filters: Filters, inputs: list[Inputs]) -> None:
    net.train()
    before = copy.deepcopy(net.state_dict())
    channels = channel_groups(net, (inputs[0][0][:2],))  # type: ignore[index]
    same = copy.deepcopy(net)
    found = hand_over(same, net, channels, filters, torch.zeros(len(filters), dtype=torch.bool), inputs)
    assert found.maps == found.norms == ()
    for model in (same, net):
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert model.training


def test_again_it_finds_little_to_do(net: nn.Module, filters: Filters, inputs: list[Inputs]) -> None:
    """Along the way to zero it may run several times: batch norms that it has restated are no errors."""
    net.double().eval()
    doubles: list[Inputs] = [(x.double(),) for (x,) in inputs]
    channels = channel_groups(net, (doubles[0][0][:2],))  # type: ignore[index]
    decided = torch.arange(len(filters)) % 3 == 0
    small = zeroed(net, filters, decided)
    hand_over(small, net, channels, filters, decided, doubles, ridge=1e-8)
    with evaluating(small):
        once = small(*doubles[0])
        hand_over(small, net, channels, filters, decided, doubles, ridge=1e-8)
        assert float((small(*doubles[0]) - once).norm()) < 1e-2 * float((net(*doubles[0]) - once).norm().detach())


def test_a_tied_weight_is_left_as_it_is() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 6)
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 6)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            x = x + self.second(torch.relu(self.first(x)))
            return x @ self.embed.weight.T

    torch.manual_seed(0)
    net, tokens = Tied(), torch.randint(10, (16, 7))
    channels = channel_groups(net, (tokens[:2],))
    filters = Filters.of(channels.groups)
    names = [group.name for group in filters.groups]
    decided = torch.zeros(len(filters), dtype=torch.bool)
    decided[filters.spans()[names.index("first")].start : filters.spans()[names.index("first")].start + 4] = True
    small = zeroed(net, filters, decided)
    found = hand_over(small, net, channels, filters, decided, [(tokens,)])
    assert found.maps == ("second.weight",)
    assert found.left == ("embed.weight",)
    assert torch.equal(small.embed.weight, net.embed.weight)


def test_pictures_of_one_colour_blow_up_no_gain() -> None:
    """A batch norm behind an unfitted map keeps its gain where the samples vary far less than those of training."""

    class Computed(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, 2 * self.weight, groups=self.groups)

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 1, bias=False), nn.ReLU(), Computed(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8),
        nn.ReLU(), nn.Conv2d(8, 4, 1),
    ).eval()  # fmt: skip
    x = 0.01 * torch.randn(32, 3, 1, 1).expand(32, 3, 9, 9).contiguous()
    channels = channel_groups(net, (x[:2],))
    filters = Filters.of(channels.groups)
    decided = torch.arange(len(filters)) < 2
    small = zeroed(net, filters, decided)
    found = hand_over(small, net, channels, filters, decided, [(x,)])
    assert found.maps == ("3.weight", "8.weight")
    gain = small[6].weight / (small[6].running_var + small[6].eps).sqrt()
    assert gain.max() < 2  # the original's is 1; by what these pictures vary it would be 30
