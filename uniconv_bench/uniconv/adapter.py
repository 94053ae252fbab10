"""The LoRA adapter of a decoder: made, begun from another one, written as peft reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file

from uniconv_bench.errors import UserError
from uniconv_bench.training_cards import Training


def adapted(model: Any, training: Training) -> Any:
    """The frozen model with trainable LoRA layers in float32, its layers checkpointed if asked.

    Raises:
        UserError: a named target matches no layer (peft passes over such names in silence as long
            as another one matches).
    """
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    targets = training.lora.targets
    if targets != "all-linear":
        names = [name for name, _ in model.named_modules()]
        for target in targets:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise UserError(
                    f"LoRA target {target!r} matches no layer of the backbone",
                    mend="correct lora.targets on the card",
                )
    config = LoraConfig(
        r=training.lora.r,
        lora_alpha=training.lora.alpha,
        lora_dropout=training.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def begin_with(model: Any, folder: Path) -> None:
    """Gives an adapter the weights of another one of its shape."""
    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def write_adapter(model: Any, base: str, working: Path) -> None:
    """The adapter in float16, as peft reads it; `base` is the name of what it adapts."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    half = {name: tensor.to("cpu", torch.float16).contiguous() for name, tensor in state.items()}
    save_file(half, working / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config["base_model_name_or_path"] = base
    config["inference_mode"] = True
    for key, value in config.items():
        if isinstance(value, set):
            config[key] = sorted(value)
    text = json.dumps(config, indent=1, sort_keys=True, default=lambda value: value.value)
    (working / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
