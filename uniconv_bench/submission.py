"""Packing a submission: card, run and answer files -> a bundle that `examination` finds sound."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from uniconv_bench import __version__
from uniconv_bench.bundles import (
    CARD,
    KINDS,
    MANIFEST,
    Claim,
    Manifest,
    scored_files,
)
from uniconv_bench.cards import SubmissionCard, parse_card
from uniconv_bench.errors import UserError
from uniconv_bench.examination import among_others, check
from uniconv_bench.files import digest_of_file, read_toml, write_json
from uniconv_bench.irmetadata import ir_metadata
from uniconv_bench.metrics import metric_score
from uniconv_bench.rescoring import Tasks, rescore
from uniconv_bench.runs import read_answers, read_run, write_answers, write_objects, write_run
from uniconv_bench.submission_cards import check_card


def pack(
    card_path: Path, files: Mapping[str, Mapping[str, Path]], folder: Path, tasks: Tasks
) -> Path:
    """Makes the bundle `folder/<name on the card>` and returns its path.

    Args:
        card_path: a submission card.
        files: task -> `run` and `answers`, either of which may be left out -> file.
        folder: where submissions are kept.
        tasks: what to score against.

    Raises:
        UserError: the first thing that `check` would refuse.
    """
    card = parse_card(SubmissionCard, read_toml(card_path), card_path)
    if set(files) != set(card.tasks):
        raise UserError(
            f"the card names the tasks {', '.join(card.tasks)}, files are given for "
            f"{', '.join(files) or 'none'}",
            where=card_path,
        )
    target = folder / card.name
    tasks = among_others(target, tasks)
    _refuse(list(check_card(card, card.name, tasks)), card_path)
    # On the same disk as the folder, which a failure does not leave behind.
    there = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    with tempfile.TemporaryDirectory(dir=there, prefix=".packing-") as name:
        bundle = Path(name) / card.name
        bundle.mkdir()
        (bundle / CARD).write_bytes(card_path.read_bytes())
        claims = {task: _pack_task(bundle, card, task, files[task], tasks) for task in card.tasks}
        sums = {path.name: digest_of_file(path) for path in sorted(bundle.iterdir())}
        manifest = Manifest(schema_version=1, package=__version__, files=sums, tasks=claims)
        write_json(bundle / MANIFEST, manifest.model_dump(mode="json"))
        _refuse(check(bundle, tasks), card_path)
        if target.exists():
            mend = "delete it or rename yours"
            raise UserError("this bundle is already there", where=target, mend=mend)
        folder.mkdir(parents=True, exist_ok=True)
        bundle.replace(target)
    return target


def _refuse(problems: Sequence[str], where: Path | None = None) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}{more}", where=where)


def _pack_task(
    bundle: Path, card: SubmissionCard, name: str, files: Mapping[str, Path], tasks: Tasks
) -> Claim:
    unknown = set(files) - {"run", "answers"}
    if unknown or not files:
        raise UserError(f"{name}: give a run, answers or both, not {', '.join(unknown) or 'none'}")
    task = tasks.load(name, card.profile)
    if "run" in files:
        write_run(bundle / f"{name}{KINDS['run']}", read_run(files["run"]).items(), card.name)
    if "answers" in files:
        answers = read_answers(files["answers"]).values()
        write_answers(bundle / f"{name}{KINDS['answers']}", answers)
    scores, problems, _ = rescore(task, *scored_files(bundle, name))
    _refuse(problems)
    rows = [
        {"turn_id": turn.turn_id}
        | {m: values[turn.turn_id] for m, values in scores.items() if turn.turn_id in values}
        for turn in task.turns()
    ]
    write_objects(bundle / f"{name}{KINDS['scores']}", rows)
    means = {metric: metric_score(metric, values).mean for metric, values in scores.items()}
    described = ir_metadata(card, name, task.digest, means)
    (bundle / f"{name}{KINDS['metadata']}").write_bytes(described.encode())
    return Claim(data_digest=task.digest, scores=means)
