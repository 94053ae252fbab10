"""Planned conversations -> raw files of OR-QuAC and INSCIT, where several people label a turn."""

from __future__ import annotations

import json
import re
from itertools import groupby
from random import Random
from typing import Any

from uniconv_bench.tasks.sample.library import Document, Library
from uniconv_bench.tasks.sample.plan import Exchange
from uniconv_bench.tasks.sample.raw import Files, Plans, array, lines
from uniconv_bench.tasks.sample.world import World

# --------------------------------------------------------------------------------------- OR-QuAC


def orquac(world: World, library: Library, plans: Plans) -> Files:
    """Preprocessed lines, judgements of all splits, QuAC-format references, blocks."""
    articles = {name: str(100 + i) for i, name in enumerate(world.entities)}

    def name(document: Document) -> str:
        return f"{articles[document.entity.name]}@{document.number - 1}"

    blocks = lines(
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
        files[f"preprocessed/{split}.txt"] = lines(rows)
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
    files = {"text_0420_processed/wiki_00": array(pages)}
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
