"""Planned conversations -> raw files as TopiOCQA, QReCC and FaithDial release them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from itertools import groupby
from random import Random
from typing import Any

from uniconv_bench.tasks.sample.library import Document, Library
from uniconv_bench.tasks.sample.plan import Exchange, Planner, Style
from uniconv_bench.tasks.sample.world import World

Plans = dict[str, list[list[Exchange]]]
"""Split -> conversations."""
Files = dict[str, str]
"""Path below the task's raw folder -> contents."""


def array(rows: Iterable[Any]) -> str:
    """A JSON array, a row a line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def lines(rows: Iterable[Any]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# ------------------------------------------------------------------------------------- TopiOCQA


def topiocqa(world: World, library: Library, plans: Plans) -> Files:
    """JSON lines with gold passages, additional answers in dev, and the segmented corpus."""
    ids = {document: number for number, document in enumerate(library.documents, 1)}
    buffer = io.StringIO()
    table = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    table.writerow(["id", "text", "title"])
    table.writerows([ids[d], d.text, _page(d)] for d in library.documents)
    files = {"full_wiki_segments.tsv": buffer.getvalue()}
    for split, name in (("train", "topiocqa_train.jsonl"), ("test", "topiocqa_valid.jsonl")):
        rng = Random(f"topiocqa/{split}/raw")
        rows = []
        for number, said in enumerate(plans[split], 1):
            context: list[str] = []
            is_nq = rng.random() < 0.5
            for turn, exchange in enumerate(said, 1):
                answers = exchange.answers or ("UNANSWERABLE",)
                question = exchange.question
                if is_nq and turn == 1:
                    # Natural Questions are typed into a search box.
                    question = question.lower().rstrip("?")
                (gold,) = exchange.documents
                labels = {"Topic": exchange.entity.name, "Topic_section": exchange.facet.section}
                row = {
                    "Conversation_no": number,
                    "Turn_no": turn,
                    "Question": question,
                    "Answer": answers[0],
                    "Rationale": gold.text if exchange.answers else "",
                    "Context": list(context),
                    **labels,
                    "is_nq": is_nq and turn == 1,
                    "Gold_passage": {
                        "id": f"wiki:{ids[gold]}",
                        "title": _page(gold),
                        "text": gold.text,
                    },
                }
                if split == "test":
                    row["Additional_answers"] = [
                        {"Answer": answer, **labels, "Rationale": row["Rationale"]}
                        for answer in answers[1:] or answers
                    ]
                rows.append(row)
                context += [question, answers[0]]
        files[name] = lines(rows)
    return files


def _page(document: Document) -> str:
    return f"{document.entity.name} [SEP] {document.facet.section}"


# ---------------------------------------------------------------------------------------- QReCC

SITES = ("almanac", "gazette", "companion", "society", "review")


def qrecc(world: World, library: Library, plans: Plans) -> Files:
    """SCAI's turns, whose Context is rewritten, and a crawl whose passage ids are URLs."""
    kinds = [kind.name for kind in world.kinds]

    def page(document: Document) -> str:
        kind = document.entity.kind
        site = SITES[kinds.index(kind.name)]
        return f"https://{_slug(kind.noun)}-{site}.example/{_slug(document.entity.name)}"

    def name(document: Document) -> str:
        crawl = "http://web.archive.org/web/20190901000000id_/"
        live = document.copy or document.entity.kind.name == kinds[-1]
        return f"{'' if live else crawl}{page(document)}_p{document.number}"

    files = {}
    for folder, archived in (("wayback", True), ("commoncrawl", False)):
        files[f"{folder}/part-0.jsonl"] = lines(
            {"id": name(d), "contents": d.text}
            for d in library.documents
            if name(d).startswith("http://web.archive.org") is archived
        )
    for split, stem in (("train", "training"), ("test", "test")):
        rng = Random(f"qrecc/{split}/raw")
        rows: list[dict[str, Any]] = []
        for number, said in enumerate(plans[split], 1):
            context: list[str] = []
            source = rng.choice(("quac", "quac", "nq", "trec"))
            for turn, exchange in enumerate(said, 1):
                answer = exchange.answers[0] if exchange.answers else ""
                # The heuristic judgements of short answers were taken back.
                judged = len(answer.split()) > 5 and rng.random() > 0.02
                leans = turn == 1 and source == "quac"
                rows.append(
                    {
                        "Conversation_no": number,
                        "Turn_no": turn,
                        "Question": exchange.leaning if leans else exchange.question,
                        "Context": list(context),
                        "Truth_rewrite": exchange.rewrite,
                        "Truth_answer": answer,
                        "Truth_passages": [name(d) for d in exchange.documents] if judged else [],
                        "Answer_URL": page(exchange.documents[0]),
                        "Conversation_source": source,
                    }
                )
                context += [exchange.rewrite, answer]
        files[f"scai-qrecc21-{stem}-turns.json"] = array(rows)
    return files


