"""Task x system -> adapters -> run -> answers -> scores -> record: what the commands call."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from uniconv_bench import records, stages
from uniconv_bench.artefacts import folder_of, missing_artefact
from uniconv_bench.assembly import Setup
from uniconv_bench.cards import Profile
from uniconv_bench.definitions import packages_of, uncomputable
from uniconv_bench.errors import UserError
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.files import cache_dir, digest_of_code, digest_of_file
from uniconv_bench.recording import (
    ANSWERS,
    RECORD,
    RUN,
    SCORES,
    kept,
    recorded,
    scores_of,
)
from uniconv_bench.records import ResultRecord
from uniconv_bench.system import Progress

if TYPE_CHECKING:
    from uniconv_bench.uniconv.report import Tracker


def train(
    system: str,
    profile: Profile,
    *,
    retrain: set[str] | None = None,
    tracker: Tracker | None = None,
    progress: Progress,
) -> dict[str, Path]:
    """Adapter name -> folder, for every adapter in use; trains only what does not fit.

    Args:
        retrain: as of `Setup.fit`; an empty set trains anew even where an adapter fits.
        tracker: told of every step.
    """
    setup = Setup.of(system, profile, progress)
    setup.tracker = tracker
    return setup.fit(retrain=retrain)


def encode(task: str, system: str, profile: Profile, *, progress: Progress) -> Path:
    """The folder with the embeddings of a task's passages by a system that can retrieve.

    Processes that a launcher started, and any others that use the same cache, share the work.

    Raises:
        UserError: the system embeds nothing, or its adapter is not trained.
    """
    evaluation = Evaluation.of(task, system, profile, None, progress)
    if missing := evaluation.setup.to_train():
        mend = f"uniconv-bench train --system {system} --profile {profile}"
        raise UserError(f"adapter {missing[0]} of {system} is not trained", mend=mend)
    evaluation.setup.fit()
    _take_device()
    return stages.encode(evaluation)


def _take_device() -> None:
    """Of processes that a launcher started on one machine each has a GPU of its own."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def retrieve(
    task: str,
    system: str,
    profile: Profile,
    *,
    limit: int | None = None,
    index: Path | None = None,
    progress: Progress,
) -> Path:
    """Trains if needed and ranks passages for the test turns; the TREC run file.

    Args:
        limit: take the first turns only.
        index: folder of embeddings made elsewhere, in place of those in the cache.
    """
    evaluation = Evaluation.of(task, system, profile, limit, progress)
    evaluation.setup.index = index
    evaluation.setup.fit()
    return stages.retrieve(evaluation) / RUN


def generate(
    task: str,
    system: str,
    profile: Profile,
    *,
    limit: int | None = None,
    run: Path | None = None,
    progress: Progress,
) -> Path:
    """Trains and retrieves if needed and answers the test turns; the answer file.

    Args:
        run: a TREC run file to answer from in place of the system's own.
    """
    evaluation = Evaluation.of(task, system, profile, limit, progress)
    if run is not None:
        stages.accept(evaluation, run)
    evaluation.setup.fit()
    return stages.generate(evaluation, run or stages.retrieve(evaluation) / RUN) / ANSWERS


def run(
    task: str,
    system: str,
    profile: Profile,
    *,
    limit: int | None = None,
    data_dir: Path | None = None,
    retrain: set[str] | None = None,
    results: Path | None,
    progress: Progress,
) -> tuple[ResultRecord, Path]:
    """All stages in order, each from cache if it is there; the record and where it is.

    Where a task's metrics judge no answers, none are written.

    Args:
        limit: take the first turns only; such a record stays in the cache.
        data_dir: folder of the task's raw files; None: what is prepared, or shipped.
        retrain: as of `Setup.fit`; one set for several runs trains a shared adapter once.
        results: folder that gets `<profile>/<system>/<task>.json`; None: the cache alone.
    """
    evaluation = Evaluation.of(task, system, profile, limit, progress, data_dir)
    evaluation.setup.fit(retrain=retrain)
    folders = {"retrieval": stages.retrieve(evaluation)}
    run_file, answers_file = folders["retrieval"] / RUN, None
    if evaluation.metrics_of("generation"):
        folders["answers"] = stages.generate(evaluation, run_file)
        answers_file = folders["answers"] / ANSWERS
    folders["scores"] = stages.score(evaluation, run_file, answers_file)
    fingerprint = {
        **{stage: folder.name for stage, folder in folders.items()},
        "card": evaluation.setup.card.digest(),
        "task": evaluation.task.card.digest(),
        "code": digest_of_code("records", "recording", "evaluation", "stages"),
    }
    folder = folder_of("records", evaluation.setup.card.name, fingerprint)
    with missing_artefact(folder, fingerprint) as working:
        if working:
            records.write_record(recorded(evaluation, folders), working / RECORD)
    record = records.read_record(folder / RECORD)
    if results is None or evaluation.limit is not None:
        return record, folder / RECORD
    record, path, written = kept(record, folders["scores"] / SCORES, results)
    if not written:
        progress.note("record unchanged: the one there has these scores, counts and digests")
    return record, path


def outputs(record: ResultRecord) -> dict[str, Path]:
    """The cached run and answer files that a record was made from, by digest; those still there."""
    found = {}
    wanted = {"retrieval": (RUN, record.digests.run), "answers": (ANSWERS, record.digests.answers)}
    for stage, (name, digest) in wanted.items():
        for path in sorted((cache_dir() / stage).glob(f"{record.system.name}-*/{name}")):
            if digest_of_file(path) == digest:
                found[name] = path
    return found


def rescored(record: ResultRecord, *, progress: Progress) -> tuple[ResultRecord, Path] | None:
    """A record with the scores that its task's card asks for now, from its cached run and answers.

    No model runs, and what it says of system, run and answers stays as it is; of its provenance
    all but the versions of what scores.

    Returns:
        It and the file of its scores by turn; None where the cache lacks one of the files.

    Raises:
        UserError: the task's data is no longer what it was, or a metric lacks its package.
    """
    files = outputs(record)
    due = {RUN: record.digests.run, ANSWERS: record.digests.answers}
    if any(digest and name not in files for name, digest in due.items()):
        return None
    task, system = record.task, record.system.name
    evaluation = Evaluation.of(task.name, system, task.profile, record.limit, progress)
    if evaluation.task.digest != task.data_digest:
        what = f"the data of {task.name} ({task.profile}) is not what {system} was run on"
        raise UserError(what, mend="run it again")
    for name in evaluation.task.card.metrics:
        if (lacking := uncomputable(name)) is not None:
            raise lacking
    folder = stages.score(evaluation, files.get(RUN), files.get(ANSWERS))
    digests = {"scores": digest_of_file(folder / SCORES)}
    versions = {name: metadata.version(name) for name in packages_of(evaluation.task.card.metrics)}
    packages = {"packages": record.provenance.packages | versions}
    new = ResultRecord(
        **{name: getattr(record, name) for name in ResultRecord.model_fields}
        | {
            "task": task.model_copy(update={"card_digest": evaluation.task.card.digest()}),
            "scores": scores_of(folder),
            "digests": record.digests.model_copy(update=digests),
            "provenance": record.provenance.model_copy(update=packages),
        }
    )
    return new, folder / SCORES
