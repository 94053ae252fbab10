"""What finished stages amount to: their record, and its place among the results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from uniconv_bench import machine, metrics, records, runs
from uniconv_bench.assembly import WEIGHTS
from uniconv_bench.costs import COST
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of_file, read_json
from uniconv_bench.records import ResultRecord
from uniconv_bench.system_cards import SystemCard
from uniconv_bench.turnscores import write_scores
from uniconv_bench.whole import unchecked

if TYPE_CHECKING:
    from uniconv_bench.evaluation import Evaluation

RUN, ANSWERS, SCORES = "run.trec", "answers.jsonl", "scores.jsonl"
SUMMARY, RECORD = "summary.json", "record.json"
INDEX = "index.json"
"""What an approximate index found of what exact search finds, beside the run file."""


def recorded(evaluation: Evaluation, folders: Mapping[str, Path]) -> ResultRecord:
    """The record of finished stages: `retrieval`, `answers` if any, `scores` -> folder."""
    card, task = evaluation.setup.card, evaluation.task
    run_file = folders["retrieval"] / RUN
    answers_file = folders["answers"] / ANSWERS if "answers" in folders else None
    run = runs.read_run(run_file)
    answers = runs.read_answers(answers_file) if answers_file else {}
    kept = {turn.turn_id for turn in evaluation.turns}
    qrels = [turn_id for turn_id in task.qrels() if turn_id in kept]
    references = [turn_id for turn_id in task.references() if turn_id in kept]
    weights = {n: digest_of_file(f / WEIGHTS) for n, f in evaluation.setup.adapters.items()}
    backbone = evaluation.setup.backbone
    costs = {stage: read_json(folder / COST) for stage, folder in folders.items()}
    seconds = {s: cost["seconds"] for s, cost in costs.items() if cost["seconds"] is not None}
    training = {}
    for name, folder in evaluation.setup.adapters.items():
        report = read_json(folder / "training.json")
        seconds[f"train {name}"] = report["seconds"]
        training[name] = records.TrainingPart(
            seed=card.adapters[name].seed,
            device=report["device"],
            package=report["code"]["package"],
            code=report["code"]["sha256"],
            libraries=report["libraries"],
            steps=report["steps"],
            tokens=report["tokens"],
            peak_memory_bytes=report["peak_memory_bytes"],
        )
    here = evaluation.made | {f"train {name}" for name in evaluation.setup.trained}
    # What was done before, or elsewhere, took energy that this process cannot know.
    energy = evaluation.energy if {*costs, *seconds} <= here else None
    full = task.profile == "full"
    made = machine.provenance(seconds, training, energy_before=energy)
    peak = max(made.peak_memory_bytes, *(c["peak_memory_bytes"] for c in costs.values()))
    return ResultRecord(
        task=records.TaskPart(
            name=task.card.name,
            version=task.card.version,
            profile=task.profile,
            split=task.test_split,
            card_digest=task.card.digest(),
            data_digest=task.digest,
            part=task.part,
            unchecked=tuple(unchecked(task.card, task.test_split)) if full else (),
        ),
        system=records.SystemPart(
            name=card.name,
            title=card.title,
            backbone=backbone.name if backbone else None,
            backbone_revision=backbone.revision if backbone else None,
            adapters=weights,
            settings=card.model_dump(mode="json"),
        ),
        scores=scores_of(folders["scores"]),
        counts=records.Counts(
            turns=len(evaluation.turns),
            judged_retrieval=len(qrels),
            judged_generation=len(references),
            missing_run=len(metrics.missing(qrels, run)),
            missing_answers=len(metrics.missing(references, answers)),
            empty_answers=sum(not answer.text for answer in answers.values()),
        ),
        limit=evaluation.limit,
        index=_index(folders["retrieval"] / INDEX),
        digests=records.Digests(
            run=digest_of_file(run_file) if evaluation.retrieves else None,
            answers=digest_of_file(answers_file) if answers_file else None,
            scores=digest_of_file(folders["scores"] / SCORES),
        ),
        provenance=made.model_copy(update={"peak_memory_bytes": peak}),
    )


def _index(path: Path) -> records.IndexPart | None:
    return records.IndexPart.model_validate(read_json(path)) if path.exists() else None


def scores_of(folder: Path) -> tuple[records.Score, ...]:
    """The means and intervals of a finished scoring."""
    rows = read_json(folder / SUMMARY)
    return tuple(records.Score.model_validate_json(json.dumps(row)) for row in rows)


def kept(record: ResultRecord, scores: Path, results: Path) -> tuple[ResultRecord, Path, bool]:
    """Writes a record into a folder of results, unless one that says the same is there.

    Only where it was made, when and at what cost is no reason to replace a record. Its scores by
    turn come beside it either way.

    Returns:
        The record that the folder holds now, its path, and whether it was written.
    """
    path = records.record_path(results, record)
    write_scores(scores, path)
    there = _readable(path)
    if there is not None and _said(there) == _said(record):
        return there, path, False
    return record, records.write_record(record, path), True


def _readable(path: Path) -> ResultRecord | None:
    try:
        return records.read_record(path)
    except UserError:  # none, or one that is broken or of another version: written anew
        return None


def _said(record: ResultRecord) -> dict[str, Any]:
    said = record.model_dump(mode="json", exclude={"provenance", "digest"})
    del said["task"]["card_digest"]  # what of a card's words matters shows in data and scores
    with suppress(ValidationError):  # a card of before some field, or of another version
        card = SystemCard.model_validate_json(json.dumps(said["system"]["settings"]))
        settings = card.model_dump(mode="json", exclude_defaults=True)
        parts = (settings["retriever"], settings.get("inference", {}))
        for table in (*parts, *settings.get("adapters", {}).values()):
            table.pop("sources", None)  # why a value was chosen, not what it is
        said["system"]["settings"] = settings
    return said
