"""The pipeline on a tiny random backbone: stages, cache, resume, provenance, third parties."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import evaluate, evaluation, files, stages
from uniconv_bench.assembly import Setup
from uniconv_bench.errors import UserError
from uniconv_bench.estimate import estimate
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.files import digest_of, digest_of_file, read_jsonl
from uniconv_bench.progress import Bars, Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.records import ResultRecord, read_record
from uniconv_bench.registry import task_card
from uniconv_bench.runs import read_answers, read_run
from uniconv_bench.system import Answer, Context
from uniconv_bench.system_cards import Inference
from uniconv_bench.task import Task
from uniconv_bench.training_cards import ByProfile
from uniconv_bench.uniconv import parts
from uniconv_bench.uniconv.backbone import Backbone

CARD = """
name = "tiny"
title = "Tiny"
description = "A random backbone, for tests."
backbone = { sample = "random-tiny" }
retriever = { kind = "bm25", query = "session" }
generator = { kind = "llm" }
inference = { top_k = 1, session_tokens = 200, passage_tokens = 100 }
"""
LLM = 'kind = "llm", adapter = "a"'
ADAPTER = """
[adapters.a]
tasks = ["qrecc"]
batch_size = 4
max_steps = 2
dtype = "float32"
hard_negatives = 0
lora = { r = 2 }
losses = { retrieval = 0.0, generation = 1.0, cii = 0.0 }
"""
CUSTOM = """
name = "parrot"
title = "Parrot"
description = "Somebody else's code beside the card."
retriever = { kind = "parrot:First", settings = { count = 2 } }
generator = { kind = "parrot:Echo" }
"""
CODE = """
from uniconv_bench.system import Answer, Context
from uniconv_bench.system_cards import Inference
from uniconv_bench.task import Task
from uniconv_bench.training_cards import ByProfile
from uniconv_bench.uniconv import parts
from uniconv_bench.uniconv.backbone import Backbone

class First:
    def __init__(self, settings, context):
        self.count = settings["count"]
    def fingerprint(self):
        return {"count": self.count}
    def retrieve(self, turns, corpus, depth, progress):
        for turn in turns:
            yield turn.turn_id, [(corpus.ids[i], float(-i)) for i in range(self.count)]

class Echo:
    def __init__(self, settings, context):
        pass
    def fingerprint(self):
        return {}
    def generate(self, turns, evidence, progress):
        for turn in reversed(turns):
            yield Answer(turn.turn_id, evidence[turn.turn_id][0].text)
