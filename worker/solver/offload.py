"""Networks in the host's memory, of which one at a time lies on the device."""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

Slot = tuple[nn.Module, str, Tensor]  # a module and what its tensor is called


class OneAtATime:
    """Brings the network that is needed to the device, in place of the one that was needed before.

    Weights are never copied back, as they are frozen. The loop takes all frames of a part through one network before it
    needs the next, so that SDXL's UNet, 5 GB in half precision, is fetched once in a sampler step, whatever the
    micro-batch. For a GPU the host's copy is pinned.
    """

    def __init__(self, networks: Sequence[nn.Module], device: torch.device) -> None:
        self._networks, self._device, self._there = list(networks), device, -1
        self._home = [[(m, n, _pinned(t, device)) for m, n, t in _slots(network)] for network in networks]
        for place in range(len(self._networks)):
            self._send_home(place)

    def need(self, network: nn.Module) -> None:
        """Have this network, one of those given, on the device."""
        place = self._networks.index(network)
        if place == self._there:
            return
        if self._there >= 0:
            self._send_home(self._there)
        self._there = place
        for module, name, home in self._home[place]:
            _put(module, name, home.to(self._device, non_blocking=True))

    def _send_home(self, place: int) -> None:
        for module, name, home in self._home[place]:
            _put(module, name, home)


def _slots(network: nn.Module) -> Iterator[Slot]:
    for module in network.modules():
        for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            yield module, name, tensor


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    frozen = name in dict(module.named_parameters(recurse=False))
    setattr(module, name, nn.Parameter(tensor, requires_grad=False) if frozen else tensor)


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy in the host's memory, laid out alike."""
    return torch.empty_like(tensor, device="cpu", pin_memory=device.type == "cuda").copy_(tensor)
