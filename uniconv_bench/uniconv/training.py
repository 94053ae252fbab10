"""Trains one adapter: a plain accelerate loop over the mixture's batches, with checkpoints.

Everything random is drawn from (seed, step), so a run that was stopped ends with the weights of one
that was not.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import random
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniconv_bench import __version__
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of, digest_of_code, read_json, write_json
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.system import Progress
from uniconv_bench.system_cards import Distillation, Inference, Training
from uniconv_bench.task import Task
from uniconv_bench.uniconv.backbone import Backbone, device, load_model, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from uniconv_bench.uniconv.distillation import Teacher
    from uniconv_bench.uniconv.processes import Processes

LIBRARIES = ("accelerate", "peft", "tokenizers", "torch", "transformers")
CHECKPOINT = "checkpoint"
RECIPE = 2
"""Raised by hand whenever a change of code makes training mean something else, so that adapters of
the former meaning no longer fit."""
NO_MATTER = ("checkpoint_steps", "tokens_at_once")
"""Settings that change no weight beyond rounding."""
CODE = (
    *("conversation", "definitions", "index", "prompts"),
    *("uniconv/backbone", "uniconv/distillation", "uniconv/joint", "uniconv/losses"),
    *("uniconv/mixture", "uniconv/processes", "uniconv/samples", "uniconv/training"),
    "uniconv/tree",
)
"""What training runs through, for its report."""


def identity(
    backbone: Backbone,
    training: Training,
    inference: Inference,
    tasks: list[Task],
    **origins: Any,
) -> dict[str, Any]:
    """What an adapter is trained from: two adapters of equal identity are interchangeable.

    Of the code it names the `RECIPE` alone, and of the settings what differs from the defaults, so
    that an adapter outlives a tidying; `training.json` beside the weights records code and machine.

    Args:
        backbone: what it adapts.
        training: its card.
        inference: lengths of session and passage.
        tasks: whose training turns are mixed.
        origins: under the names of the card's fields, what identifies the adapter that it starts
            with and what it learns from a teacher, if any.
    """
    settings = training.model_dump(
        mode="json",
        exclude={"sources", "start", "distillation", *NO_MATTER},
        exclude_defaults=True,
    )
    return {
        "recipe": RECIPE,
        "backbone": backbone.revision,
        "training": settings,
        "session_tokens": inference.session_tokens,
        "passage_tokens": inference.passage_tokens,
        "data": {task.card.name: _supervision(task) for task in tasks},
        **origins,
    }


def _supervision(task: Task) -> str:
    """Digest of what training reads of a task, whatever else its prepared files come to hold."""
    turns = [
        [t.turn_id, [[u.role, u.text] for u in t.history], t.query, t.rewrite]
        + [list(t.references[:1]), list(t.gold)]
        for t in task.turns("train")
    ]
    bm25 = task.card.bm25.model_dump()  # hard negatives are mined with it
    return digest_of({"turns": turns, "corpus": task.corpus.digest, "bm25": bm25})


def train_adapter(
    name: str,
    backbone: Backbone,
    training: Training,
    inference: Inference,
    tasks: list[Task],
    working: Path | None,
    progress: Progress,
    processes: Processes | None = None,
    *,
    origin: Path | None = None,
    teacher: Teacher | None = None,
) -> None:
    """Trains from the last checkpoint in `working`, if any, and leaves the adapter there.

    Writes `adapter_model.safetensors` (float16), `adapter_config.json` and `training.json`.

    Args:
        name: of the adapter, for messages.
        backbone: what it adapts.
        training: its card.
        inference: lengths of session and passage.
        tasks: whose training turns are mixed.
        working: where checkpoints and the adapter go; None in all processes but the first.
        progress: told of every step.
        processes: that share every step's work, None being one alone; the weights are the same to
            rounding, however many there are.
        origin: folder of the adapter whose weights it begins with; None: its own random ones.
        teacher: of its `distillation`, if it has one.
    """
    import torch
    from accelerate import Accelerator

    from uniconv_bench.uniconv.joint import joint_step
    from uniconv_bench.uniconv.losses import Weights
    from uniconv_bench.uniconv.mixture import examples, groups, make_batch
    from uniconv_bench.uniconv.processes import Processes
    from uniconv_bench.uniconv.samples import with_samples

    processes = processes or Processes()
    form = PromptFormat(
        load_tokenizer(backbone, progress), inference.session_tokens, inference.passage_tokens
    )
    data = {task.card.name: examples(task, training, progress) for task in tasks}
    plan = [(e, g) for e in range(training.epochs) for g in groups(data, training, e)]
    plan = plan[: training.max_steps]
    if not plan:
        raise UserError(f"nothing to train {name} on", mend="give its card tasks with train turns")
    keep_freed_memory()
    mixed = "bf16" if training.dtype == "bfloat16" else "no"
    accelerator = Accelerator(cpu=device() == "cpu", mixed_precision=mixed)
    torch.manual_seed(training.seed)
    # Alike in all processes, and not wrapped: `joint_step` sees to their gradients.
    untrained = load_model(backbone, training.dtype, progress)
    if training.cii_negatives == "sampled_generation":
        longest = max(task.card.answer_tokens for task in tasks)
        steps = [group for _, group in plan]
        steps = with_samples(steps, backbone, untrained, form, longest, training.seed, progress)
        plan = [(epoch, group) for (epoch, _), group in zip(plan, steps, strict=True)]
    model = adapted(untrained, training)
    if origin is not None:
        _begin_with(model, origin)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    log = _resume(processes.told(_stopped(working)), parameters, optimiser)
    optimiser = accelerator.prepare(optimiser)
    weights = Weights(
        **training.losses.model_dump(),
        temperature=training.temperature,
        cii_temperature=training.cii_temperature,
        cii_score=training.cii_score,
        **_learnt(training.distillation),
    )
    model.train()
    if log:
        progress.note(f"  going on with {name} after step {len(log)} of {len(plan)}")
    with progress.track(f"train {name}", len(plan)) as advance:
        advance(len(log))
        for step, (epoch, group) in enumerate(plan[len(log) :], len(log)):
            start = time.perf_counter()
            rate = learning_rate(step, len(plan), training)
            for settings in optimiser.param_groups:
                settings["lr"] = rate
            group = teacher.answered(group) if teacher else group
            batch = make_batch(group, training, form, random.Random(f"{training.seed}:{step}"))
            batch = teacher.judged(batch, group) if teacher else batch
            torch.manual_seed(training.seed * 1_000_003 + step)  # dropout
            terms = joint_step(
                model,
                batch,
                weights,
                form.end,
                tokens_at_once=training.tokens_at_once,
                autocast=accelerator.autocast,  # forward alone; backward follows its dtypes
                backward=accelerator.backward,
                processes=processes,
            )
            norm = accelerator.clip_grad_norm_(list(parameters.values()), training.clip).item()
            if not math.isfinite(norm):
                raise UserError(
                    f"training of {name} diverged at step {step}",
                    mend="lower learning_rate on its card",
                )
            optimiser.step()
            optimiser.zero_grad()
            seconds = time.perf_counter() - start
            log.append(
                {
                    "step": step,
                    "epoch": epoch,
                    **{key: round(value, 5) for key, value in terms.items()},
                    "gradient_norm": round(norm, 4),
                    "learning_rate": rate,
                    "tokens": batch.tokens,
                    "seconds": round(seconds, 3),
                }
            )
            if working is not None and (step + 1) % training.checkpoint_steps == 0:
                _checkpoint(working, parameters, optimiser, log)
            advance(1)
    if working is None:
        return
    report = {
        "adapter": name,
        "backbone": backbone.name,
        "device": _device_name(processes),
        "turns": {task: len(found) for task, found in data.items()},
        "steps": len(plan),
        "tokens": sum(row["tokens"] for row in log),
        "seconds": round(sum(row["seconds"] for row in log), 1),
        "peak_memory_bytes": _peak_memory(),
        "code": {"package": __version__, "sha256": digest_of_code(*CODE)},
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "trainable_parameters": sum(p.numel() for p in parameters.values()),
        "log": log,
    }
    if origin is not None:
        first = read_json(origin / "training.json")
        report["start"] = {key: value for key, value in first.items() if key != "log"}
    _save(model, backbone, working)
    write_json(working / "training.json", report)
    shutil.rmtree(working / CHECKPOINT, ignore_errors=True)


def adapted(model: Any, training: Training) -> Any:
    """The frozen model with trainable LoRA layers in float32.

    Raises:
        UserError: a named target matches no layer (peft passes over such names in silence as long
            as another one matches).
    """
    from peft import LoraConfig, get_peft_model

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


def _begin_with(model: Any, folder: Path) -> None:
    """Gives an adapter the weights of another one of its shape."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def _learnt(distillation: Distillation | None) -> dict[str, float]:
    """Weight and temperature of a teacher's similarities."""
    if distillation is None:
        return {}
    temperature = distillation.temperature
    return {"distillation": distillation.similarity, "distillation_temperature": temperature}


