"""The stages of an evaluation, each done once: an artefact that is there is not made again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from uniconv_bench import metrics, runs
from uniconv_bench.appended import go_on, line_of
from uniconv_bench.artefacts import hold, missing_artefact
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.costs import counted
from uniconv_bench.definitions import PerTurn
from uniconv_bench.errors import UserError
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.files import write_json, write_jsonl
from uniconv_bench.origin import check_passages, check_run, ranked
from uniconv_bench.outside import answers, rankings
from uniconv_bench.recording import ANSWERS, INDEX, RUN, SCORES, SUMMARY
from uniconv_bench.seals import PARTIAL
from uniconv_bench.system import Answer, Approximates


def encode(of: Evaluation) -> Path:
    """The folder with the embeddings of the corpus."""
    folder, _ = of.encoding.embeddings(of.task.corpus)
    of.encoding.encode(of.task.corpus, of.progress)
    return folder


def retrieve(of: Evaluation) -> Path:
    """The folder with `run.trec`."""
    if of.setup.index is not None:
        of.encoding.check(of.task.corpus)
    folder, fingerprint = of.retrieval
    with _stage(of, "retrieval", folder, fingerprint) as working:
        if working:
            run = rankings(of.retriever, of.turns, of.task.corpus, of.depth, of.progress)
            _refuse_impossible(of, run)
            if of.retrieves:
                _tell_missing(of, "passages", run, of.turns)
            runs.write_run(working / RUN, run.items(), of.setup.card.name)
            if isinstance(of.asked, Approximates) and (
                recall := of.asked.index_recall(of.progress)
            ):
                write_json(working / INDEX, asdict(recall))
    return folder


def _refuse_impossible(of: Evaluation, run: runs.Run) -> None:
    """A run with unknown turns or passages is a retriever's fault, never a score."""
    known = [turn.turn_id for turn in of.turns]
    faults = check_run(run, known, of.task.corpus.ids, depth=of.depth)
    if faults:
        raise UserError(f"{of.setup.card.name} made an impossible run: {faults[0]}")


def accept(of: Evaluation, run_file: Path) -> None:
    """Refuses a run file that is not of this task; says so if it ranks some turns only."""
    task, run = of.task.card.name, runs.read_run(run_file)
    check_passages(ranked(run), of.task.corpus.ids, task, run_file)
    covered = [turn.turn_id for turn in of.turns if turn.turn_id in run]
    if not covered:
        mend = f"turns of {task} are named as {of.turns[0].turn_id!r}"
        raise UserError("no turn to answer is ranked in this file", where=run_file, mend=mend)
    if len(covered) < len(of.turns):
        count = f"{len(covered)} of {len(of.turns)} turns"
        of.progress.note(f"{run_file} ranks {count}; the others are answered without passages")


def generate(of: Evaluation, run_file: Path) -> Path:
    """The folder with `answers.jsonl`, from the top passages of a run file."""
    folder, fingerprint = of.answering(run_file)
    with _stage(of, "answers", folder, fingerprint) as working:
        if working:
            run = runs.read_run(run_file)
            evidence = {
                turn.turn_id: _passages(of, run.get(turn.turn_id, [])[: of.top_k], run_file)
                for turn in of.turns
            }
            _answer(of, working, evidence)
    return folder


def answer_from(of: Evaluation, evidence: Mapping[str, Sequence[Passage]]) -> Path:
    """The folder with `answers.jsonl`: of each turn named, from all the passages with it."""
    folder, fingerprint = of.answering_from(evidence)
    with _stage(of, "answers", folder, fingerprint) as working:
        if working:
            _answer(of, working, {turn: [*passages] for turn, passages in evidence.items()})
    return folder


def _passages(
    of: Evaluation, ranking: Sequence[tuple[str, float]], run_file: Path
) -> list[Passage]:
    try:
        return [of.task.corpus[passage_id] for passage_id, _ in ranking]
    except KeyError as error:
        what = f"passage {error} is not in the corpus of {of.task.card.name}"
        raise UserError(what, where=run_file) from error


