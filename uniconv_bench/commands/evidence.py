"""Commands on what records say together: systems compared, claims judged, figures reproduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uniconv_bench import registry
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
    print_paths,
    progress,
)
from uniconv_bench.errors import UserError

if TYPE_CHECKING:
    from uniconv_bench.comparison import Comparison
    from uniconv_bench.records import ResultRecord
    from uniconv_bench.runs import Run

LEDGER = RESULTS / "reproductions.jsonl"


def compare(
    one: Annotated[str, typer.Argument(help="A system.")],
    other: Annotated[str, typer.Argument(help="The one to compare it with.")],
    task: Annotated[str, typer.Option("--task", "-t", help="Name or card.")],
    profile: ProfileOption = "sample",
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="The first orders the turns.")
    ] = None,
    results: RunsOption = [RESULTS],  # noqa: B006  (typer copies it)
    texts: Annotated[
        bool, typer.Option("--texts", help="Questions and answers of the turns that moved.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Two systems on the same turns: differences, how sure they are, and the turns that moved."""
    from uniconv_bench import comparison
    from uniconv_bench.spread import numerical_spread

    name = registry.name_of("task", task)
    first, second = (
        comparison.measured(registry.name_of("system", system), name, profile, results)
        for system in (one, other)
    )
    found = comparison.compare(first, second, metric or (), numerical_spread(results, profile))
    said = _texts(found) if texts else {}
    if as_json:
        print_json(_plain(found, said))
        return
    from uniconv_bench.evidenceview import show_comparison

    show_comparison(found, said)
    next_step(command_of("claims", profile=profile))


def _texts(found: Comparison) -> dict[str, dict[str, str]]:
    """Turn that moved -> what was asked, should be said and was said, where it is at hand."""
    from uniconv_bench.task import load_task

    of = found.one.record.task
    task = load_task(of.name, of.profile, progress=progress())
    if task.digest != of.data_digest:
        what = f"the data of {of.name} ({of.profile}) here is not what the records are of"
        raise UserError(what, mend="leave --texts out")
    answers = [(side.title, _answers_of(side.record)) for side in (found.one, found.other)]
    for title, given in answers:
        if not given:
            note(f"the answers of {title} are not in this cache")
    asked = {turn.turn_id: turn for turn in task.turns()}
    return {
        moved.turn_id: {
            "question": asked[moved.turn_id].query,
            "reference": next(iter(asked[moved.turn_id].references), ""),
            **{title: given[moved.turn_id] for title, given in answers if moved.turn_id in given},
        }
        for moved in found.moved
    }


def _answers_of(record: ResultRecord) -> dict[str, str]:
    from uniconv_bench.evaluate import outputs
    from uniconv_bench.recording import ANSWERS
    from uniconv_bench.runs import read_answers

    path = outputs(record).get(ANSWERS)
    return {t: answer.text for t, answer in read_answers(path).items()} if path else {}


