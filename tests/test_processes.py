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
from uniconv_bench.errors import UserError
from uniconv_bench.files import CACHE
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.training_cards import Lora, Validation
from uniconv_bench.uniconv import training as training_module
from uniconv_bench.uniconv.adapter import adapted
from uniconv_bench.uniconv.backbone import find_backbone, load_model
from uniconv_bench.uniconv.joint import JointLoss
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
from test_joint import WEIGHTS, batch_of, gradients
from test_uniconv import END, INFERENCE, Stopped, StopAfter, task, tiny, training
from uniconv_bench.training_cards import Lora, Validation
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.uniconv.joint import JointLoss
from uniconv_bench.uniconv.processes import Processes
from uniconv_bench.uniconv.backbone import find_backbone, load_model, load_tokenizer
from uniconv_bench.uniconv.adapter import adapted
from uniconv_bench.uniconv.training import train_adapter
from uniconv_bench.uniconv.sharding import shard
PLAIN = training(lora=Lora(r=4, alpha=8, dropout=0.0))
processes = Processes.joined()
out = Path(sys.argv[2])
"""
GRADIENTS = """
model = AutoModelForCausalLM.from_pretrained(sys.argv[3]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[3])
form = PromptFormat(tokenizer, INFERENCE.session_tokens, INFERENCE.passage_tokens)
for tokens in (None, 500):
    model.zero_grad()
    loss = JointLoss(model, WEIGHTS, END, tokens_at_once=tokens, processes=processes)
    terms = loss.step(batch_of(form))
    save_file(gradients(model), out / f"{processes.rank}-{tokens}.safetensors")
    (out / f"{processes.rank}-{tokens}.json").write_text(json.dumps(terms))
Processes.parted()
"""
TRAINING = """
lora = Lora(r=4, alpha=8, dropout=0.0)
chosen = training(checkpoint_steps=2, lora=lora, validation=Validation(share=0.25, every=2))
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
SHARDED = """
torch.manual_seed(0)
model = adapted(load_model(find_backbone("random-tiny"), "float32", Silent()), PLAIN)
shard(model)
model.eval()
tokenizer = load_tokenizer(find_backbone("random-tiny"), Silent())
form = PromptFormat(tokenizer, INFERENCE.session_tokens, INFERENCE.passage_tokens)
layers = model.get_base_model().base_model.layers
for tokens in (None, 400):
    model.zero_grad()
    loss = JointLoss(model, WEIGHTS, END, tokens_at_once=tokens, processes=processes)
    terms = loss.step(batch_of(form))
    save_file(gradients(model), out / f"{processes.rank}-{tokens}.safetensors")
    frozen = [p for p in layers.parameters() if not p.requires_grad]
    told = {
        "terms": terms,
        "held": sum(p.to_local().numel() for p in frozen),
        "whole": sum(p.numel() for p in frozen),
    }
    (out / f"{processes.rank}-{tokens}.json").write_text(json.dumps(told))
Processes.parted()
"""
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
PLAIN = training(lora=Lora(r=4, alpha=8, dropout=0.0))
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
        timeout=500,  # processes that disagree wait for each other
    )
    assert launched.returncode == 0, launched.stderr
    return launched


@pytest.fixture
def script(tmp_path: Path, tiny_folder: Path) -> Any:
    """Writes a program; its backbone is there before, as no second process can save one."""

    def written(body: str) -> str:
        path = tmp_path / "script.py"
        path.write_text(body)
        return str(path)

    return written


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(
    script: Any, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any, tiny_folder: Path
) -> None:
    alone = JointLoss(tiny_model, WEIGHTS, END).step(
        batch_of(PromptFormat(tiny_tokenizer, 300, 60))
    )
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
    chosen = training(
        lora=Lora(r=4, alpha=8, dropout=0.0), validation=Validation(share=0.25, every=2)
    )
    trained(tmp_path / "alone", chosen)
    report, alone = (
        json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "alone")
    )
    # Later steps drift apart: Adam's first ones follow the signs of gradients however small.
    for key in ("retrieval", "generation", "cii", "gradient_norm"):
        assert report["log"][0][key] == pytest.approx(alone["log"][0][key], rel=1e-4)
    point, of_one = (found["validation"]["points"][0] for found in (report, alone))
    for key in ("loss", "retrieval", "generation", "cii"):
        assert point[key] == pytest.approx(of_one[key], rel=1e-4)
    assert report["device"].startswith("2 processes, each: ")


@pytest.mark.slow
def test_a_sharded_backbone_has_the_gradients_of_a_whole_one(
    script: Any, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """At 400 tokens at once one process has 5 parts to read, the other 4 and an empty one."""
    torch.manual_seed(0)
    model = adapted(load_model(find_backbone("random-tiny"), "float32", Silent()), PLAIN)
    model.eval()
    alone = JointLoss(model, WEIGHTS, END).step(batch_of(PromptFormat(tiny_tokenizer, 300, 60)))
    wanted = gradients(model)
    together(script(START + SHARDED), tmp_path, **FSDP2)
    for tokens in (None, 400):
        found = [load_file(tmp_path / f"{rank}-{tokens}.safetensors") for rank in (0, 1)]
        assert distance(found[0], wanted) < 5e-5
        assert all(torch.equal(found[0][name], found[1][name]) for name in wanted)
        for rank in (0, 1):
            told = json.loads((tmp_path / f"{rank}-{tokens}.json").read_text())
            assert told["terms"] == pytest.approx(alone, rel=1e-5)
            assert told["held"] < 0.6 * told["whole"]


@pytest.mark.slow
def test_a_sharded_backbone_trains_and_resumes_to_the_same_bits(
    script: Any, tmp_path: Path
) -> None:
    together(script(START + TRAINING), tmp_path, **FSDP2)
    whole, resumed = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    "asked", [{"ACCELERATE_USE_DEEPSPEED": "true"}, {**FSDP2, "FSDP_VERSION": "1"}]
)
def test_other_ways_to_spread_a_model_are_refused(
    asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", **asked}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="FSDP 2 alone"):
        Processes.joined()


def test_shipped_launch_configurations_are_accelerates() -> None:
    """Of the settings that training reads."""
    from accelerate.commands.config.config_args import load_config_from_file

    folder = Path(training_module.__file__).parent / "launch"
    read = {path.stem: load_config_from_file(str(path)) for path in folder.glob("*.yaml")}
    assert set(read) == {"fsdp2", "gpus"}
    assert read["fsdp2"].fsdp_config["fsdp_version"] == 2


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
