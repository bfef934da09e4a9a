"""What lives at once while something is computed, on any device, the meta device too."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that are alive and were made while it is on; `peak` is the most so far.

    tensors: of which nothing counts, such as weights.
    """

    def __init__(self, *tensors):
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata: tensor for tensor in tensors}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return result

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known[key] = weakref.ref(storage, lambda _: self.forget(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def forget(self, key, size):
        self.now -= size
        del self.known[key]
