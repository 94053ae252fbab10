"""A submission made again in part: a random share of its turns, ranked and answered by its system.

The two stages are judged apart: answers are written again from the passages that the bundle ranks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from uniconv_bench import stages
from uniconv_bench.assembly import Setup
from uniconv_bench.bundles import scored_files
from uniconv_bench.cards import SubmissionCard
from uniconv_bench.definitions import Stage
from uniconv_bench.errors import UserError
from uniconv_bench.evaluation import Evaluation, View
from uniconv_bench.files import digest_of
from uniconv_bench.recording import ANSWERS, RUN
from uniconv_bench.runs import read_answers, read_run
from uniconv_bench.system import Answer, Progress, Ranking
from uniconv_bench.task import Task

FEWEST = 10
"""Turns of a task that are made again however small the share: fewer would show little."""


@dataclass(frozen=True)
class Tolerance:
    """By how much an honest submission may differ from what another machine makes.

    Attributes:
        score: distance of two scores of a passage, as a share of the turn's best minus its last
            score: what is added to all scores, or multiplies them, changes nothing.
        texts: share of the turns whose text, written by a model, has to agree.
    """

    score: float
    texts: float


TOLERANCES = {"float32": Tolerance(1e-4, 0.9), "bfloat16": Tolerance(0.05, 0.7)}
"""By the `dtype` that a part's model runs in. Sums in another order differ in the seventh digit of
a float32 and in the third of a bfloat16, and layers of a model add to that. Scores show it as such;
a near tie of two tokens turns the rest of a text, so some texts may differ."""
ROUNDING = 2.0**-22
"""What a float32 may be off by, as a share of it: nearer scores are near ties of any ranking."""
WITHOUT_MODEL = ("bm25", "gold", "none", "endpoint")
"""Kinds of parts that run no model here: the card's `dtype` says nothing of them."""
FORGED = (0.1, 0.2)
"""Shares of forged turns, of which it is told how likely a verification passes them."""


@dataclass(frozen=True)
class Repeated:
    """One stage of one task, made again.

    Attributes:
        task: its name.
        stage: `retrieval` compares rankings, `generation` answers.
        turns: how many were made again.
        agree: how many are as in the bundle.
        needed: how many have to be.
        first: the first turn that differs, and in what; None: none does.
    """

    task: str
    stage: Stage
    turns: int
    agree: int
    needed: int
    first: tuple[str, str] | None

    @property
    def holds(self) -> bool:
        """Whether enough turns agree."""
        return self.agree >= self.needed

    def passes(self, forged: float) -> float:
        """Chance that as many turns agree as have to, if that share of all turns is forged."""
        spared = self.turns - self.needed
        return math.fsum(
            math.comb(self.turns, met) * forged**met * (1 - forged) ** (self.turns - met)
            for met in range(spared + 1)
        )


def drawn(turn_ids: Sequence[str], share: float, seed: int) -> list[str]:
    """A random share of turns, `FEWEST` at least if there are so many, in their order."""
    count = min(len(turn_ids), max(FEWEST, math.ceil(share * len(turn_ids))))
    chosen = set(random.Random(seed).sample(sorted(turn_ids), count))
    return [turn_id for turn_id in turn_ids if turn_id in chosen]


def setup_of(system: str, card: SubmissionCard, progress: Progress) -> Setup:
    """The system that a submission is said to come from, with its weights.

    Raises:
        UserError: it is not for this profile, or an adapter is not at hand: none is trained here.
    """
    setup = Setup.of(system, card.profile, progress)
    if missing := setup.to_train():
        what = f"no adapter fits {missing[0]!r} of {setup.card.name}"
        mend = "put the folder that was trained into adapters/ beside the card"
        raise UserError(what, where=setup.path, mend=mend)
    setup.fit()
    return setup


