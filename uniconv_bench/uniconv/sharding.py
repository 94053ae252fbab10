"""The frozen backbone spread over the processes that train together (PyTorch's FSDP2).

Each keeps a part of every layer and gathers a layer while it computes with it; adapters, their
gradients and the optimiser stay whole in every process. So all have to make the same number of
forward and backward passes, which is the caller's affair.
"""

from __future__ import annotations

from typing import Any

from torch.distributed.fsdp import fully_shard


def shard(model: Any) -> None:
    """Spreads the layers of a decoder with adapters; embeddings and head stay whole."""
    causal = model.get_base_model()
    whole = {parameter for parameter in model.parameters() if parameter.requires_grad}
    whole |= set(causal.get_input_embeddings().parameters())
    for layer in causal.base_model.layers:
        fully_shard(layer, ignored_params=whole)
    fully_shard(causal.base_model, ignored_params=whole)
