"""One system on one task, asked turn by turn: a ranking, then an answer from its top passages.

What the batch stages do from files to files, for a person who waits. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from uniconv_bench.assembly import Setup
from uniconv_bench.cards import Profile
from uniconv_bench.conversation import Passage, Turn, Utterance
from uniconv_bench.errors import UserError, unknown_name
from uniconv_bench.outside import answers, rankings
from uniconv_bench.progress import Silent
from uniconv_bench.reader import Memories
from uniconv_bench.system import Generator, Progress, Ranking, Ranks, Retriever, Streams
from uniconv_bench.task import Task, load_task


@dataclass(frozen=True)
class Speaker:
    """A system that is asked one turn at a time.

    Attributes:
        name: of its card.
        retriever: its own, built for the task.
        generator: likewise.
        depth: passages of a ranking that are wanted.
        memories: what its models have read last.
    """

    name: str
    task: Task
    retriever: Retriever
    generator: Generator
    depth: int
    progress: Progress
    memories: Memories = field(default_factory=Memories)

    @staticmethod
    def of(system: str, task: Task, profile: Profile, progress: Progress) -> Speaker:
        """A system by name or card path; trains its adapters if no fitting ones are there."""
        setup = Setup.of(system, profile, progress)
        setup.tasks[task.card.name] = task
        setup.fit()
        parts = setup.part("retriever", task), setup.part("generator", task)
        return Speaker(setup.card.name, task, *parts, setup.card.inference.top_k, progress)

    def retrieve(self, turn: Turn) -> Ranking:
        """The passages that it answers from, best first."""
        corpus = self.task.corpus
        if isinstance(self.retriever, Ranks):
            return self.retriever.rank(turn, corpus, self.depth, self.memories, self.progress)
        found = rankings(self.retriever, [turn], corpus, self.depth, Silent())
        return found.get(turn.turn_id, [])

    def answer(self, turn: Turn, passages: Sequence[Passage]) -> Iterator[str]:
        """Its answer, in pieces where it can."""
        if isinstance(self.generator, Streams):
            yield from self.generator.stream(turn, passages, self.memories, self.progress)
            return
        evidence = {turn.turn_id: passages}
        for answer in answers(self.generator, [turn], evidence, Silent()):
            yield answer.text

    def shown(self, turn: Turn, passages: Sequence[Passage]) -> str:
        """The prompt as its model gets it.

        Raises:
            UserError: its generator does not show it.
        """
        if not isinstance(self.generator, Streams):
            raise UserError(f"the generator of {self.name} does not show its prompt")
        return self.generator.shown(turn, passages, self.progress)


@dataclass
class Exchange:
    """A turn, what was found for it, and what was answered so far."""

    speaker: Speaker
    turn: Turn
    ranking: Ranking = field(default_factory=list)
    answer: str = ""

    @property
    def passages(self) -> list[Passage]:
        """What the answer is from, best first."""
        return [self.speaker.task.corpus[passage_id] for passage_id, _ in self.ranking]

    def retrieve(self) -> None:
        """Finds the passages."""
        self.ranking = self.speaker.retrieve(self.turn)

    def say(self) -> Iterator[str]:
        """The answer as it comes; what was said before a stop stays."""
        for piece in self.speaker.answer(self.turn, self.passages):
            self.answer += piece
            yield piece

    def shown(self) -> str:
        """The prompt as the model got it."""
        return self.speaker.shown(self.turn, self.passages)


class Dialogue:
    """A conversation with a system on a prepared task; another may be asked the same turn.

    Args:
        task: name or card path.
        system: likewise.
        profile: of both.
        progress: told of loading.
        turn_id: the test turn whose history it goes on from.

    Raises:
        UserError: a wrong name, or no such turn.
    """

    def __init__(
        self,
        task: str,
        system: str,
        profile: Profile,
        progress: Progress,
        turn_id: str | None = None,
    ):
        self.task = load_task(task, profile, progress=progress)
        self._profile, self._progress = profile, progress
        self.start = _turn(self.task, turn_id) if turn_id else None
        self._speakers: dict[str, Speaker] = {}
        self.speaker = self._named(system)
        self.last: Exchange | None = None

    @property
    def history(self) -> tuple[Utterance, ...]:
        """What was said, oldest first."""
        if self.last is None:
            return self.start.history if self.start else ()
        turn, answer = self.last.turn, self.last.answer
        return *turn.history, Utterance("user", turn.query), Utterance("assistant", answer)

    def ask(self, question: str) -> Exchange:
        """A next turn, still to be answered."""
        past = self.history
        if self.last is None and self.start and question == self.start.query:
            return Exchange(self.speaker, self.start)  # with what the task gives
        number = 1 + sum(said.role == "user" for said in past)
        return Exchange(self.speaker, Turn(f"chat_{number}", "chat", number, question, past))

    def swap(self, system: str) -> Exchange | None:
        """Goes on with another system; the last turn, if there is one, for it to answer too."""
        self.speaker = self._named(system)
        return Exchange(self.speaker, self.last.turn) if self.last else None

    def keep(self, exchange: Exchange) -> None:
        """What is answered becomes part of the conversation, in place of another answer to it."""
        self.last = exchange

    def reset(self) -> None:
        """Back to how it began."""
        self.last = None

    def _named(self, system: str) -> Speaker:
        if system not in self._speakers:
            self._speakers[system] = Speaker.of(system, self.task, self._profile, self._progress)
        return self._speakers[system]


def _turn(task: Task, turn_id: str) -> Turn:
    turns = {turn.turn_id: turn for turn in task.turns()}
    if turn_id not in turns:
        raise unknown_name("turn", turn_id, turns)
    return turns[turn_id]
