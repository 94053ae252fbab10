"""Decoding on a tiny random decoder: batches, limits, drawing, what is not read twice."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_uniconv import END, task

from uniconv_bench import decode as module
from uniconv_bench.conversation import Utterance
from uniconv_bench.decode import Decoding, decode, stream
from uniconv_bench.errors import UserError
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import Prompt, PromptFormat
from uniconv_bench.reader import ROOM, Memories, Memory, Reader
from uniconv_bench.uniconv.backbone import find_backbone, load_decoder
from uniconv_bench.uniconv.embedding import hidden_states
from uniconv_bench.uniconv.losses import masked_states
from uniconv_bench.uniconv.parts import _pieces

PROMPTS = [Prompt(ids) for ids in ([1, 40, 41, 42], [1, 50], [1, 60, 61, 62, 63, 64, 65])]
"""None ends with the filler, which at its place would do as well as the row's own last token."""
GREEDY = Decoding(ends=(END,), max_new_tokens=12)


def many(count: int = 13) -> list[Prompt]:
    draw = random.Random(0)
    return [
        Prompt([draw.randrange(3, 250) for _ in range(draw.randrange(2, 40))]) for _ in range(count)
    ]


def answers(model: Any, prompts: list[Prompt], how: Decoding, size: int) -> dict[int, list[int]]:
    return dict(decode(model, prompts, how, batch_size=size))


def telling(model: Any) -> None:
    """Weights so large that what is said depends on every token before it, and on its place."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)


def ending(model: Any, prompts: list[Prompt]) -> Decoding:
    """Ends that make some answers short, some long: the tokens said third in some of them."""
    free = answers(model, prompts, GREEDY, len(prompts))
    return Decoding(ends={END, *(free[i][2] for i in range(0, len(prompts), 3))}, max_new_tokens=12)


@pytest.mark.parametrize("together", [16, 2])
def test_batch_composition_does_not_change_greedy_answers(
    together: int, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uniconv_bench.reader.TOGETHER", together)
    telling(tiny_model)
    prompts = many()
    how = ending(tiny_model, prompts)
    alone = answers(tiny_model, prompts, how, 1)
    assert len({len(ids) for ids in alone.values()}) > 2  # rows leave while others go on
    for size in (2, 5, 13):
        assert answers(tiny_model, prompts, how, size) == alone


def test_near_equal_logits_are_told_apart_by_the_row_alone(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise as of rounding, but larger and other in every pass, would else choose the tokens."""
    head = tiny_model.get_output_embeddings().weight.data
    head[1:258:2] = head[0:258:2].clone()  # all logits twice
    settled = answers(tiny_model, PROMPTS, GREEDY, 1)
    forward, noise = Reader._forward, module.NEAR / 4

    def noisy(self: Reader, ids: Any, mask: Any, states: bool) -> Any:
        logits = forward(self, ids, mask, states)
        size = noise * float(logits.abs().max())
        return logits if len(ids) == 1 else logits + size * torch.rand_like(logits)

    monkeypatch.setattr(Reader, "_forward", noisy)
    assert answers(tiny_model, PROMPTS, GREEDY, 3) == settled
    monkeypatch.setattr(module, "NEAR", 0.0)
    assert answers(tiny_model, PROMPTS, GREEDY, 3) != settled


@pytest.mark.slow
def test_batch_composition_does_not_change_greedy_answers_of_the_real_backbone() -> None:
    model, tokenizer = load_decoder(find_backbone("smollm2-135m"), None, "float32", True, Silent())
    form = PromptFormat(tokenizer, 300, 60)
    turns = task().turns("train")[:6]
    prompts = [form.prompt(t, list(task().corpus)[:n]) for n, t in enumerate(turns)]
    how = Decoding(ends=(form.end,), max_new_tokens=24)
    alone = answers(model, prompts, how, 1)
    assert answers(model, prompts, how, 6) == answers(model, prompts, how, 4) == alone


def test_greedy_answers_are_those_of_transformers(tiny_model: Any) -> None:
    prompts = many()
    how = ending(tiny_model, prompts)
    found = answers(tiny_model, prompts, how, 5)
    for number, (row, _, _) in enumerate(prompts):
        output = tiny_model.generate(
            torch.tensor([row]),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=list(how.ends),
            pad_token_id=END,
        )[0, len(row) :].tolist()
        assert found[number] == (output[:-1] if output[-1] in how.ends else output)


