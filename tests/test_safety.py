"""What no source of this project may do, and that everything installed is pinned by its digest."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from test_layers import ROOT, parsed, sources

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs text as code"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput"), "runs a shell"),
    **dict.fromkeys(("torch.load", "torch.save", "pd.read_pickle", "yaml.load"), "reads pickles"),
    **dict.fromkeys(("tempfile.mktemp", "shutil.unpack_archive"), "is unsafe"),
}
METHODS = {"extractall": "unpacks what leaves its folder", "to_pickle": "writes pickles"}
NEEDED = {
    "np.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
    "from_pretrained": ("trust_remote_code", False),
}
"""Calls that have to say so, since the default is another one or may become it."""
SAFE = {
    ("uniconv_bench.uniconv.backbone", "PeftModel.from_pretrained"),  # has no code to run
    ("uniconv_bench.uniconv.made", "AutoModelForCausalLM.from_pretrained"),  # of a GGUF file
    ("uniconv_bench.uniconv.made", "AutoTokenizer.from_pretrained"),
}


def faults(module: str, source: str) -> Iterator[str]:
    """What a source does that none may do."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (f"imports {name}" for name in names if name.split(".")[0] in PICKLES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        named = {k.arg for k in node.keywords}
        last = called.rpartition(".")[2]
        if called in FORBIDDEN:
            yield f"{called} {FORBIDDEN[called]}"
        if last in METHODS and "." in called:
            yield f"{called} {METHODS[last]}"
        if "shell" in named and given.get("shell") is not False:
            yield f"{called} runs a shell"
        if "trust_remote_code" in named and given.get("trust_remote_code") is not False:
            yield f"{called} trusts code of a checkpoint"
        name, value = NEEDED.get(called, NEEDED.get(last, ("", None)))
        if name and given.get(name, "") is not value and (module, called) not in SAFE:
            yield f"{called} does not say {name}={value}"


def test_no_pickle_no_shell_no_code_of_others() -> None:
    found = [
        f"{name}: {fault}" for name, text in sources(ROOT).items() for fault in faults(name, text)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import dump",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=asked)",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "archive.extractall('x')",
        "AutoModel.from_pretrained('x')",
        "AutoModel.from_pretrained('x', trust_remote_code=card.trust)",
    ],
)
def test_the_scan_sees_each_of_them(source: str) -> None:
    assert list(faults("x", source))


def versions(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    return {
        found[1].lower().replace("_", "-"): found[2]
        for found in re.finditer(r"(?m)^([A-Za-z0-9_.-]+)==([^\s\\]+)", text)
    }


def test_every_pinned_version_but_torch_has_its_digests() -> None:
    pinned, hashed = versions("constraints.txt"), versions("constraints-hashed.txt")
    assert pinned.pop("torch") and pinned == hashed
    for entry in re.split(r"(?m)^(?=\S)", (ROOT / "constraints-hashed.txt").read_text()):
        assert not entry or entry.startswith("#") or "--hash=sha256:" in entry, entry
