"""Commands on what was measured: files scored, records scored again, tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from uniconv_bench import registry
from uniconv_bench.commands import given
from uniconv_bench.commands.shared import (
    RESULTS,
    JsonOption,
    ProfileOption,
    ResultsOption,
    RunsOption,
    command_of,
    next_step,
    note,
    print_json,
    progress,
)
from uniconv_bench.errors import UserError

if TYPE_CHECKING:
    from uniconv_bench.records import ResultRecord

Format = Literal["markdown", "latex", "latex-document", "csv"]
Paper = Literal["retrieval", "generation", "ablation"]


def score(
    task: Annotated[str | None, typer.Option("--task", "-t", help="Name or card.")] = None,
    profile: ProfileOption = "sample",
    run_file: Annotated[Path | None, typer.Option("--run", help="TREC run file.")] = None,
    answers_file: Annotated[Path | None, typer.Option("--answers", help="JSON lines.")] = None,
    qrels_file: Annotated[Path | None, typer.Option("--qrels", help="TREC qrels.")] = None,
    references_file: Annotated[
        Path | None, typer.Option("--references", help="JSON lines: turn_id, references.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="ndcg@3, f1, …; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run and answers: of a task, or bare files with --qrels and --references."""
    from uniconv_bench import display, metrics, origin, runs
    from uniconv_bench.cards import check_cutoff
    from uniconv_bench.definitions import computable, of_stage, parse_metric
    from uniconv_bench.statistics.intervals import summarise
    from uniconv_bench.task import load_task

    if task is not None and (qrels_file or references_file):
        mend = "leave it out, or leave --task out"
        raise UserError("--qrels and --references go without --task, which has its own", mend=mend)
    if task is not None and run_file and registry.task_card(task)[0].evidence == "given":
        what = f"{task} hands over its passages: retrieval is not scored"
        raise UserError(what, mend="give --answers alone")
    of = load_task(task, profile, progress=progress()) if task is not None else None
    every = computable(m.name for m in metrics.METRICS)
    names = metric or (computable(of.card.metrics, note) if of else every)
    ranks, says = of_stage(names, "retrieval"), of_stage(names, "generation")
    for name in ranks:
        check_cutoff(parse_metric(name))
    qrels: dict[str, dict[str, int]] = {}
    references: dict[str, tuple[str, ...]] = {}
    run = texts = None
    whole = True
    if run_file and ranks:
        qrels = given.gold(qrels_file, runs.read_qrels, of.qrels if of else None, "--qrels")
        run = given.read("--run", runs.read_run, run_file)
        if of:
            origin.check_passages(origin.ranked(run), of.corpus.ids, of.card.name, run_file)
        whole = given.is_whole(run, qrels, run_file)
        if of:
            known = [turn.turn_id for turn in of.turns()]
            for problem in origin.check_run(run, known, of.corpus.ids):
                note(f"{run_file}: {problem}")
                whole = False
    if answers_file and says:
        references = given.gold(
            references_file, runs.read_references, of.references if of else None, "--references"
        )
        answers = given.read("--answers", runs.read_answers, answers_file)
        if of:
            ids = of.corpus.ids
            origin.check_passages(origin.shown(answers), ids, of.card.name, answers_file)
        whole = given.is_whole(answers, references, answers_file) and whole
        if of:
            for problem in origin.check_answers(answers, [turn.turn_id for turn in of.turns()]):
                note(f"{answers_file}: {problem}")
                whole = False
        texts = {turn_id: answer.text for turn_id, answer in answers.items()}
    per_turn = metrics.score(names, qrels=qrels, run=run, references=references, texts=texts)
    lacking = [name for name in metric or () if name not in per_turn]
    if lacking or not per_turn:
        mend = "give --run with --qrels, --answers with --references, or either with --task"
        what = " for " + ", ".join(lacking) if lacking else ""
        raise UserError(f"nothing to score{what}", mend=mend)
    if of and of.part:
        note(f"{of.card.name}: part of the dataset, {'; '.join(of.part)}")
    scores = {name: asdict(summarise(values)) for name, values in per_turn.items()}
    if as_json:
        print_json({"scores": scores})
        return
    display.show_scores(scores, "Scores")
    if task is None:
        next_step("uniconv-bench list metrics")
        return
    if not whole:  # `submit pack` refuses such files
        next_step(command_of("export", "--task", task, "--out", "FOLDER", profile=profile))
        return
    files = ["--run", f"{task}={run_file}"] if run_file else []
    files += ["--answers", f"{task}={answers_file}"] if answers_file else []
    next_step(command_of("submit", "pack", "CARD", *files))