def test_more_tokens_than_there_is_room_for(tiny_model: Any) -> None:
    how = Decoding(ends=(), max_new_tokens=2 * ROOM + 5)
    found = answers(tiny_model, PROMPTS, how, 3)
    for number, (row, _, _) in enumerate(PROMPTS):
        whole = torch.tensor([[*row, *found[number]]])
        said = tiny_model(whole).logits[0, len(row) - 1 : -1].argmax(-1).tolist()
        assert found[number] == said


def test_answers_stop_before_an_end_token_and_after_what_they_are_stopped_by(
    tiny_model: Any,
) -> None:
    free = answers(tiny_model, PROMPTS, GREEDY, 3)[0]
    third = free[2]
    cut = answers(tiny_model, PROMPTS, Decoding(ends=(END, third), max_new_tokens=12), 3)[0]
    assert cut == free[: free.index(third)]
    how = Decoding(ends=(END,), max_new_tokens=12, stopped=lambda ids: third in ids)
    assert answers(tiny_model, PROMPTS, how, 3)[0] == free[: free.index(third) + 1]


def test_an_answer_ends_where_the_window_does(tiny_model: Any) -> None:
    free = answers(tiny_model, PROMPTS, GREEDY, 3)
    tiny_model.config.max_position_embeddings = 9
    found = answers(tiny_model, PROMPTS, GREEDY, 3)
    assert found == {i: free[i][: 9 - len(PROMPTS[i].ids)] for i in range(3)}
    tiny_model.config.max_position_embeddings = 7
    with pytest.raises(UserError, match="a prompt of 7 tokens fills the model's window of 7"):
        answers(tiny_model, PROMPTS, GREEDY, 3)


# --- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.1, 1.0), (0.1, 0.5)])
def test_drawn_answers_follow_the_probabilities(
    temperature: float, top_p: float, tiny_model: Any
) -> None:
    prompts = [Prompt([5, 6, 7])] * 4000

    def first(seed: int) -> list[int]:
        how = Decoding(ends=(), max_new_tokens=1, temperature=temperature, top_p=top_p, seed=seed)
        found = answers(tiny_model, prompts, how, 4000)
        return [found[i][0] for i in range(4000)]

    drawn = first(0)
    assert first(0) == drawn != first(1)
    with torch.inference_mode():
        logits = tiny_model(torch.tensor([[5, 6, 7]])).logits[0, -1]
    wanted = (logits / temperature).softmax(-1)
    ordered, tokens = wanted.sort(descending=True)
    wanted[tokens[ordered.cumsum(0) - ordered >= top_p]] = 0
    wanted /= wanted.sum()
    found = torch.bincount(torch.tensor(drawn), minlength=len(wanted)) / len(drawn)
    assert float((found - wanted).abs().max()) < 0.025
    assert float(wanted.max()) < 0.7  # else nothing would be drawn
    assert not found[wanted == 0].any()


def test_a_drawn_answer_depends_on_its_seed_and_name_alone(tiny_model: Any) -> None:
    how = Decoding(ends=(END,), max_new_tokens=12, temperature=1.0, seed=3)
    names = [f"turn{i}" for i in range(13)]
    prompts = many()
    whole = dict(decode(tiny_model, prompts, how, batch_size=13, names=names))
    last = dict(decode(tiny_model, prompts[9:], how, batch_size=2, names=names[9:]))
    assert list(map(last.get, range(4))) == list(map(whole.get, range(9, 13)))
    others = dict(decode(tiny_model, prompts, how, batch_size=13))
    assert others != whole


# --- session masks, and what is not read twice ----------------------------------------------------


