"""What raw files hold of a profile: read, checked, written as turns, judgements and passages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from uniconv_bench.cards import Profile, TaskCard
from uniconv_bench.conversation import Conversation, Passage, Turn
from uniconv_bench.corpus import check_id, store
from uniconv_bench.errors import UserError
from uniconv_bench.files import write_json
from uniconv_bench.outside import each, passages_of
from uniconv_bench.progress import Silent
from uniconv_bench.system import Progress

PASSAGES = "passages"
COUNTS = "counts.json"


def turns_file(split: str) -> str:
    """Name of the JSONL file of a split's turns."""
    return f"turns.{split}.jsonl"


def qrels_file(split: str) -> str:
    """Name of the TSV file of a split's judgements."""
    return f"qrels.{split}.tsv"


@dataclass(frozen=True)
class Data:
    """What a raw folder holds of a profile: `splits` and `passages` are read once."""

    splits: Mapping[str, Iterable[Conversation]]
    passages: Iterable[Passage]
    facts: Mapping[str, Any]
    """How `mini` was made; empty for other profiles."""
    size: int = 0
    """Number of passages; 0 if unknown."""


def read(
    card: TaskCard,
    module: ModuleType,
    raw: Path,
    profile: Profile,
    *,
    allow_absent: bool,
    progress: Progress,
) -> Data:
    """What a task's module reads of its raw files, cut to `mini` at that profile.

    Args:
        card: the task.
        module: reads its raw files.
        raw: their folder.
        profile: which data it is to be.
        allow_absent: at `mini`, turns whose gold passages the files lack stay, unjudged.
        progress: told what is done.

    Raises:
        UserError: files of a split are missing or wrong, naming file, record and field.
    """
    found = list(each(module, "splits", lambda: module.splits(raw), str))
    if not found or (profile != "mini" and card.test_split not in found):
        what = f"no files of the split {card.test_split!r}, on which {card.title} is tested"
        raise UserError(what, where=raw, mend="put the official files there")
    splits = {}
    for split in found:
        call = partial(module.conversations, raw, split)
        rows = each(module, "conversations", call, Conversation)
        splits[split] = _checked(rows, f"{raw}, split {split}")
    if profile != "mini":
        return Data(splits, passages_of(module, raw), {})
    from uniconv_bench.mini import reduce

    mini = reduce(
        {split: tuple(conversations) for split, conversations in splits.items()},
        partial(passages_of, module, raw),
        card.test_split,
        card.mini,
        card.bm25,
        allow_absent=allow_absent,
        progress=progress,
    )
    kept = (p for p in passages_of(module, raw) if p.passage_id in mini.keep)
    facts = {"test_split": mini.test_split, **mini.facts}
    return Data(mini.splits, kept, facts, len(mini.keep))


def write(
    data: Data,
    raw: Path,
    folder: Path,
    profile: Profile,
    part: Callable[[Mapping[str, Any]], list[str]],
    progress: Progress,
) -> None:
    """Writes turns, judgements, corpus and counts of a profile; checks conversations.

    Args:
        data: as read.
        raw: the raw files' folder, for errors.
        folder: gets the files.
        profile: which data it is.
        part: of the counts so far, in what they differ from the whole dataset's; may refuse them.
        progress: told of the passages.

    Raises:
        UserError: a conversation is wrong, or names a passage that the corpus lacks.
    """
    splits: dict[str, dict[str, int]] = {}
    wanted: dict[str, tuple[str, str]] = {}
    for split, conversations in data.splits.items():
        place = f"{raw}, split {split}"
        splits[split] = _write_turns(conversations, split, place, folder, wanted)
    part({"splits": splits})  # the corpus may take an hour: what is wrong is said before
    missing = set(wanted)
    shown = progress if profile != "sample" else Silent()  # that of a sample is done in no time
    with shown.track("passages", data.size) as advance:
        count, digest = store(data.passages, folder / PASSAGES, raw, missing, advance)
    if missing:
        passage_id = next(passage_id for passage_id in wanted if passage_id in missing)
        name, where = wanted[passage_id]
        what = f"field {name} names passage {passage_id!r}, which the corpus lacks"
        mend = f"add the passage, or drop the judgement ({len(missing):,} such ids in all)"
        raise UserError(what, where=where, mend=mend)
    counts = {"passages": count, "corpus": digest, "splits": splits}
    facts = {"mini": dict(data.facts), "part": part(counts)}
    write_json(folder / COUNTS, counts | {name: fact for name, fact in facts.items() if fact})


def _checked(conversations: Iterable[Conversation], place: str) -> Iterator[Conversation]:
    """Passes conversations on whose ids are unique and fit together, and that say something."""
    seen: set[str] = set()
    for conversation in conversations:
        name = conversation.conversation_id
        where = f"{place}, conversation {name}"
        if name in seen:
            mend = "its turns must stand together in the file"
            raise UserError(f"conversation {name!r} occurs twice", where=where, mend=mend)
        seen.add(name)
        numbers: set[int] = set()
        for turn in conversation:
            spot = f"{where}, turn {turn.number}"
            if turn.number in numbers:
                raise UserError("turn number occurs twice", where=spot, mend="number it anew")
            numbers.add(turn.number)
            if turn.turn_id != f"{name}_{turn.number}" or turn.conversation_id != name:
                what = f"field turn_id is {turn.turn_id!r}, not <conversation>_<number>"
                raise UserError(what, where=spot, mend="mend the task's module")
            check_id(turn.turn_id, "turn_id", spot)
            if not turn.query.strip():
                raise UserError("field query is empty", where=spot, mend="drop the turn")
            if not all(text.strip() for text in turn.references):
                raise UserError("field references has an empty one", where=spot, mend="drop it")
        yield conversation


def _write_turns(
    conversations: Iterable[Conversation],
    split: str,
    place: str,
    folder: Path,
    wanted: dict[str, tuple[str, str]],
) -> dict[str, int]:
    """Writes turns and qrels of a split; `wanted` gathers ids, each with who named it and where."""
    count = {"conversations": 0, "turns": 0, "judged_retrieval": 0, "judged_generation": 0}
    with (
        (folder / turns_file(split)).open("w", encoding="utf-8") as turns,
        (folder / qrels_file(split)).open("w", encoding="utf-8") as qrels,
    ):
        for conversation in conversations:
            count["conversations"] += 1
            for turn in conversation:
                count["turns"] += 1
                count["judged_retrieval"] += bool(turn.gold)
                count["judged_generation"] += bool(turn.references)
                turns.write(_line(turn))
                where = f"{place}, turn {turn.turn_id}"
                for name, ids in (("gold", turn.gold), ("given", turn.given)):
                    for passage_id in ids:
                        check_id(passage_id, name, where)
                        wanted.setdefault(passage_id, (name, where))
                for passage_id in turn.gold:
                    qrels.write(f"{turn.turn_id}\t0\t{passage_id}\t1\n")
    if not count["turns"]:
        raise UserError("no turns", where=place, mend="the file holds no conversation")
    return count


def _line(turn: Turn) -> str:
    return json.dumps(turn.to_json(), ensure_ascii=False) + "\n"