def _answer(of: Evaluation, working: Path, evidence: Mapping[str, list[Passage]]) -> None:
    """Appends answers as they come to a file that a stopped run goes on with.

    Turns without an entry among the evidence are not asked.
    """
    turns = [turn for turn in of.turns if turn.turn_id in evidence]
    so_far = working / f"answers{PARTIAL}"
    card = of.setup.card
    batch = card.inference.decode_batch_size if card.generator.kind == "llm" else 1
    rows = enumerate(map(json.loads, go_on(so_far, batch)), 1)
    done: dict[str, Answer] = {
        row["turn_id"]: runs.parse_answer(row, so_far, number) for number, row in rows
    }
    left = [turn for turn in turns if turn.turn_id not in done]
    with so_far.open("a", encoding="utf-8") as stream:
        for answer in answers(of.generator, left, evidence, of.progress):
            done[answer.turn_id] = answer
            stream.write(line_of(runs.answer_line(answer).rstrip("\n")))
            stream.flush()
    answered = [done[turn.turn_id] for turn in turns if turn.turn_id in done]
    runs.write_answers(working / ANSWERS, answered)
    _tell_missing(of, "answer", done, turns)


def score(of: Evaluation, run_file: Path | None, answers_file: Path | None) -> Path:
    """The folder with `scores.jsonl` (a line a turn) and `summary.json` (means, intervals).

    Args:
        of: what is evaluated.
        run_file: None of a system that ranks nothing.
        answers_file: None where the task's metrics judge no answers.
    """
    folder, fingerprint = of.scoring(run_file, answers_file)
    with _stage(of, "scores", folder, fingerprint) as working:
        if working:
            run = runs.read_run(run_file) if run_file and of.retrieves else None
            said = runs.read_answers(answers_file) if answers_file else None
            by_metric = measured(of, fingerprint["metrics"], of.turns, run, said)
            rows = [
                {"turn_id": turn.turn_id}
                | {
                    n: of_turn[turn.turn_id]
                    for n, of_turn in by_metric.items()
                    if turn.turn_id in of_turn
                }
                for turn in of.turns
            ]
            write_jsonl(working / SCORES, rows)
            summary = [metrics.metric_score(name, values) for name, values in by_metric.items()]
            write_json(working / SUMMARY, [s.model_dump(mode="json") for s in summary])
    return folder


def measured(
    of: Evaluation,
    names: Collection[str],
    turns: Sequence[Turn],
    run: runs.Run | None,
    said: Mapping[str, Answer] | None,
) -> dict[str, PerTurn]:
    """Metric -> turn -> value, of some of the turns, against what is right of them.

    Args:
        of: what is evaluated.
        names: of metrics; those of a stage that is not there are left out.
        turns: those that count.
        run: None: passages are not judged.
        said: None: answers are not judged.
    """
    kept = {turn.turn_id for turn in turns}
    return metrics.score(
        names,
        qrels={t: judged for t, judged in of.task.qrels().items() if t in kept},
        run=run,
        references={t: texts for t, texts in of.task.references().items() if t in kept},
        texts=None if said is None else {t: answer.text for t, answer in said.items()},
    )


@contextmanager
def _stage(
    of: Evaluation, name: str, folder: Path, fingerprint: Mapping[str, Any]
) -> Iterator[Path | None]:
    """The working folder of a stage to be done, its cost counted, or None if it is done."""
    with missing_artefact(folder, fingerprint) as working:
        if working is None:
            of.held.append(hold(folder))
            yield None
            return
        with counted(working) as fresh:
            yield working
        if fresh:
            of.made.add(name)
    of.held.append(hold(folder))


def _tell_missing(of: Evaluation, what: str, given: Collection[str], turns: Sequence[Turn]) -> None:
    lacking = metrics.missing((turn.turn_id for turn in turns), given)
    if lacking:
        name, count = of.setup.card.name, f"{len(lacking)} of {len(turns)}"
        of.progress.note(f"{name} has no {what} for {count} turns, which score 0 if judged")