def _plain(found: Comparison, said: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    record = found.one.record
    return {
        "task": record.task.name,
        "profile": record.task.profile,
        "backbones": [side.record.system.backbone for side in (found.one, found.other)],
        "systems": [side.record.system.name for side in (found.one, found.other)],
        "seeds": [
            {"runs": len(side.records), "spread": dict(side.seeds)}
            for side in (found.one, found.other)
        ],
        "metrics": [
            {
                "name": row.metric,
                "means": row.means,
                **asdict(row.difference),
                "p": row.difference.p,
                "p_holm": row.p,
                "told_apart": row.told_apart,
            }
            for row in found.metrics
        ],
        "moved": [
            {**asdict(turn), **({"texts": said[turn.turn_id]} if said else {})}
            for turn in found.moved
        ],
    }


def claims(
    profile: ProfileOption = "sample",
    results: RunsOption = [RESULTS],  # noqa: B006  (typer copies it)
    file: Annotated[
        Path | None, typer.Option(help="Claims of your own (uniconv_bench/claims.toml).")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write a Markdown page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge the paper's claims by the records of one profile, and say what would settle each."""
    from uniconv_bench import claims as of
    from uniconv_bench import verdicts
    from uniconv_bench.claim_cards import read_claims
    from uniconv_bench.files import atomic_write, require_folder

    for folder in results:
        require_folder(folder / profile, "--results")
    answers = of.judge(read_claims(file), profile, results)
    if output is not None:
        with atomic_write(output) as stream:
            head = f"# Claims of the paper at profile {profile}"
            stream.write(f"{head}\n\n{verdicts.markdown(answers)}")
        note(f"claims: {output}")
    if as_json:
        print_json([{"profile": profile, **verdicts.plain(answer)} for answer in answers])
        return
    from uniconv_bench.evidenceview import show_claims

    show_claims(answers, profile)
    next_step(command_of("report", profile=profile))


def reproduce(
    record: Annotated[Path, typer.Argument(help="Your record, results/PROFILE/SYSTEM/TASK.json.")],
    against: Annotated[str, typer.Argument(help="Another record file, or `published`.")],
    tolerance: Annotated[
        float | None, typer.Option(help="Means as near as this are close; needs --reason.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why so near is near enough.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="A system beside both records, for the effect over it.")
    ] = None,
    ledger: Annotated[Path, typer.Option(help="JSON lines to append to.")] = LEDGER,
    as_json: JsonOption = False,
) -> None:
    """Hold a record against another of the same system, or against published figures."""
    from uniconv_bench import attribution
    from uniconv_bench import reproduce as of
    from uniconv_bench.comparison import measured_at
    from uniconv_bench.records import read_record

    if (tolerance is None) != (reason is None):
        raise UserError("a tolerance goes with its reason", mend="give --tolerance and --reason")
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise UserError(f"--tolerance {tolerance} is no fraction", mend="scores are from 0 to 1")
    mine = read_record(record)
    near, why = of.near(mine, record) if tolerance is None else (tolerance, reason or "")
    told: dict[str, Any] = {"switches": {}, "order": None}
    if against == "published":
        figures = registry.task_card(mine.task.name)[0].reported
        rows = of.against_published(mine, figures, near)
    else:
        other = measured_at([Path(against)])
        bases = None
        if baseline is not None:
            first, second = (
                measured_at([path.parent.parent / baseline / path.name])
                for path in (record, Path(against))
            )
            bases = (first, second)
        rows = of.against_record(measured_at([record]), other, bases, near)
        told["switches"] = of.switches(mine, other.record)
        told["order"] = _order(mine, other.record)
    told["explained"] = attribution.explanations(rows, attribution.moves(record))
    entered = of.enter(ledger, mine, rows, near, why)
    if as_json:
        print_json({"tolerance": near, "reason": why, **told, "metrics": [asdict(r) for r in rows]})
        return
    from uniconv_bench.evidenceview import show_reproduced

    show_reproduced(mine, rows, told, f"close: within {near} ({why})")
    note(f"{entered} new lines in {ledger}")
    next_step(command_of("explain", record))


def _order(one: ResultRecord, other: ResultRecord) -> dict[str, Any] | None:
    """How alike the two rank, where this machine has the run files of both."""
    runs = [_run_of(record) for record in (one, other)]
    if any(run is None for run in runs):
        return None
    from uniconv_bench.reproduce import order

    first, second = ({t: [p for p, _ in rows] for t, rows in (run or {}).items()} for run in runs)
    return asdict(order(first, second))


def _run_of(record: ResultRecord) -> Run | None:
    from uniconv_bench.evaluate import outputs
    from uniconv_bench.recording import RUN
    from uniconv_bench.runs import read_run

    path = outputs(record).get(RUN)
    return None if path is None else read_run(path)


def explain(
    record: Annotated[Path, typer.Argument(help="A record, results/PROFILE/SYSTEM/TASK.json.")],
    as_json: JsonOption = False,
) -> None:
    """How far a record's figures move under other conventions, and with other trainings."""
    from uniconv_bench import attribution, conventions
    from uniconv_bench.records import read_record

    of, rows = read_record(record), attribution.moves(record)
    run = _run_of(of) if of.limit is None and of.score("mrr") else None
    if run is not None:
        from uniconv_bench.task import load_task

        task = load_task(of.task.name, of.task.profile, progress=progress())
        if task.digest == of.task.data_digest:
            rows += conventions.by_ties(of, run, task.qrels())
    told = [
        {
            "metric": row.metric,
            "convention": row.convention,
            "mean": row.mean,
            "moved": row.mean - row.recorded,
            "n": row.n,
        }
        for row in rows
    ]
    if as_json:
        print_json(told)
        return
    from uniconv_bench.evidenceview import show_conventions

    show_conventions(of, rows)
    if run is None:
        note("ties: this machine has not the run file that they would show in")
    against = "published" if of.task.profile == "full" else "OTHER_RECORD"
    next_step(command_of("reproduce", record, against))


def report(
    profile: ProfileOption = "sample",
    results: ResultsOption = RESULTS,
    output: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("report"),
    as_json: JsonOption = False,
) -> None:
    """One page on all records of a profile, as HTML and Markdown: claims, tables, figures, cost."""
    from uniconv_bench import plots
    from uniconv_bench import report as of
    from uniconv_bench.files import require_folder

    require_folder(results / profile, "--results")
    reported = {name: registry.task_card(name)[0].reported for name in registry.task_names()}
    if not plots.can_plot():
        note("without figures: they need matplotlib; pip install 'uniconv-bench[plots]'")
    paths = of.write(profile, results, reported, output)
    rows = [{"name": path.stem, "path": str(path)} for path in paths]
    print_paths(rows, "path", as_json, command_of("claims", profile=profile))
