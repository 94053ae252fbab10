"""Systems beside the paper's own, each through the ordinary stages on the tiny random backbone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import evaluate, registry
from uniconv_bench.assembly import Setup
from uniconv_bench.conversation import Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, read_jsonl
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.records import ResultRecord
from uniconv_bench.registry import system_card, system_names
from uniconv_bench.runs import read_run
from uniconv_bench.task import load_task
from uniconv_bench.uniconv import loop

SMALL = """
[backbone]
sample = "random-tiny"
[inference]
session_tokens = 200
passage_tokens = 40
decode_batch_size = 3
"""
TINY_TRAINING = """
tasks = ["qrecc"]
batch_size = 3
max_steps = 2
dtype = "float32"
hard_negatives = 1
generation_passages = 0
lora = { r = 2 }
"""

pytestmark = pytest.mark.slow  # each goes from data to scores


def derived(folder: Path, base: str, changes: str = "") -> str:
    """A shipped system on the tiny backbone, as a card by path."""
    name = f"tiny-{base}".replace("+", "-")
    path = folder / f"{name}.toml"
    path.write_text(
        f'extends = "{base}"\nname = "{name}"\ntitle = "T"\ndescription = "D"\n{SMALL}{changes}'
    )
    return str(path)


def run(system: str, limit: int = 4) -> ResultRecord:
    record, _ = evaluate.run(
        "qrecc", system, "sample", limit=limit, results=None, progress=Silent()
    )
    return record


def turns(count: int) -> list[Turn]:
    return load_task("qrecc", "sample", progress=Silent()).turns()[:count]


# --- rewriting ----------------------------------------------------------------------------------


def test_bm25_is_asked_what_the_decoder_wrote(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench.uniconv.rewriting import Rewriter

    asked: list[str] = []

    def texts(self: Any, model: Any, form: PromptFormat, batch: list[Turn]) -> list[str]:
        asked.extend(turn.turn_id for turn in batch)
        return ["" if t.number == 2 else f"keeper of the lighthouse {t.number}" for t in batch]

    monkeypatch.setattr(Rewriter, "_texts", texts)
    record = run(derived(tmp_path, "rewrite+bm25"))
    later = [turn for turn in turns(4) if turn.history]
    assert asked == [turn.turn_id for turn in later] and 2 <= len(later) < 4
    (path,) = (cache_dir() / "rewrites").glob("qrecc-*/rewrites.jsonl")
    rows = [row for _, row in read_jsonl(path)]
    assert [row["query"] for row in rows] == [turn.query for turn in later]
    task = load_task("qrecc", "sample", progress=Silent())
    from uniconv_bench.index import Bm25Index

    index = Bm25Index(task.corpus, task.card.bm25)
    written = {row["turn_id"]: row["rewrite"] for row in rows}
    found = read_run(evaluate.outputs(record)["run.trec"])
    for turn in turns(4):
        query = written.get(turn.turn_id) or turn.query
        assert [p for p, _ in found[turn.turn_id]] == [p for p, _ in index.search(query, 100)]


def test_rewrites_go_on_where_a_stopped_run_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench.uniconv.rewriting import Rewriter

    write = Rewriter._texts
    batches: list[int] = []

    def stops(self: Any, model: Any, form: Any, batch: Any) -> list[str]:
        batches.append(len(batch))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return write(self, model, form, batch)

    system = derived(tmp_path, "rewrite+bm25")

    def rewrites(folder: str) -> str:
        monkeypatch.setenv("UNICONV_BENCH_CACHE", str(tmp_path / folder))
        run(system, limit=9)
        (path,) = (tmp_path / folder / "rewrites").glob("qrecc-*/rewrites.jsonl")
        return path.read_text()

    whole = rewrites("whole")
    monkeypatch.setattr(Rewriter, "_texts", stops)
    with pytest.raises(KeyboardInterrupt):
        rewrites("stopped")
    assert rewrites("stopped") == whole
    assert batches[0] == 3 and sum(batches) == len(whole.splitlines()) + batches[1]


def test_what_is_rewritten_is_the_conversation_in_its_order(tiny_tokenizer: Any) -> None:
    history = (
        Utterance("user", "Tell me of Nore."),
        Utterance("assistant", "A light."),
        Utterance("user", "Where?"),
        Utterance("assistant", "At sea."),
    )
    turn = Turn("c_3", "c", 3, "Who kept it?", history)
    form = PromptFormat(tiny_tokenizer, 1000, 60)
    text = tiny_tokenizer.decode(form.rewriting(turn).ids)
    said = "User: Tell me of Nore.\nAssistant: A light.\nUser: Where?\nAssistant: At sea.\n"
    assert f"<|im_start|>user\n{said}User: Who kept it?<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")
    short = PromptFormat(tiny_tokenizer, len(form.rewriting(turn).ids) - 1, 60)
    assert "user\nUser: Where?" in tiny_tokenizer.decode(short.rewriting(turn).ids)


def test_a_wrong_field_of_the_retriever_behind_a_rewriter_is_named(tmp_path: Path) -> None:
    system = derived(tmp_path, "rewrite+bm25", "[retriever.retriever]\nquerry = 1\n")
    with pytest.raises(UserError, match="field retriever.retriever.querry.*did you mean 'query'"):
        system_card(system)


# --- ablations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "learnt"),
    [
        ("uniconv-no-retrieval", {"generation", "cii"}),
        ("uniconv-no-generation", {"retrieval", "cii"}),
    ],
)
def test_an_ablation_learns_the_other_losses_and_still_does_both(
    system: str, learnt: set[str], tmp_path: Path, private_cache: Path
) -> None:
    path = derived(tmp_path, system, f"[adapters.joint]\n{TINY_TRAINING}")
    record = run(path)
    assert {score.stage for score in record.scores} == {"retrieval", "generation"}
    (report,) = (cache_dir() / "adapters").glob("joint-*/training.json")
    log = json.loads(report.read_text())["log"]
    assert {name for row in log for name in row} & {"retrieval", "generation", "cii"} == learnt


# --- several stages, several models --------------------------------------------------------------


def trained(name: str) -> list[dict[str, Any]]:
    """Reports of the adapters of a name in the cache, in the order of their training."""
    paths = (cache_dir() / "adapters").glob(f"{name}-*/training.json")
    return [json.loads(p.read_text()) for p in sorted(paths, key=lambda p: p.stat().st_mtime_ns)]


def test_two_stages_train_the_first_where_the_second_is_lacking(
    tmp_path: Path, private_cache: Path
) -> None:
    adapters = f"[adapters.first]\n{TINY_TRAINING}[adapters.joint]\n{TINY_TRAINING}"
    path = derived(tmp_path, "uniconv-two-stage", adapters)
    setup = Setup.of(path, "sample", Silent())
    assert setup.to_train() == ["first", "joint"]
    record = run(path)
    (first,), (second,) = trained("first"), trained("joint")
    assert {"retrieval", "generation"} <= first["log"][0].keys() and "cii" not in first["log"][0]
    assert "cii" in second["log"][0] and "retrieval" not in second["log"][0]
    assert second["start"]["adapter"] == "first"
    assert list(record.system.adapters) == ["joint"]
    for folder in (cache_dir() / "adapters").glob("first-*"):
        shutil.rmtree(folder)
    assert setup.to_train() == []  # the second is whole without the first
    Path(path).write_text(Path(path).read_text().replace("lora =", "seed = 4\nlora =", 1))
    assert Setup.of(path, "sample", Silent()).to_train() == ["first", "joint"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ('[adapters.joint]\nstart = "fist"\n', "'fist' is not declared"),
        ('[adapters.first]\nstart = "joint"\n', "goes in a circle"),
        ("[adapters.first.lora]\nr = 3\n", "make the lora of 'first' the same"),
        ("[adapters.joint.validation]\nshare = 0.2\n", "'first'.* is trained on turns held out"),
        (
            "[adapters.joint.validation]\nshare = 0.2\n[adapters.first.validation]\nshare = 0.1\n",
            "'first'.* is trained on turns held out",
        ),
        (
            "[adapters.joint.profiles.mini.validation]\nshare = 0.2\n",
            "'first'.* is trained on turns held out",
        ),
    ],
)
def test_a_start_that_cannot_be_is_refused(changes: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        system_card(derived(tmp_path, "uniconv-two-stage", changes))


def test_two_stages_may_hold_out_the_same_turns(tmp_path: Path) -> None:
    """How often they are measured is each adapter's own matter."""
    stages = (("first", 10), ("joint", 5))
    tables = [f"[adapters.{n}.validation]\nshare = 0.2\nevery = {e}\n" for n, e in stages]
    assert system_card(derived(tmp_path, "uniconv-two-stage", "".join(tables)))