# ------------------------------------------------------------------------------------- FaithDial

GREETINGS = (
    "Hello there! What shall we talk about today?",
    "Hi! Is there anything you would like to know?",
    "Good to meet you! I like reading about almost everything. And you?",
    "Hello! Ask me anything, and I will tell you what I have read.",
)
UNSURE = (
    "I'm not sure about that, sorry!",
    "I couldn't tell you, I'm afraid.",
    "I don't know about that, to be honest.",
)


def faithdial(world: World, library: Library, plans: Plans) -> Files:
    """Dialogues whose knowledge strings are the only passages; `valid` speaks of all the rest."""
    told = {d for said in (*plans["train"], *plans["test"]) for e in said for d in e.documents}
    rest = sorted(
        (d for d in library.documents if d not in told),
        key=lambda d: (d.copy, d.entity.name, d.number),
    )
    planner = Planner(world, library, Style(), "valid")
    valid = []
    for _, group in groupby(rest, key=lambda d: (d.copy, d.entity.name)):
        documents = list(group)
        valid += [planner.cover(documents[i : i + 4]) for i in range(0, len(documents), 4)]
    plans = {**plans, "valid": valid}
    return {f"{split}.json": array(_dialogues(plans[split], split)) for split in plans}


def _dialogues(conversations: list[list[Exchange]], split: str) -> list[dict[str, Any]]:
    rng = Random(f"faithdial/{split}/raw")
    dialogues = []
    for said in conversations:
        history = [rng.choice(GREETINGS)] if rng.random() < 0.4 else []
        utterances = []
        for exchange in said:
            history.append(exchange.question)
            response, original, labels = _response(exchange, rng)
            utterances.append(
                {
                    "history": list(history),
                    "speaker": "Wizard",
                    "knowledge": exchange.documents[0].text,
                    "original_response": original,
                    "response": response,
                    **labels,
                }
            )
            history.append(response)
        dialogues.append({"utterances": utterances})
    return dialogues


def _response(exchange: Exchange, rng: Random) -> tuple[str, str | None, dict[str, list[str]]]:
    """Response, the unfaithful original (or null, or empty), and the labels of both."""
    entity, facet = exchange.entity, exchange.facet
    answer = exchange.answers[0] if exchange.answers else entity.fill(rng.choice(facet.answers))
    strategies = ["Edification"]
    if not exchange.answers:
        answer = f"{rng.choice(UNSURE)} {answer}"
        strategies = ["Disclosure", "Edification"]
    if rng.random() < 0.2:
        kept = rng.choice((None, ""))
        return answer, kept, {"BEGIN": [], "VRM": []}
    original = entity.fill(rng.choice(facet.hallucinated))
    fault = rng.choice((["Hallucination"], ["Partial Hallucination"], ["Hallucination", "Generic"]))
    return answer, original, {"BEGIN": fault, "VRM": strategies}