def learning_rate(step: int, steps: int, training: Training) -> float:
    """The rate at a step (from 0): linear warm-up, then the card's schedule down to 0."""
    warm = math.ceil(training.warmup * steps)
    if step < warm:
        return training.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return training.learning_rate * (1 - done if training.schedule == "linear" else 1)


def _checkpoint(
    working: Path, parameters: dict[str, Tensor], optimiser: Any, log: list[dict[str, Any]]
) -> None:
    from safetensors.torch import save_file

    fresh = working / f"{CHECKPOINT}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {}
    for name, parameter in parameters.items():
        state = optimiser.state[parameter]
        tensors[f"{name}|value"] = parameter.detach().contiguous()
        tensors[f"{name}|first"] = state["exp_avg"].contiguous()
        tensors[f"{name}|second"] = state["exp_avg_sq"].contiguous()
    save_file(tensors, fresh / "state.safetensors")
    write_json(fresh / "log.json", log)
    shutil.rmtree(working / CHECKPOINT, ignore_errors=True)
    os.replace(fresh, working / CHECKPOINT)  # noqa: PTH105 (a folder)


State = tuple[list[dict[str, Any]], dict[str, Any]]


def _stopped(working: Path | None) -> State | None:
    """Log and tensors of the last checkpoint, if there is one."""
    from safetensors.torch import load_file

    if working is None or not (folder := working / CHECKPOINT).exists():
        return None
    return read_json(folder / "log.json"), load_file(folder / "state.safetensors")