"""


@pytest.fixture
def card(tmp_path: Path, private_cache: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(CARD)
    return str(path)


def run(system: str, **options: Any) -> Any:
    defaults: dict[str, Any] = {"limit": 4, "results": None, "progress": Silent()}
    return evaluate.run("qrecc", system, "sample", **(defaults | options))


def expected(system: str, **options: Any) -> dict[str, float]:
    return estimate("qrecc", system, "sample", 4, progress=Silent(), **options)


def test_a_record_says_what_was_run(card: str, tmp_path: Path) -> None:
    record, path = run(card, results=tmp_path / "results")
    assert record == read_record(path)
    assert not (tmp_path / "results").exists()  # a limited run is no result
    assert (record.task.name, record.task.profile, record.task.split) == ("qrecc", "sample", "test")
    assert record.system.backbone == "random-tiny"
    assert record.limit == record.counts.turns == 4
    assert {s.metric for s in record.scores} == {"ndcg@3", "recall@10", "mrr", "f1"}
    assert set(record.provenance.seconds) == {"retrieval", "answers", "scores"}
    found = evaluate.outputs(record)
    assert digest_of_file(found["run.trec"]) == record.digests.run
    assert len(read_answers(found["answers.jsonl"])) == 4


def test_what_is_judged_and_missing_counts(card: str) -> None:
    of = Evaluation.of("qrecc", card, "sample", 4, Silent())
    one, other, *_ = (turn for turn in of.turns if turn.gold and turn.references)
    found = {one.turn_id: [(one.gold[0], 1.0)]}
    said = {one.turn_id: Answer(one.turn_id, one.references[0])}
    scores = stages.measured(of, ["ndcg@3", "f1"], [one, other], found, said)
    assert set(scores["f1"]) == {one.turn_id, other.turn_id}
    assert scores["f1"][other.turn_id] == scores["ndcg@3"][other.turn_id] == 0.0
    assert scores["f1"][one.turn_id] == 1.0 and scores["ndcg@3"][one.turn_id] > 0.0


def test_the_session_mask_of_the_card_is_that_of_the_prompts(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, prompt = [], PromptFormat.prompt

    def noted(self: Any, turn: Any, passages: Any, mask: Any = "none") -> Any:
        masks.append(mask)
        return prompt(self, turn, passages, mask)

    monkeypatch.setattr(PromptFormat, "prompt", noted)
    path = tmp_path / "masked.toml"
    path.write_text(CARD.replace('kind = "llm"', 'kind = "llm", session_mask = "strict"'))
    evaluate.generate("qrecc", str(path), "sample", limit=1, progress=Silent())
    assert set(masks) == {"strict"}


CHANGES: dict[str, tuple[str, str]] = {
    "session_tokens": ("session_tokens = 90", "retrieval answers"),
    "passage_tokens": ("passage_tokens = 50", "embeddings retrieval answers"),
    "instruction": ('instruction = "Say."', "retrieval answers"),
    "depth": ("depth = 7", "retrieval"),
    "top_k": ("top_k = 2", "answers"),
    "dtype": ('dtype = "bfloat16"', "embeddings retrieval answers"),
    "lora": ('lora = "beside"', "embeddings retrieval answers"),
    "encode_batch_tokens": ("encode_batch_tokens = 99", "embeddings retrieval"),
    "embedding_dtype": ('embedding_dtype = "float16"', "embeddings retrieval"),
    "index": ('index = "Flat"', "retrieval"),
    "index_search": ('index = "HNSW8", index_search = "efSearch=9"', "retrieval"),
    "decode_batch_size": ("decode_batch_size = 3", "answers"),
    "query": ('query = "query"', "retrieval"),
    "session_mask": ('session_mask = "strict"', "answers"),
    "temperature": ("temperature = 0.5", "answers"),
    "stop": ('stop = ["."]', "answers"),
    "seed": ("temperature = 0.5, seed = 9", "answers"),
    "top_p": ("temperature = 0.5, top_p = 0.5", "answers"),
}
"""Field of a card -> how it is changed, and what must then be made anew."""


@pytest.mark.parametrize("field", CHANGES)
def test_what_a_stage_depends_on_is_in_its_name(
    field: str, tmp_path: Path, private_cache: Path
) -> None:
    def folders(parts: tuple[str, str, str]) -> dict[str, Path]:
        retriever, generator, inference = parts
        path, run_file = tmp_path / "card.toml", tmp_path / "run.trec"
        run_file.write_text("")
        path.write_text(
            'name = "tiny"\ntitle = "Tiny"\ndescription = "For tests."\n'
            'backbone = { sample = "random-tiny" }\n'
            f"retriever = {{ {retriever} }}\ngenerator = {{ {generator} }}\n"
            f"inference = {{ {inference} }}\n"
        )
        of = Evaluation.of("qrecc", str(path), "sample", 4, Silent())
        return {
            "embeddings": of.encoding.embeddings(of.task.corpus)[0],
            "retrieval": of.retrieval[0],
            "answers": of.answering(run_file)[0],
        }

    change, anew = CHANGES[field]
    base = ['kind = "dense"', 'kind = "llm"', "depth = 100"]
    if field == "index_search":
        base[2] = 'depth = 100, index = "HNSW8"'
    if field in ("seed", "top_p"):
        base[1] = 'kind = "llm", temperature = 0.5'
    place = 0 if field == "query" else 2 if field in Inference.model_fields else 1
    changed = list(base)
    kept = {0: 'kind = "dense", ', 1: 'kind = "llm", ', 2: ""}[place]
    changed[place] = kept + change
    before, after = folders(tuple(base)), folders(tuple(changed))
    differ = {name for name in before if before[name] != after[name]}
    assert differ >= set(anew.split()), differ


def test_what_a_decoder_depends_on_is_in_its_fingerprint(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / parts.WEIGHTS
    weights.write_bytes(b"one")
    context = Context(task_card("qrecc")[0], "random-tiny", Inference(), {"a": tmp_path})

    def now() -> str:
        return digest_of(parts.Decoder("a", context).fingerprint())

    seen = [now()]
    weights.write_bytes(b"other")
    seen.append(now())
    for name, other in (("ATTENTION", "eager"), ("digest_of_code", lambda *modules: "changed")):
        monkeypatch.setattr(parts, name, other)
        seen.append(now())
    monkeypatch.setattr(Backbone, "revision", property(lambda self: "another"))
    seen.append(now())
    assert len(set(seen)) == 5


def test_every_field_of_inference_is_among_those_that_are_changed() -> None:
    assert set(Inference.model_fields) - set(ByProfile.model_fields) <= set(CHANGES)


def test_artefacts_are_named_by_data_limit_run_and_adapter(card: str, tmp_path: Path) -> None:
    of = Evaluation.of("qrecc", card, "sample", 4, Silent())
    more = Evaluation.of("qrecc", card, "sample", 5, Silent())
    elsewhere = Evaluation.of("topiocqa", card, "sample", 4, Silent())
    assert len({one.retrieval[0] for one in (of, more, elsewhere)}) == 3
    first, second = tmp_path / "a.trec", tmp_path / "b.trec"
    first.write_text("a")
    second.write_text("b")
    assert of.answering(first)[0] != of.answering(second)[0]
    assert of.scoring(first, None)[0] != of.scoring(second, None)[0]
    assert of.scoring(None, first)[0] != of.scoring(None, second)[0]


@pytest.mark.parametrize(("where", "name"), [(evaluation, "digest_of_code"), (Task, "digest")])
def test_artefacts_are_named_by_code_and_data(
    where: Any, name: str, card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By contents: of a task of the same name with other turns nothing is taken."""
    scored = tmp_path / "a.trec"
    scored.write_text("a")

    def folders() -> list[Path]:
        of = Evaluation.of("qrecc", card, "sample", 4, Silent())
        return [of.retrieval[0], of.scoring(scored, None)[0]]

    before = folders()
    other = (lambda *modules: "other") if where is evaluation else property(lambda self: "other")
    monkeypatch.setattr(where, name, other)
    assert not set(before) & set(folders())