def rescore(
    profile: ProfileOption = "sample", results: ResultsOption = RESULTS, as_json: JsonOption = False
) -> None:
    """Score records again from their cached runs and answers, by what task cards ask for now.

    For when a card got a metric: no model runs. A record whose files this cache lacks stays.
    """
    from uniconv_bench.evaluate import rescored
    from uniconv_bench.records import read_records, record_path, write_record
    from uniconv_bench.turnscores import write_scores

    rows = []
    for record in read_records(results / profile):
        path = record_path(results, record)
        found = rescored(record, progress=progress())
        if found is None:
            note(f"{path}: left as it is, as this cache lacks its run or answers; run it again")
            continue
        new, scores = found
        if (new.scores, new.provenance) != (record.scores, record.provenance):
            write_scores(scores, write_record(new, path))
            rows.append({"record": str(path), "metrics": [score.metric for score in new.scores]})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(row["record"])
    note(f"{len(rows)} records written; the others have the scores that their cards ask for")
    next_step("uniconv-bench leaderboard build")


def table(
    profile: ProfileOption = "sample",
    results: RunsOption = [RESULTS],  # noqa: B006  (typer copies it)
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Only this one.")] = None,
    system: Annotated[
        list[str] | None, typer.Option("--system", "-s", help="Only this one; sets the order.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help="Columns.")] = None,
    paper: Annotated[Paper | None, typer.Option(help="One of the paper's tables.")] = None,
    format: Annotated[Format, typer.Option(help="How to write it.")] = "markdown",
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Result records as one table: systems by tasks and metrics, with intervals."""
    from uniconv_bench import tables
    from uniconv_bench.definitions import parse_metric
    from uniconv_bench.files import atomic_write, require_folder
    from uniconv_bench.records import read_records
    from uniconv_bench.spread import numerical_spread
    from uniconv_bench.turnscores import scores_at_hand

    for folder in results if results != [RESULTS] else ():  # without the default nothing was run
        require_folder(folder, "--results")
    by_folder = {folder: read_records(folder / profile) for folder in results}
    at_hand = {d: s for f, own in by_folder.items() for d, s in scores_at_hand(own, f).items()}
    records = [record for own in by_folder.values() for record in own]
    task = [registry.name_of("task", name) for name in task or ()]
    system = [registry.name_of("system", name) for name in system or ()]
    for chosen, name_of in ((task, _task_of), (system, _system_of)):
        for name in chosen:
            if name not in {name_of(record) for record in records}:
                mend = f"uniconv-bench list {'tasks' if chosen is task else 'systems'}; then run it"
                raise UserError(f"no record of {name!r}", where=results[0] / profile, mend=mend)
        if chosen:
            records = [r for r in records if name_of(r) in chosen]
            records.sort(key=lambda record: chosen.index(name_of(record)))
    if paper is not None:
        records = tables.of_paper(paper, records)
    shipped = set(registry.task_names())
    measured = {record.task.name for record in records}
    reported = {name: registry.task_card(name)[0].reported for name in sorted(measured & shipped)}
    columns = tuple(metric or (tables.PAPER[paper].metrics if paper else tables.METRICS))
    absent = set(columns) - {score.metric for record in records for score in record.scores}
    for name in columns if metric else ():
        if name in absent:
            note(f"no record has {parse_metric(name).name}: it is left out")
    text = tables.table(
        records,
        reported,
        format=format,
        metrics=columns,
        turn_scores=at_hand,
        spread=numerical_spread(results, profile),
    )
    if as_json:
        text = json.dumps(
            [
                {
                    "name": record.system.name,
                    "task": record.task.name,
                    "part": record.task.part,
                    **score.model_dump(),
                }
                for record in records
                for score in record.scores
                if score.metric in columns
            ],
            indent=1,
        )
    if output is None:
        typer.echo(text.rstrip("\n"))
    else:
        with atomic_write(output) as stream:
            stream.write(text)
        note(f"table: {output}")
    if not as_json:
        next_step("uniconv-bench leaderboard build")


def _task_of(record: ResultRecord) -> str:
    return record.task.name


def _system_of(record: ResultRecord) -> str:
    return record.system.name