def _resume(
    state: State | None, parameters: dict[str, Tensor], optimiser: Any
) -> list[dict[str, Any]]:
    """Gives parameters and optimiser the state of a checkpoint; its log, or an empty one."""
    import torch

    if state is None:
        return []
    log, tensors = state
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{name}|value"])
            optimiser.state[parameter] = {
                "step": torch.tensor(float(len(log))),
                "exp_avg": tensors[f"{name}|first"].to(parameter.device),
                "exp_avg_sq": tensors[f"{name}|second"].to(parameter.device),
            }
    return log


def _save(model: Any, backbone: Backbone, working: Path) -> None:
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model)
    half = {name: tensor.to("cpu", torch.float16).contiguous() for name, tensor in state.items()}
    save_file(half, working / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config["base_model_name_or_path"] = backbone.name
    config["inference_mode"] = True
    for key, value in config.items():
        if isinstance(value, set):
            config[key] = sorted(value)
    text = json.dumps(config, indent=1, sort_keys=True, default=lambda value: value.value)
    (working / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def keep_freed_memory() -> None:
    """Has glibc keep freed activations for the next pass in place of handing them to the kernel.

    They are gigabytes, freed and asked for again several times a step; faulting the pages in anew
    was seen to take longer than the arithmetic.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks from the heap too
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks


def _device_name(processes: Processes) -> str:
    import torch

    cpu = f"cpu, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return name if processes.count == 1 else f"{processes.count} processes, each: {name}"


def _peak_memory() -> int:
    """Of the device that trained: CUDA's allocator, else this process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
