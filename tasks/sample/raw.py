"""Planned conversations -> the raw files of each dataset's official release, as bytes to write."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from itertools import groupby
from random import Random
from typing import Any

from uniconv_bench.tasks.sample.plan import Document, Exchange, Library, Planner, Style
from uniconv_bench.tasks.sample.world import World

Plans = dict[str, list[list[Exchange]]]
"""Split -> conversations."""
Files = dict[str, str]
"""Path below the task's raw folder -> contents."""


def _array(rows: Iterable[Any]) -> str:
    """A JSON array, a row a line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def _lines(rows: Iterable[Any]) -> str:
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
        files[name] = _lines(rows)
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
        files[f"{folder}/part-0.jsonl"] = _lines(
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
        files[f"scai-qrecc21-{stem}-turns.json"] = _array(rows)
    return files


# --------------------------------------------------------------------------------------- OR-QuAC


def orquac(world: World, library: Library, plans: Plans) -> Files:
    """Preprocessed lines, judgements of all splits, QuAC-format references, blocks."""
    articles = {name: str(100 + i) for i, name in enumerate(world.entities)}

    def name(document: Document) -> str:
        return f"{articles[document.entity.name]}@{document.number - 1}"

    blocks = _lines(
        {
            "id": name(d),
            "title": d.entity.name,
            "text": d.text,
            "aid": articles[d.entity.name],
            "bid": d.number - 1,
        }
        for d in library.documents
    )
    files, qrels = {"all_blocks.txt": blocks}, {}
    for split in ("train", "test"):
        rng = Random(f"orquac/{split}/raw")
        rows: list[dict[str, Any]] = []
        data: list[dict[str, Any]] = []
        for number, said in enumerate(plans[split], 1):
            dialogue = f"C_{split}{number:03}_{rng.randrange(2)}"
            leans = rng.random() < 0.5
            history: list[dict[str, Any]] = []
            asked: list[dict[str, Any]] = []
            for turn, exchange in enumerate(said):
                (gold,) = exchange.documents
                qid = f"{dialogue}_q#{turn}"
                qrels[qid] = {name(gold): 1}
                question = exchange.leaning if leans and turn == 0 else exchange.question
                answers = _spans(exchange, gold.text, rng)
                answer = {**answers[0], "bid": gold.number - 1}
                evidences = [gold, *_distractors(exchange, library, rng)]
                if split == "test" and rng.random() < 0.5:
                    evidences = evidences[1:]
                rng.shuffle(evidences)
                labels = {"followup": rng.choice("ymn"), "yesno": "x"}
                rows.append(
                    {
                        "qid": qid,
                        "question": question,
                        "rewrite": exchange.rewrite,
                        "history": list(history),
                        "answer": answer,
                        "evidences": [d.text for d in evidences],
                        "retrieval_labels": [int(d is gold) for d in evidences],
                        **labels,
                    }
                )
                asked.append(
                    {
                        "id": qid,
                        "question": question,
                        "answers": answers,
                        "orig_answer": answers[0],
                        **labels,
                    }
                )
                history.append({"question": question, "answer": answer})
            context = " ".join(e.documents[0].text for e in said) + " CANNOTANSWER"
            paragraph = {"id": dialogue, "context": context, "qas": asked}
            data.append({"title": said[0].entity.name, "paragraphs": [paragraph]})
        files[f"preprocessed/{split}.txt"] = _lines(rows)
        if split == "test":
            files["quac_format/test.txt"] = json.dumps({"data": data}, ensure_ascii=False) + "\n"
    files["qrels.txt"] = json.dumps(qrels) + "\n"
    return files


def _spans(exchange: Exchange, passage: str, rng: Random) -> list[dict[str, Any]]:
    """The answer as several workers mark it: the span, its sentence, sometimes a shorter one."""
    if not exchange.answers:
        nothing = {"text": "CANNOTANSWER", "answer_start": len(passage) + 1}
        return [nothing] * rng.choice((2, 3))
    texts = list(exchange.answers)
    start = passage.find(texts[0])
    sentence = next(
        m.group() for m in re.finditer(r"\S.*?[.!?](?=\s|$)", passage) if m.end() > start
    )
    texts.append(sentence.rstrip("."))
    if rng.random() < 0.5 and len(words := texts[0].split()) > 5:
        texts.append(" ".join(words[2:]))
    return [{"text": text, "answer_start": passage.find(text)} for text in texts]


def _distractors(exchange: Exchange, library: Library, rng: Random) -> list[Document]:
    entity, facet = exchange.entity, exchange.facet
    alike = [n for n in entity.kind.names if n != entity.name]
    same_page = [f.id for f in entity.kind.facets if f.id != facet.id]
    return [
        library.facets[rng.choice(alike), facet.id],
        library.facets[entity.name, rng.choice(same_page)],
    ]


# ---------------------------------------------------------------------------------------- INSCIT

SORRY = (
    "I looked for that and found nothing, I am afraid.",
    "I could not find anything about that.",
    "There is no information on that in what I have read.",
)
INSTEAD = (
    "I could not find that, but this may be of interest.",
    "Nothing I have found says so. What I can tell you is this.",
    "That I cannot tell you, although I did come across the following.",
)


def inscit(world: World, library: Library, plans: Plans) -> Files:
    """Conversations by name with one or two labels a turn, and articles with outlines."""
    pages: list[dict[str, Any]] = []
    order = sorted(library.documents, key=lambda d: (d.entity.name, d.number))
    for title, group in groupby(order, key=lambda d: d.entity.name):
        documents = list(group)
        outline = [facet.section for facet in documents[0].entity.kind.facets]
        rows = [{"id": f"{title}:0", "titles": [title], "text": "; ".join(outline)}]
        rows += [
            {"id": f"{title}:{d.number}", "titles": [title, d.facet.section], "text": d.text}
            for d in documents
        ]
        pages.append({"title": title, "passages": rows})
    Random("inscit/pages").shuffle(pages)
    files = {"text_0420_processed/wiki_00": _array(pages)}
    for split in ("train", "test"):
        rng = Random(f"inscit/{split}/labels")
        conversations = {}
        for number, said in enumerate(plans[split], 1):
            context: list[str] = []
            before: list[Any] = []
            turns = []
            for exchange in said:
                context.append(exchange.question)
                labels = _labels(exchange, rng)
                turns.append(
                    {"context": list(context), "prevEvidence": list(before), "labels": labels}
                )
                followed = labels[0]
                context.append(followed["response"])
                before.append(followed["evidence"])
            entity = said[0].entity
            level = 1 + number % 2
            name = f"{entity.kind.name}_level{level}_dial{number}"
            seed = {"title": entity.name, "topic": entity.kind.noun, "level": level}
            conversations[name] = {"seedArticle": seed, "turns": turns}
        files[f"{split}.json"] = json.dumps(conversations, ensure_ascii=False, indent=0) + "\n"
    return files


def _labels(exchange: Exchange, rng: Random) -> list[dict[str, Any]]:
    """What one or two annotators do; the conversation goes on with the first."""
    evidence = [
        {
            "passage_id": f"{d.entity.name}:{d.number}",
            "passage_text": d.text,
            "passage_titles": [d.entity.name, d.facet.section],
        }
        for d in exchange.documents
    ]
    facet, entity = exchange.facet, exchange.entity
    other = [entity.fill(text) for text in facet.second_answers]

    def label(kind: str, response: str, shown: list[Any]) -> dict[str, Any]:
        return {"responseType": kind, "response": response, "evidence": shown}

    if exchange.kind == "answer":
        labels = [label("directAnswer", exchange.answers[0], evidence)]
        second = label("directAnswer", rng.choice(other), evidence)
    elif exchange.kind == "clarification":
        labels = [label("clarification", rng.choice(exchange.answers), evidence)]
        second = label("directAnswer", rng.choice(other), evidence[:1])
    else:
        told = f"{rng.choice(INSTEAD)} {rng.choice(other)}"
        labels = [
            label("noAnswerButRelevantInfo", told, evidence),
            label("noAnswerNoRelevantInfo", rng.choice(SORRY), []),
        ]
        rng.shuffle(labels)
        return labels[: rng.choice((1, 2))]
    return [*labels, second] if rng.random() < 0.65 else labels


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
    return {f"{split}.json": _array(_dialogues(plans[split], split)) for split in plans}


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


WRITERS: dict[str, Callable[[World, Library, Plans], Files]] = {
    "topiocqa": topiocqa,
    "qrecc": qrecc,
    "orquac": orquac,
    "inscit": inscit,
    "faithdial": faithdial,
}
