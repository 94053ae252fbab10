"""The shipped sample: as generated, as large and as hard as it says."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from uniconv_bench.tasks.sample import generate
from uniconv_bench.tasks.sample.library import write_library
from uniconv_bench.tasks.sample.world import World, read_world

from uniconv_bench.conversation import Turn
from uniconv_bench.errors import UserError
from uniconv_bench.index import Bm25Index
from uniconv_bench.metrics import reference_scores
from uniconv_bench.progress import Silent
from uniconv_bench.task import Task, load_task

TASKS = ("faithdial", "inscit", "orquac", "qrecc", "topiocqa")
FOLDER = Path(generate.__file__).parent


@cache
def sample(task: str) -> Task:
    return load_task(task, "sample", progress=Silent())


@cache
def world(task: str) -> World:
    return read_world(FOLDER / "worlds" / f"{task}.toml")


def raw(task: str, name: str) -> Any:
    return json.loads((FOLDER / task / name).read_text(encoding="utf-8"))


def lines(task: str, name: str) -> list[Any]:
    text = (FOLDER / task / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def by_conversation(turns: list[Turn]) -> list[list[Turn]]:
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        found.setdefault(turn.conversation_id, []).append(turn)
    return list(found.values())


# ------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("task", TASKS)
def test_regeneration_gives_the_committed_bytes(task: str) -> None:
    files = generate.generate(task)
    folder = FOLDER / task
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == set(files)
    for name, text in files.items():
        same = (folder / name).read_bytes() == text.encode()
        assert same, f"{task}/{name}: run python -m uniconv_bench.tasks.sample.generate {task}"


def test_the_sample_is_small() -> None:
    size = sum(p.stat().st_size for t in TASKS for p in (FOLDER / t).rglob("*") if p.is_file())
    assert size < 3_000_000


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'qrecc'"):
        generate.generate("qrec")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('noun = "lighthouse"', 'noun = "lighthouse"\ncolour = "red"', "colour"),
        ("{engineer}, who saw", "{enginer}, who saw", "enginer"),
        ('switch = "engineer"', 'switch = "built"', "field switch"),
        ('near = "keeper"', 'near = "keepers"', "facet ids"),
        ('{ kind = "engineer" }', '{ kind = "enginer" }', "slot engineer"),
        ('"Harrow Pool Light", ', "", "12 names"),
    ],
)
def test_a_broken_world_is_refused(old: str, new: str, told: str, tmp_path: Path) -> None:
    text = (FOLDER / "worlds" / "topiocqa.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "topiocqa.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=told) as caught:
        read_world(path)
    assert "topiocqa.toml" in str(caught.value)


# ------------------------------------------------------------------------------------ size


@pytest.mark.parametrize("task", TASKS)
def test_size(task: str) -> None:
    counts = sample(task).counts
    test = counts["splits"][sample(task).card.test_split]
    assert counts["splits"]["train"]["conversations"] >= 64
    assert test["conversations"] >= 22
    assert 70 <= test["turns"] <= 90
    assert counts["passages"] >= 420


@pytest.mark.parametrize("task", TASKS)
def test_every_passage_says_something_of_its_own(task: str) -> None:
    found = list(sample(task).corpus)
    assert len({p.contents for p in found}) == len(found)
    assert all(not re.search(r"[{}|]", p.contents) for p in found)
    words = [len(p.text.split()) for p in found if not p.passage_id.endswith(":0")]
    assert min(words) >= 30 and max(words) <= 70


@pytest.mark.parametrize("task", TASKS)
def test_no_template_shows_through(task: str) -> None:
    for split in ("train", sample(task).card.test_split):
        for turn in sample(task).turns(split):
            for text in (turn.query, turn.rewrite or "", *turn.references):
                assert not re.search(r"[{}|]|  ", text), text


# -------------------------------------------------------------------------- planted difficulties


@pytest.mark.parametrize("task", TASKS)
def test_test_topics_are_never_trained_on(task: str) -> None:
    train, test = (sample(task).turns(s) for s in ("train", sample(task).card.test_split))
    assert not {p for t in train for p in t.gold} & {p for t in test for p in t.gold}
    entities = world(task).entities.values()
    said = " ".join(f"{t.query} {' '.join(t.references)}" for t in test)
    # Whole names only: "Slow Ferry" of the test side is no mention of "Slow Ferries".
    trained = [e.name for e in entities if not e.held_out and f"{e.name} " in said]
    assert trained == []


@pytest.mark.parametrize("task", TASKS)
def test_no_passage_answers_two_turns_of_a_conversation(task: str) -> None:
    for split in ("train", sample(task).card.test_split):
        for turns in by_conversation(sample(task).turns(split)):
            gold = Counter(p for t in turns if t.kind == "answer" for p in t.gold)
            assert all(count == 1 for count in gold.values()), turns[0].conversation_id


@pytest.mark.parametrize("task", TASKS)
def test_later_questions_lean_on_the_history(task: str) -> None:
    names = [e.name.lower() for e in world(task).entities.values()]
    later = [t for t in sample(task).turns() if t.number > 1]
    leaning = [t for t in later if not any(n in t.query.lower() for n in names)]
    assert len(leaning) > 0.75 * len(later)
    assert len(leaning) < len(later) or task == "faithdial"


@pytest.mark.parametrize("task", TASKS)
def test_near_duplicates_lie_in_wait(task: str) -> None:
    """A copy restates a passage in other words, and neither is ever asked about."""
    library = write_library(world(task))
    copies = [d for d in library.documents if d.copy]
    assert len(copies) == 20 and len(library.blocked) == 20
    text_of = {p.text: p.passage_id for p in sample(task).corpus}
    gold = {p for s in ("train", "test") for t in turns_of(task, s) for p in t.gold}
    for copy in copies:
        original = library.facets[copy.entity.name, copy.facet.id]
        assert copy.text != original.text
        assert text_of[copy.text] not in gold and text_of[original.text] not in gold


def turns_of(task: str, side: str) -> list[Turn]:
    return sample(task).turns(side if side == "train" else None)


@pytest.mark.parametrize("task", TASKS)
def test_deceptive_pairs_differ_in_names_and_values_only(task: str) -> None:
    library = write_library(world(task))
    across = 0
    for kind in world(task).kinds:
        for pair in kind.pairs:
            one, other = (world(task).entities[name] for name in pair)
            across += one.held_out != other.held_out
            for facet in kind.facets:
                text, twin = (library.facets[name, facet.id].text for name in pair)
                template = next(t for t in facet.passages if one.fill(t) == text)
                assert twin == other.fill(template)
    assert across >= 5


@pytest.mark.parametrize("task", ["topiocqa", "orquac", "inscit", "qrecc"])
def test_identical_responses_recur(task: str) -> None:
    first = Counter(t.references[0] for t in sample(task).turns("train") if t.references)
    assert first.most_common(1)[0][1] >= 3


def test_topiocqa_switches_topics_and_returns() -> None:
    turns = sample("topiocqa").turns()
    assert {t.topic for t in turns} <= {e.name for e in world("topiocqa").entities.values()}
    paths = [[t.topic for t in c] for c in by_conversation(turns)]
    switches = [a != b for path in paths for a, b in zip(path, path[1:], strict=False)]
    assert 0.3 < sum(switches) / len(switches) < 0.8
    returns = [p for p in paths if any(p[i] == p[0] != p[i - 1] for i in range(2, len(p)))]
    assert len(returns) >= 2


def test_topiocqa_unanswerable_turns() -> None:
    for split in ("train", "dev"):
        turns = sample("topiocqa").turns(split)
        unanswerable = [t for t in turns if t.kind == "unanswerable"]
        assert 0.05 < len(unanswerable) / len(turns) < 0.12
        assert all(t.gold and set(t.references) == {"UNANSWERABLE"} for t in unanswerable)
    assert sum(len(t.references) > 1 for t in sample("topiocqa").turns("dev")) > 40
    assert all(len(t.references) == 1 for t in sample("topiocqa").turns("train"))


def test_qrecc_traps() -> None:
    rows = raw("qrecc", "scai-qrecc21-test-turns.json")
    turns = sample("qrecc").turns()
    assert 0.1 < sum(not r["Truth_passages"] for r in rows) / len(rows) < 0.22
    assert 1 <= sum(not r["Truth_answer"] for r in rows) <= 10
    first = [r for r in rows if r["Turn_no"] == 1]
    assert 5 <= sum(r["Question"] != r["Truth_rewrite"] for r in first) < len(first)
    asked = {(r["Conversation_no"], r["Turn_no"]): r for r in rows}
    rewritten = [
        asked[r["Conversation_no"], 2]["Truth_rewrite"]
        == r["Context"][2]
        != asked[r["Conversation_no"], 2]["Question"]
        for r in rows
        if r["Turn_no"] == 3
    ]
    assert sum(rewritten) > 0.6 * len(rewritten)
    assert all(t.rewrite for t in turns)
    pattern = r"(http://web\.archive\.org/web/\d{14}id_/)?https://[a-z.-]+\.example/[a-z-]+_p\d+"
    assert all(re.fullmatch(pattern, name) for name in sample("qrecc").corpus.ids)


def test_orquac_traps() -> None:
    rows = lines("orquac", "preprocessed/test.txt")
    first = [r for r in rows if r["qid"].endswith("#0")]
    assert 5 <= sum(r["question"] != r["rewrite"] for r in first) < len(first)
    assert any(sum(r["retrieval_labels"]) == 0 for r in rows)
    assert all(sum(r["retrieval_labels"]) == 1 for r in lines("orquac", "preprocessed/train.txt"))
    unanswerable = [r for r in rows if r["answer"]["text"] == "CANNOTANSWER"]
    assert 4 <= len(unanswerable) <= 12
    several = [len(refs) for refs in sample("orquac").references().values()]
    assert sum(n > 1 for n in several) > 0.8 * len(several)


def test_orquac_dialogues_stay_with_their_article() -> None:
    for split in ("train", "test"):
        for turns in by_conversation(sample("orquac").turns(split)):
            assert len({p.partition("@")[0] for t in turns for p in t.gold}) == 1


def test_orquac_answers_are_spans_of_the_gold_passage() -> None:
    text = {row["id"]: row["text"] for row in lines("orquac", "all_blocks.txt")}
    qrels = raw("orquac", "qrels.txt")
    for paragraph in (a["paragraphs"][0] for a in raw("orquac", "quac_format/test.txt")["data"]):
        for question in paragraph["qas"]:
            (gold,) = qrels[question["id"]]
            for answer in question["answers"]:
                context = f"{text[gold]} CANNOTANSWER"
                start = answer["answer_start"]
                assert context[start : start + len(answer["text"])] == answer["text"]


def test_inscit_traps() -> None:
    turns = sample("inscit").turns()
    kinds = Counter(t.kind for t in turns)
    assert all(kinds[k] >= n for k, n in {"clarification": 4, "no_direct_answer": 1}.items())
    assert kinds["no_direct_answer"] + kinds["unanswerable"] >= 4
    two = sum(len(t.references) == 2 for t in turns)
    assert 0.4 < two / len(turns) < 0.9
    assert sum(" " in name for name in sample("inscit").corpus.ids) > 400
    assert any(not t.gold for t in turns) and any(len(t.gold) > 1 for t in turns)
    after = [b for a, b in zip(turns, turns[1:], strict=False) if a.kind == "clarification"]
    assert all(len(t.query.split()) <= 6 and t.history[-1].role == "assistant" for t in after)


def test_faithdial_traps() -> None:
    dialogues = raw("faithdial", "test.json")
    utterances = [u for d in dialogues for u in d["utterances"]]
    originals = [u["original_response"] for u in utterances]
    assert None in originals and "" in originals
    assert sum(bool(o) for o in originals) > 0.6 * len(originals)
    assert all(u["original_response"] != u["response"] for u in utterances)
    assert all(bool(u["BEGIN"]) == bool(u["original_response"]) for u in utterances)
    openings = Counter(len(d["utterances"][0]["history"]) for d in dialogues)
    assert set(openings) == {1, 2} and min(openings.values()) >= 4


# -------------------------------------------------------------------------------------- BM25


def bm25(task: Task, queries: dict[str, str]) -> float:
    """Mean ndcg@3 over the given turns."""
    index = Bm25Index(task.corpus, task.card.bm25)
    run = {turn_id: index.search(query, 10) for turn_id, query in queries.items()}
    qrels = {turn_id: task.qrels()[turn_id] for turn_id in queries}
    scores = reference_scores(qrels, run, ["ndcg@3"])["ndcg@3"]
    return sum(scores.values()) / len(scores)


def later(task: Task) -> list[Turn]:
    return [t for t in task.turns() if t.number > 1 and t.gold and t.kind == "answer"]


@pytest.mark.parametrize("task", TASKS)
def test_the_last_question_alone_does_badly(task: str) -> None:
    data = sample(task)
    assert bm25(data, {t.turn_id: t.query for t in later(data)}) < 0.25
    # It is the missing history: first questions, which need none, do well by the same means.
    first = [t for t in data.turns() if t.number == 1 and t.gold and t.kind == "answer"]
    assert bm25(data, {t.turn_id: t.query for t in first}) > 0.35


@pytest.mark.parametrize("task", ["qrecc", "orquac"])
def test_the_rewrite_does_well(task: str) -> None:
    data = sample(task)
    alone = bm25(data, {t.turn_id: t.query for t in later(data)})
    assert bm25(data, {t.turn_id: t.rewrite or "" for t in later(data)}) - alone > 0.35