def test_embeddings_are_named_by_the_passages(card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(card).write_text(CARD.replace('kind = "bm25", query = "session"', 'kind = "dense"'))
    of = Evaluation.of("qrecc", card, "sample", 4, Silent())
    corpus = of.task.corpus
    before = of.encoding.embeddings(corpus)[0]
    monkeypatch.setattr(corpus, "digest", "other")
    assert of.encoding.embeddings(corpus)[0] != before


def test_equal_runs_give_equal_files_and_the_second_does_nothing(
    card: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, path = run(card)

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("worked although everything is cached")

    with monkeypatch.context() as patch:
        patch.setattr("uniconv_bench.uniconv.parts.load_decoder", forbidden)
        patch.setattr("uniconv_bench.index.Bm25Index.__init__", forbidden)
        patch.setattr("uniconv_bench.metrics.score_run", forbidden)
        assert run(card) == (first, path)
        assert not any(expected(card).values())
    monkeypatch.setenv("UNICONV_BENCH_CACHE", str(tmp_path / "elsewhere"))
    assert any(expected(card).values())
    again, _ = run(card)
    assert again.digests == first.digests
    assert again.scores == first.scores


def test_a_changed_setting_redoes_only_what_depends_on_it(card: str) -> None:
    first, _ = run(card)
    Path(card).write_text(CARD.replace("top_k = 1", "top_k = 2"))
    second, _ = run(card)
    assert second.digests.run == first.digests.run
    assert len(list((files.cache_dir() / "retrieval").iterdir())) == 1
    assert len(list((files.cache_dir() / "answers").iterdir())) == 2


def test_answers_go_on_where_a_stopped_run_was(
    card: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path(card).write_text(CARD.replace("top_k = 1", "top_k = 1, decode_batch_size = 2"))
    whole, _ = run(card)
    monkeypatch.setenv("UNICONV_BENCH_CACHE", str(tmp_path / "stopped"))
    asked: list[int] = []
    from uniconv_bench.uniconv.parts import LlmGenerator

    generate = LlmGenerator.generate

    def stops(self: Any, turns: Any, evidence: Any, progress: Any) -> Iterator[Answer]:
        asked.append(len(turns))
        for count, answer in enumerate(generate(self, turns, evidence, progress)):
            if len(asked) == 1 and count == 3:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(LlmGenerator, "generate", stops)
    with pytest.raises(KeyboardInterrupt):
        run(card)
    (partial,) = (tmp_path / "stopped" / "answers").glob("*.partial/answers.partial")
    with partial.open("a") as stream:
        stream.write('{"turn_id": "torn')  # as a killed process may leave it
    resumed, _ = run(card)
    assert asked == [4, 2]  # of the second batch one answer was there: it is made anew, whole
    assert resumed.digests == whole.digests


def test_a_changed_cache_file_is_refused_by_name(card: str) -> None:
    record, _ = run(card)
    path = evaluate.outputs(record)["run.trec"]
    path.write_text(path.read_text().replace("\t1\t", "\t2\t", 1))
    with pytest.raises(UserError, match=r"corrupted cache file.*run\.trec.*delete the folder"):
        run(card)


def test_code_beside_a_card_is_a_system(tmp_path: Path, private_cache: Path) -> None:
    (tmp_path / "parrot.toml").write_text(CUSTOM)
    (tmp_path / "parrot.py").write_text(CODE)
    record, _ = run(str(tmp_path / "parrot.toml"))
    assert record.system.backbone is None
    found = evaluate.outputs(record)
    assert {len(r) for r in read_run(found["run.trec"]).values()} == {2}
    ids = [row["turn_id"] for _, row in read_jsonl(found["answers.jsonl"])]
    assert ids == sorted(ids, key=[t.turn_id for t in _turns()].index)  # in the task's order


def test_a_retriever_that_invents_a_passage_is_refused(tmp_path: Path, private_cache: Path) -> None:
    (tmp_path / "parrot.toml").write_text(CUSTOM)
    (tmp_path / "parrot.py").write_text(CODE.replace("(corpus.ids[i], ", '(f"none{i}", '))
    with pytest.raises(UserError, match="none0"):
        run(str(tmp_path / "parrot.toml"))


def test_no_passages_has_no_retrieval_score(tmp_path: Path, private_cache: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(CARD.replace('{ kind = "bm25", query = "session" }', '{ kind = "none" }'))
    record, _ = run(str(path))
    assert [s.metric for s in record.scores] == ["f1"]
    assert record.digests.run is None


def test_gold_passages_score_one(tmp_path: Path, private_cache: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(CARD.replace('{ kind = "bm25", query = "session" }', '{ kind = "gold" }'))
    record, _ = run(str(path))
    assert {s.mean for s in record.scores if s.stage == "retrieval"} == {1.0}


def test_a_limit_below_one_and_a_missing_backbone_are_refused(card: str) -> None:
    with pytest.raises(UserError, match="--limit 0"):
        run(card, limit=0)
    with pytest.raises(UserError, match="no backbone for profile full"):
        evaluate.run("qrecc", card, "full", results=None, progress=Silent())


@pytest.mark.parametrize(("limit", "left"), [(80, 80), (81, None), (10**20, None)])
def test_a_limit_that_leaves_no_turn_out_is_none(
    card: str, limit: int, left: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Evaluation.of("qrecc", card, "sample", limit, Bars())
    assert (found.limit, len(found.turns)) == (left, left or 81)
    assert ("no limit" in capsys.readouterr().err) is (left is None)


def test_an_adapter_is_trained_once_and_found_again(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(CARD.replace('kind = "llm"', LLM) + ADAPTER)
    (folder,) = evaluate.train(str(path), "sample", progress=Silent()).values()
    report = json.loads((folder / "training.json").read_text())
    assert report["steps"] == 2
    assert evaluate.train(str(path), "sample", progress=Silent())["a"] == folder
    with monkeypatch.context() as patch:
        patch.setattr(
            "uniconv_bench.uniconv.training.train_adapter",
            lambda *args, **options: (_ for _ in ()).throw(InterruptedError),
        )
        with pytest.raises(InterruptedError):
            evaluate.train(str(path), "sample", retrain=set(), progress=Silent())
    record, _ = run(str(path))
    assert record.system.adapters == {"a": digest_of_file(folder / "adapter_model.safetensors")}
    assert "train a" in record.provenance.seconds


def test_systems_that_share_an_adapter_retrain_it_once(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench.uniconv import training

    trained: list[str] = []

    def counted(name: str, *args: Any, **options: Any) -> Any:
        trained.append(name)
        return train_adapter(name, *args, **options)

    train_adapter = training.train_adapter
    monkeypatch.setattr(training, "train_adapter", counted)
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        (tmp_path / f"{name}.toml").write_text(
            CARD.replace('"tiny"', f'"{name}"', 1).replace('kind = "llm"', LLM)
            + ADAPTER
            + f"seed = {seed}\n"
        )
    done: set[str] = set()
    for name in ("one", "two", "three"):
        path = str(tmp_path / f"{name}.toml")
        assert bool(expected(path, retrain=done)["train"]) == (name != "two")
        run(path, retrain=done)
    assert trained == ["a", "a"]
    run(str(tmp_path / "two.toml"), retrain=set())
    assert trained == ["a", "a", "a"]


def test_the_folder_that_is_named_is_the_one_that_is_scored(
    card: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from uniconv_bench.progress import Bars

    raws = [tmp_path / name for name in ("one", "two")]
    for raw in raws:
        shutil.copytree(Path(__file__).parent / "data" / "raw" / "qrecc", raw)
    test = raws[1] / "scai-qrecc21-test-turns.json"
    test.write_text(json.dumps(json.loads(test.read_text())[:-1]))
    text = CARD.replace('{ sample = "random-tiny" }', '{ mini = "random-tiny" }')
    Path(card).write_text(text)

    def turns(data_dir: Path | None) -> int:
        record, _ = evaluate.run(
            "qrecc", card, "mini", data_dir=data_dir, results=None, progress=Bars()
        )
        return record.counts.turns

    # The second is prepared last, and still the first is scored where it is named.
    assert [turns(raw) for raw in (*raws, raws[0])] == [4, 3, 4]
    assert "sets of" not in capsys.readouterr().err
    assert turns(None) == 3
    told = capsys.readouterr().err
    assert "2 mini sets of QReCC are prepared; taking the last, " in told
    assert str(files.cache_dir() / "tasks" / "qrecc-mini-") in told


def _turns() -> Sequence[Any]:
    from uniconv_bench.task import load_task

    return load_task("qrecc", "sample", progress=Silent()).turns()


def test_what_is_compared_is_trained_on_the_same_turns(private_cache: Path) -> None:
    """The adapters of uniconv, its ablations and `separate`: one plan of steps."""
    from uniconv_bench.uniconv.mixture import examples, groups, supervised

    plans = {}
    for system in ("uniconv", "uniconv-no-cii", "uniconv-no-ddm", "separate"):
        setup = Setup.of(system, "sample", Silent())
        for name, training in setup.card.adapters.items():
            (task, *_) = training.tasks
            of = setup.training_tasks[task]
            data = {task: examples(of, supervised(of), training, Silent())}
            steps = groups(data, training, 0)
            plans[system, name] = [[e.turn.turn_id for e in group] for group in steps]
            assert (
                training.tasks
                == Setup.of("uniconv", "sample", Silent()).card.adapters["joint"].tasks
            )
    assert len(plans) == 5
    assert all(plan == plans["uniconv", "joint"] for plan in plans.values())


def test_shipped_adapter_fits_its_card(private_cache: Path) -> None:
    from uniconv_bench.assembly import Setup

    folder = Setup.of("uniconv", "sample", Silent()).find_adapter("joint")
    assert folder is not None, "retrain and ship: the card, the sample or the prompts changed"
    weights = folder / "adapter_model.safetensors"
    assert weights.stat().st_size < 10_000_000
    config: Mapping[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "smollm2-135m"


def test_a_record_from_before_a_field_of_the_card_is_kept(
    card: str, tmp_path: Path, private_cache: Path
) -> None:
    """The field at its default says what was said without it; another value does not."""
    from uniconv_bench.recording import kept

    record, _ = run(card)
    scores = next((private_cache / "scores").glob("*/scores.jsonl"))

    def older(**inference: Any) -> ResultRecord:
        content = record.model_dump(mode="json", exclude={"digest"})
        settings = content["system"]["settings"]
        del settings["generator"]["session_mask"], settings["inference"]["dtype"]
        settings["inference"] |= {"sources": {"depth": "ours"}, **inference}
        content["task"]["card_digest"] = "0" * 64  # of before a word was changed
        return ResultRecord.model_validate_json(json.dumps(content))

    _, path, written = kept(older(), scores, tmp_path)
    assert written
    there, _, written = kept(record, scores, tmp_path)
    assert not written and "session_mask" not in there.system.settings["generator"]
    assert kept(older(dtype="bfloat16"), scores, tmp_path)[2]
    assert read_record(path).system.settings["inference"]["dtype"] == "bfloat16"