def again(
    bundle: Path, setup: Setup, task: Task, share: float, seed: int, progress: Progress
) -> Iterator[Repeated]:
    """Makes a share of one task's turns again and compares them with a sound bundle's.

    Passages are embedded only if the cache does not hold their embeddings.
    """
    name = task.card.name
    run_file, answers_file = scored_files(bundle, name)
    run = read_run(run_file) if run_file else {}
    answers = read_answers(answers_file) if answers_file else {}
    chosen = drawn([t.turn_id for t in task.turns() if t.turn_id in run | answers], share, seed)
    view = View(
        f"verify {digest_of(chosen)}", lambda turn: turn if turn.turn_id in chosen else None
    )
    evaluation = Evaluation.with_setup(setup, task, None, progress, view)
    made_file = stages.retrieve(evaluation) / RUN
    if run_file:
        made, near = read_run(made_file), tolerance_of(setup, "retriever").score
        faults = {
            turn_id: ranking_fault(run[turn_id], made.get(turn_id, []), near)
            for turn_id in chosen
            if turn_id in run
        }
        yield _repeated(name, "retrieval", faults, share_of(setup, "retriever"))
    if answers_file:
        said = read_answers(stages.generate(evaluation, run_file or made_file) / ANSWERS)
        faults = {
            turn_id: answer_fault(answers[turn_id], said.get(turn_id))
            for turn_id in chosen
            if turn_id in answers
        }
        yield _repeated(name, "generation", faults, share_of(setup, "generator"))


def tolerance_of(setup: Setup, part: str) -> Tolerance:
    """That of the precision in which the `retriever` or `generator` runs its model."""
    alone = getattr(setup.card, part).kind in WITHOUT_MODEL
    return TOLERANCES["float32" if alone else setup.card.inference.dtype]


def share_of(setup: Setup, part: str) -> float:
    """Turns that have to agree: all rankings, whose near ties pass, unless they rest on texts."""
    rests_on_text = part == "generator" or setup.card.retriever.kind == "rewrite"
    return tolerance_of(setup, part).texts if rests_on_text else 1.0


def _repeated(task: str, stage: Stage, faults: dict[str, str | None], share: float) -> Repeated:
    different = [(turn_id, fault) for turn_id, fault in faults.items() if fault]
    return Repeated(
        task,
        stage,
        turns=len(faults),
        agree=len(faults) - len(different),
        needed=math.ceil(share * len(faults)),
        first=different[0] if different else None,
    )


def ranking_fault(claimed: Ranking, made: Ranking, tolerance: float) -> str | None:
    """In what a turn's ranking first differs from the one made again; None: they agree.

    Scores near each other are taken as equal, so passages may change places only among near ties,
    and leave a ranking only if their score is near the last one's. The new one may go deeper.
    A near tie lifts no passage to less than half of its rank, and none at all where two thirds of
    the passages are near each other, since such scores would let any order pass.

    Args:
        claimed: from the bundle, best first.
        made: made again.
        tolerance: as of `Tolerance.score`.
    """
    if len(claimed) > len(made):
        return f"it ranks {len(claimed)} passages, made again {len(made)}"
    scores = dict(claimed)
    found = {passage_id: (rank, score) for rank, (passage_id, score) in enumerate(made, 1)}
    best, last = (made[0][1], made[-1][1]) if made else (0.0, 0.0)
    near = max(tolerance * (best - last), ROUNDING * max(abs(best), abs(last)))
    apart = zip(made, made[2 * len(made) // 3 :], strict=False)
    lift = 1 if any(above - below <= near for (_, above), (_, below) in apart) else 2
    for rank, (passage_id, score) in enumerate(claimed, 1):
        # One that is not found again can have been no better than the last that is.
        below = len(made) + 1, min(score, last)
        repeated_rank, repeated = found.get(passage_id, below)
        where = f"passage {passage_id!r} at rank {rank}"
        gone = "" if passage_id in found else "at most "
        if abs(score - repeated) > near:
            return f"{where} has the score {score:.6g}, made again {gone}{repeated:.6g}"
        if rank < repeated_rank // lift:
            return f"{where} is a near tie, made again {gone}at rank {repeated_rank}"
    for rank, (passage_id, score) in enumerate(made[: len(claimed)], 1):
        if passage_id not in scores and score > claimed[-1][1] + near:
            return f"passage {passage_id!r}, at rank {rank} when made again, is not ranked"
    return None


def answer_fault(claimed: Answer, made: Answer | None) -> str | None:
    """In what an answer differs from the one made again; None: they are the same text."""
    if made is None:
        return "it is answered, made again it is not"
    one, other = claimed.text.strip(), made.text.strip()
    if one == other:
        return None
    words = zip([*one.split(), ""], [*other.split(), ""], strict=False)
    number = next((n for n, (a, b) in enumerate(words, 1) if a != b), 1)
    return f"the answer is {_from(one, number)}, made again {_from(other, number)}"


def _from(text: str, number: int) -> str:
    """A few words of a text around that one."""
    words = text.split()
    first = max(0, number - 4)
    shown = " ".join(words[first : first + 8])
    return repr(f"{'… ' if first else ''}{shown}{' …' if first + 8 < len(words) else ''}"[:160])