@pytest.mark.parametrize(("mask", "kept"), [("strict", 1), ("chatretriever", 2)])
def test_masked_answers_are_those_of_a_whole_pass(
    mask: Any, kept: int, tiny_model: Any, form: PromptFormat
) -> None:
    """Token by token: the reference of training reads prompt and answer so far from the start."""
    telling(tiny_model)
    turns = task().turns("train")[:3]
    prompts = [form.prompt(t, list(task().corpus)[:n], mask) for n, t in enumerate(turns)]
    assert {p.start - p.unseen for p in prompts} == {kept}
    found = answers(tiny_model, prompts, Decoding(ends=(END,), max_new_tokens=4), 3)
    head = tiny_model.get_output_embeddings()
    for number, prompt in enumerate(prompts):
        said: list[int] = []
        while len(said) < 4 and END not in said:
            states = masked_states(tiny_model, prompt, said)
            said.append(int(head(states[-1]).argmax()))
        assert found[number] == (said[: said.index(END)] if END in said else said)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Lengths of the pieces that are read."""
    lengths: list[int] = []
    forward = Reader._forward

    def counted(self: Reader, ids: Any, mask: Any, states: bool) -> Any:
        lengths.append(ids.shape[1])
        return forward(self, ids, mask, states)

    monkeypatch.setattr(Reader, "_forward", counted)
    yield lengths


@pytest.mark.parametrize("mask", ["none", "strict", "chatretriever"])
@pytest.mark.parametrize("shown", [0, 2])
def test_a_session_read_for_retrieval_is_not_read_again(
    mask: Any, shown: int, tiny_model: Any, form: PromptFormat, read: list[int]
) -> None:
    turn, passages = task().turns("train")[0], list(task().corpus)[:shown]
    prompt = form.prompt(turn, passages, mask)
    (alone,) = answers(tiny_model, [prompt], GREEDY, 1).values()
    assert len(alone) > 3
    query = form.query(turn)
    memory = Memory(tiny_model)
    for _ in range(2):  # a turn that is asked again, too
        state = memory.state(query)
        wanted = hidden_states(tiny_model, [query], END)[0, -1]
        torch.testing.assert_close(state, wanted, atol=1e-5, rtol=0)
        read.clear()
        assert list(stream(memory, prompt, GREEDY)) == alone
        whole = len(prompt.ids) - len(query)
        assert sum(n for n in read if n > 1) <= whole + 1 < len(prompt.ids) / 2 + whole


def test_the_next_turn_reads_what_is_new(
    tiny_model: Any, form: PromptFormat, read: list[int]
) -> None:
    turn, memory = task().turns("train")[0], Memory(tiny_model)
    memory.state(form.query(turn))
    list(stream(memory, form.prompt(turn, list(task().corpus)[:2]), GREEDY))
    said = (*turn.history, Utterance("user", turn.query), Utterance("assistant", "Keeper 0."))
    later = replace(turn, turn_id="c0_3", history=said, query="Since when?")
    read.clear()
    state = memory.state(form.query(later))
    wanted = hidden_states(tiny_model, [form.query(later)], END)[0, -1]
    torch.testing.assert_close(state, wanted, atol=1e-5, rtol=0)
    assert read == [len(form.query(later)) - len(form.session(turn))]
    other = replace(turn, query="Where?", history=())
    state = memory.state(form.query(other))
    wanted = hidden_states(tiny_model, [form.query(other)], END)[0, -1]
    torch.testing.assert_close(state, wanted, atol=1e-5, rtol=0)


def test_the_same_weights_share_a_memory(tiny_model: Any) -> None:
    memories = Memories()
    first = memories.of(tiny_model)
    assert memories.of(copy.deepcopy(tiny_model)) is not first
    assert memories.of(tiny_model) is first


# --- text as it comes -----------------------------------------------------------------------------


def test_pieces_make_the_text_and_are_never_taken_back(tiny_tokenizer: Any) -> None:
    text = "  A lédger — of ships.\n\n"
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]

    def said(tokens: list[int]) -> str:
        return str(tiny_tokenizer.decode(tokens)).strip()

    pieces = list(_pieces(iter(ids), said, 0))
    assert "".join(pieces) == text.strip() and len(pieces) > 10
    assert "\ufffd" not in "".join(pieces)

    def cut(tokens: list[int]) -> str:
        return str(tiny_tokenizer.decode(tokens)).partition(" of")[0].strip()

    assert "".join(_pieces(iter(ids), cut, 3)) == "A lédger —"
    assert list(_pieces(iter([]), said, 0)) == [""]
