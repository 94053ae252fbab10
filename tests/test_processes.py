"""Two processes that train together (gloo): one process's gradients and weights, and resumption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_joint import WEIGHTS, batch_of, distance, gradients
from test_uniconv import END, trained, training

from uniconv_bench.cli import main
from uniconv_bench.files import CACHE
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.system_cards import Lora
from uniconv_bench.uniconv.joint import joint_step
from uniconv_bench.uniconv.processes import Processes

HERE = Path(__file__).parent
START = """
import json
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
sys.path.insert(0, sys.argv[1])
from test_joint import INFERENCE, WEIGHTS, batch_of, gradients
from test_uniconv import END, Stopped, StopAfter, task, tiny, training
from uniconv_bench.system_cards import Lora
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.uniconv.joint import joint_step
from uniconv_bench.uniconv.processes import Processes
from uniconv_bench.uniconv.training import train_adapter
processes = Processes.joined()
out = Path(sys.argv[2])
"""
GRADIENTS = """
model = AutoModelForCausalLM.from_pretrained(sys.argv[3]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[3])
form = PromptFormat(tokenizer, INFERENCE.session_tokens, INFERENCE.passage_tokens)
for tokens in (None, 500):
    model.zero_grad()
    terms = joint_step(
        model, batch_of(form), WEIGHTS, END, tokens_at_once=tokens, processes=processes
    )
    save_file(gradients(model), out / f"{processes.rank}-{tokens}.safetensors")
    (out / f"{processes.rank}-{tokens}.json").write_text(json.dumps(terms))
Processes.parted()
"""
TRAINING = """
chosen = training(checkpoint_steps=2, lora=Lora(r=4, alpha=8, dropout=0.0))
def train(name, progress=None):
    folder = out / name
    folder.mkdir(exist_ok=True)
    working = folder if processes.first else None
    train_adapter(
        "toy", tiny(), chosen, INFERENCE, [task()], working, progress or Silent(), processes
    )
train("whole")
try:
    train("stopped", StopAfter(3))
except Stopped:
    pass
processes.told(None)
train("stopped")
Processes.parted()
"""
COMMAND = """
import runpy
import sys
from torch import distributed
sys.argv[1:] = ["train", "--system", sys.argv[2], "--json"]
try:
    runpy.run_module("uniconv_bench", run_name="__main__")
except SystemExit as end:
    if distributed.is_initialized():
        sys.exit("still joined")
    sys.exit(end.code)
"""


def together(script: str, *arguments: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in two processes as torchrun does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launched = subprocess.run(
        [*command, "--nproc-per-node", "2", script, str(HERE), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert launched.returncode == 0, launched.stderr
    return launched


@pytest.fixture
def script(tmp_path: Path) -> Any:
    def written(body: str) -> str:
        path = tmp_path / "script.py"
        path.write_text(body)
        return str(path)

    return written


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(
    script: Any, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any, tiny_folder: Path
) -> None:
    alone = joint_step(tiny_model, batch_of(PromptFormat(tiny_tokenizer, 300, 60)), WEIGHTS, END)
    wanted = gradients(tiny_model)
    values = []
    together(script(START + GRADIENTS), tmp_path, tiny_folder)
    for tokens in (None, 500):
        found = [load_file(tmp_path / f"{rank}-{tokens}.safetensors") for rank in (0, 1)]
        assert distance(found[0], wanted) < 5e-5
        assert all(torch.equal(found[0][name], found[1][name]) for name in wanted)
        values += [json.loads((tmp_path / f"{rank}-{tokens}.json").read_text()) for rank in (0, 1)]
    assert all(value == pytest.approx(alone, rel=1e-5) for value in values)


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_to_the_same_bits(
    script: Any, tmp_path: Path
) -> None:
    together(script(START + TRAINING), tmp_path)
    whole, resumed = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    trained(tmp_path / "alone", training(lora=Lora(r=4, alpha=8, dropout=0.0)))
    report, alone = (
        json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "alone")
    )
    # Later steps drift apart: Adam's first ones follow the signs of gradients however small.
    for key in ("retrieval", "generation", "cii", "gradient_norm"):
        assert report["log"][0][key] == pytest.approx(alone["log"][0][key], rel=1e-4)
    assert report["device"].startswith("2 processes, each: ")


@pytest.mark.slow
def test_the_command_line_trains_in_two_processes(script: Any, tmp_path: Path) -> None:
    from test_evaluate import ADAPTER, CARD, LLM

    card = tmp_path / "tiny.toml"
    card.write_text(CARD.replace('kind = "llm"', LLM) + ADAPTER)
    launched = together(script(COMMAND), card, **{CACHE: str(tmp_path / "cache")})
    (row,) = json.loads(launched.stdout)  # said once
    report = json.loads((Path(row["folder"]) / "training.json").read_text())
    assert report["steps"] == 2 and report["device"].startswith("2 processes")
    assert launched.stderr.count("next:") <= 1


def test_only_training_runs_in_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["list", "tasks"]) == 2
    assert "error: list runs in one process" in capsys.readouterr().err


def test_shares_are_a_partition_of_even_weight() -> None:
    sizes = [9, 1, 5, 5, 3, 8, 2, 7]
    shares = [Processes(rank, 3).share(sizes) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= 2
    assert Processes(4, 5).share([1, 1]) == []
