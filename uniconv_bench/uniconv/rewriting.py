"""Self-contained questions: a decoder rewrites the current question of each turn from its session.

Knows a decoder and prompts; nothing of retrieval.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from uniconv_bench.appended import go_on, line_of
from uniconv_bench.artefacts import folder_of, missing_artefact
from uniconv_bench.conversation import Turn
from uniconv_bench.decode import Decoding, decode
from uniconv_bench.files import digest_of, digest_of_code, read_jsonl, write_jsonl
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.seals import PARTIAL
from uniconv_bench.system import Context, Progress
from uniconv_bench.uniconv.parts import DECODING, Decoder, ends

REWRITES = "rewrites.jsonl"


class Rewriter:
    """Greedy rewrites, kept in the cache as `rewrites.jsonl`.

    Args:
        adapter: of the card, on the backbone; None: the backbone untrained.
        tokens: most tokens of a rewrite.
        instruction: what the decoder is told.
        context: backbone and limits.
    """

    def __init__(self, adapter: str | None, tokens: int, instruction: str, context: Context):
        self._decoder = Decoder(adapter, context)
        self._tokens, self._instruction = tokens, instruction

    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that a rewrite depends on beside the turns."""
        return {
            "rewriting": "greedy",
            "tokens": self._tokens,
            "told": self._instruction,
            "batch_size": self._decoder.inference.decode_batch_size,
            **self._decoder.fingerprint(),
            "code_decode": digest_of_code(*DECODING, "uniconv/rewriting"),
        }

    def rewritten(self, turns: Sequence[Turn], progress: Progress) -> list[Turn]:
        """The turns, each with its rewrite as its query and with no history.

        A turn that opens its conversation keeps its question, and so does one for which the
        decoder writes nothing.
        """
        later = [turn for turn in turns if turn.history]
        asked = [[t.turn_id, [[u.role, u.text] for u in t.history], t.query] for t in later]
        fingerprint = {**self.fingerprint(), "turns": digest_of(asked)}
        folder = folder_of("rewrites", self._decoder.task.name, fingerprint)
        with missing_artefact(folder, fingerprint) as working:
            if working is not None:
                self._write(later, working / REWRITES, progress)
        progress.note(f"  rewrites: {folder / REWRITES}")
        found = {row["turn_id"]: row["rewrite"] for _, row in read_jsonl(folder / REWRITES)}
        return [
            replace(turn, query=found.get(turn.turn_id) or turn.query, history=(), rewrite=None)
            for turn in turns
        ]

    def _write(self, turns: Sequence[Turn], path: Path, progress: Progress) -> None:
        """Notes batch by batch; goes on after the last whole batch of a stopped run."""
        size = self._decoder.inference.decode_batch_size
        so_far = path.with_name(f"{path.name}{PARTIAL}")
        rows = go_on(so_far, size)
        with progress.track("rewrite", len(turns)) as advance, so_far.open("a") as stream:
            advance(len(rows))
            for first in range(len(rows), len(turns), size):
                model, form = self._decoder.load(progress)
                batch = turns[first : first + size]
                texts = self._texts(model, form, batch)
                for turn, text in zip(batch, texts, strict=True):
                    row = {"turn_id": turn.turn_id, "query": turn.query, "rewrite": text}
                    rows.append(json.dumps(row))
                    stream.write(line_of(rows[-1]))
                stream.flush()
                advance(len(batch))
        write_jsonl(path, map(json.loads, rows))

    def _texts(self, model: Any, form: PromptFormat, turns: Sequence[Turn]) -> list[str]:
        """The first line that the decoder writes for each turn; empty for none."""
        found = [""] * len(turns)
        prompts = [form.rewriting(turn, self._instruction) for turn in turns]
        how = Decoding(ends=ends(model, form), max_new_tokens=self._tokens)
        for index, ids in decode(model, prompts, how, batch_size=len(prompts)):
            text = form.tokenizer.decode(ids, skip_special_tokens=True).strip()
            found[index] = text.partition("\n")[0].strip()
        return found