def student_of(folder: Path, teacher: str, **distillation: Any) -> str:
    settings = {"teacher": teacher, **distillation}
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    adapter = f"[adapters.joint]\n{TINY_TRAINING}distillation = {{ {table} }}\n"
    return derived(folder, "uniconv-distilled", adapter)


def test_a_student_learns_what_its_teacher_says_and_finds_alike(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = derived(tmp_path, "uniconv", f"[adapters.joint]\n{TINY_TRAINING}seed = 21\n")
    seen: list[Any] = []

    def watched(group: Any, *given: Any) -> Any:
        seen.append([example.response for example in group])
        return make_batch(group, *given)

    make_batch = loop.make_batch
    monkeypatch.setattr(loop, "make_batch", watched)
    path = student_of(tmp_path, teacher)
    assert Setup.of(path, "sample", Silent()).to_train() == ["joint"]
    run(path)
    of_teacher, of_student = trained("joint")
    assert "distillation" not in of_teacher["log"][0]
    assert all(row["distillation"] > 0 for row in of_student["log"])
    data, said = seen[:2], seen[2:]  # each trained two steps, on the same turns
    assert len(said) == 2 and data != said
    written = {answer for group in data for answer in group}
    assert not written & {answer for group in said for answer in group}


def test_a_student_is_another_one_with_another_teacher(tmp_path: Path, private_cache: Path) -> None:
    teacher = derived(tmp_path, "uniconv", f"[adapters.joint]\n{TINY_TRAINING}")

    def identity(**distillation: Any) -> dict[str, Any]:
        path = student_of(tmp_path, teacher, **distillation)
        return Setup.of(path, "sample", Silent()).identity("joint")

    plain = identity()
    assert plain == identity()
    assert plain != identity(temperature=0.2)
    assert plain != identity(responses="data")
    Path(teacher).write_text(Path(teacher).read_text() + "seed = 22\n")
    assert plain != identity()


def test_teachers_that_cannot_teach_are_refused(tmp_path: Path) -> None:
    itself = student_of(tmp_path, str(tmp_path / "tiny-uniconv-distilled.toml"))
    with pytest.raises(UserError, match="in a circle"):
        Setup.of(itself, "sample", Silent()).identity("joint")
    words = derived(tmp_path, "bm25+llm")
    with pytest.raises(UserError, match="has no embeddings.*choose a teacher of kind dense"):
        Setup.of(student_of(tmp_path, words), "sample", Silent()).identity("joint")
    path = student_of(tmp_path, words, similarity=0.0)
    assert Setup.of(path, "sample", Silent()).identity("joint")["distillation"]


# --- instructions -------------------------------------------------------------------------------


def test_what_the_model_is_told_is_the_cards(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an untrained decoder, which reads it before queries and answers, and by a training."""
    told: list[str] = []
    whole = PromptFormat._render

    def render(self: PromptFormat, *given: Any) -> str:
        told.append(whole(self, *given))
        return told[-1]

    monkeypatch.setattr(PromptFormat, "_render", render)
    change = 'instruction = "Answer in Dutch."\n'
    for base in ("uniconv-untrained", "rewrite+bm25"):
        system = derived(tmp_path, base, change)
        path = Path(system)
        if base == "rewrite+bm25":
            path.write_text(path.read_text() + '[retriever]\ninstruction = "In your words:"\n')
        run(system, limit=2)
    assert all("Answer in Dutch." in text or "In your words:" in text for text in told[1:])
    assert any("In your words:" in text for text in told)

    plain = derived(tmp_path, "uniconv", f"[adapters.joint]\n{TINY_TRAINING}")
    before = Setup.of(plain, "sample", Silent()).identity("joint")
    Path(plain).write_text(
        Path(plain).read_text().replace("\n[adapters", f"\n{change}[adapters", 1)
    )
    assert Setup.of(plain, "sample", Silent()).identity("joint") != before
    told.clear()
    run(plain, limit=2)
    assert len(told) > 8 and all(
        "Answer in Dutch." in text for text in told if "QUESTION" not in text
    )


# --- published models ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A random decoder, an adapter on it, and a tokenizer with the special tokens of all peers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("peer")
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    extra = ["</s>", "<|embed|>", "<|extra_0|>", "<|extra_1|>", "<|extra_2|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": extra})
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    torch.manual_seed(3)
    model.resize_token_embeddings(len(tokenizer))
    for name, saved in (("model", model), ("lora", get_peft_model(model, LoraConfig(r=2)))):
        saved.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


PEERS = [
    name
    for name in system_names()
    if (retriever := system_card(name)[0].retriever).kind == "encoder"
    and retriever.model != "minilm"
]


@pytest.mark.parametrize("name", PEERS)
def test_a_published_system_runs_with_local_weights(
    name: str, peer: Path, tmp_path: Path, private_cache: Path
) -> None:
    lora = f'lora = "{peer / "lora"}"\n' if system_card(name)[0].retriever.lora else ""
    path = derived(tmp_path, name, f'[retriever]\nmodel = "{peer / "model"}"\n{lora}')
    record = run(path, limit=2)
    assert {score.stage for score in record.scores} == {"retrieval", "generation"}
    assert record.counts.missing_run == 0
    with pytest.raises(UserError, match="names no backbone for profile sample"):
        Setup.of(name, "sample", Silent())


# --- a package of somebody else's -----------------------------------------------------------------


def test_one_class_and_one_card_in_a_package_are_a_system(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "data" / "plugin")
    registry._folders.cache_clear()
    try:
        assert "title-match" in system_names()
        record = run("title-match")
    finally:
        registry._folders.cache_clear()
    assert {score.stage for score in record.scores} == {"retrieval", "generation"}
    task = load_task("qrecc", "sample", progress=Silent())
    ranked = read_run(evaluate.outputs(record)["run.trec"])
    for turn in turns(4):
        asked = {w for w in " ".join(turn.asked("session")).lower().split() if len(w) > 3}
        best, score = ranked[turn.turn_id][0]
        assert score == len(asked & set(task.corpus[best].contents.lower().split())) > 0
