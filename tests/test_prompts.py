"""Prompts: shared prefix, end token, truncation, templates with and without a system role."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from uniconv_bench.conversation import INSTRUCTION, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.prompts import PromptFormat

PASSAGES = [Passage("p1", "The lamp was lit in 1890.", "Harrow [SEP] Lamp"), Passage("p2", "Fog.")]
TURN = Turn(
    "c_3",
    "c",
    3,
    "Who kept its lamp?",
    (
        Utterance("user", "Tell me about Harrow Light."),
        Utterance("assistant", "It is a lighthouse."),
        Utterance("user", "Where?"),
        Utterance("assistant", "On Harrow Point."),
    ),
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
)


@pytest.fixture
def form(tiny_tokenizer: Any) -> PromptFormat:
    return PromptFormat(tiny_tokenizer, 1024, 64)


def test_session_is_a_prefix_of_every_other_input(form: PromptFormat) -> None:
    session = form.session(TURN)
    assert form.query(TURN) == [*session, form.end]
    assert form.grounded(TURN, PASSAGES)[: len(session)] == session
    assert form.prompt(TURN, PASSAGES).ids[: len(session)] == session
    assert form.prompt(TURN, []).ids[: len(session)] == session


def test_prompt_reads_as_the_chat_template_would_write_it(form: PromptFormat) -> None:
    text = form.tokenizer.decode(form.prompt(TURN, PASSAGES).ids)
    content = (
        "Who kept its lamp?\n\nPassages:\n[1] Harrow [SEP] Lamp\nThe lamp was lit in 1890."
        "\n[2] Fog."
    )
    messages = [{"role": "system", "content": INSTRUCTION}]
    messages += [{"role": u.role, "content": u.text} for u in TURN.history]
    messages += [{"role": "user", "content": content}]
    template = form.tokenizer.apply_chat_template
    assert text == template(messages, tokenize=False, add_generation_prompt=True)


def test_nothing_is_added_to_what_the_template_writes(tiny_tokenizer: Any) -> None:
    """Many tokenizers begin every text with their BOS, which would then be there twice."""
    adding, bos = copy.deepcopy(tiny_tokenizer), tiny_tokenizer.bos_token
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, adding.bos_token_id)]
    )
    assert adding("x")["input_ids"][0] == adding.bos_token_id
    plain, form = PromptFormat(tiny_tokenizer, 1024, 64), PromptFormat(adding, 1024, 64)
    assert form.prompt(TURN, PASSAGES) == plain.prompt(TURN, PASSAGES)
    assert form.query(TURN) == plain.query(TURN)
    assert form.passage(PASSAGES[0]) == plain.passage(PASSAGES[0])
    assert form.response("Fog.") == plain.response("Fog.")


def test_a_response_closes_with_the_end_token(form: PromptFormat) -> None:
    said = form.response("It was lit in 1890.")
    assert said[-1] == form.end and form.end not in said[:-1]


def test_truncation_drops_oldest_exchanges_and_keeps_query_and_end(tiny_tokenizer: Any) -> None:
    whole = PromptFormat(tiny_tokenizer, 1024, 64)
    limit = len(whole.session(TURN)) - 1
    short = PromptFormat(tiny_tokenizer, limit, 64)
    kept = replace(TURN, history=TURN.history[2:])
    assert short.session(TURN) == whole.session(kept)
    assert PromptFormat(tiny_tokenizer, 1, 64).query(TURN) == whole.query(TURN, "query")
    assert short.query(TURN)[-1] == whole.end


def test_end_token_survives_a_cut_passage(tiny_tokenizer: Any) -> None:
    form = PromptFormat(tiny_tokenizer, 1024, 8)
    ids = form.passage(Passage("p", "a long passage " * 50))
    assert len(ids) == 8
    assert ids[-1] == form.end
    assert form.end not in ids[:-1]


def test_no_token_is_doubled_by_the_template(form: PromptFormat) -> None:
    begin = form.tokenizer.bos_token_id
    ids = form.prompt(TURN, PASSAGES).ids
    assert ids[0] == begin
    assert ids[1] != begin


def test_template_without_system_role_carries_the_instruction_in_the_first_user_turn(
    tiny_tokenizer: Any,
) -> None:
    tiny_tokenizer.chat_template = NO_SYSTEM
    form = PromptFormat(tiny_tokenizer, 1024, 64)
    text = form.tokenizer.decode(form.session(TURN))
    assert text.startswith(f"[user] {INSTRUCTION}\n\nTell me about Harrow Light.")
    assert text.count(INSTRUCTION) == 1


def test_history_opened_by_the_assistant_starts_with_a_user_turn(form: PromptFormat) -> None:
    turn = replace(TURN, history=TURN.history[1:])
    roles = form.tokenizer.decode(form.session(turn)).split("<|im_start|>")[2:]
    assert [r.split("\n")[0] for r in roles] == ["user", "assistant", "user", "assistant", "user"]


def test_history_and_query_modes_differ_only_in_history(form: PromptFormat) -> None:
    assert form.query(TURN, "query") == form.query(replace(TURN, history=()))
    assert form.query(TURN, "query") != form.query(TURN)


@pytest.mark.parametrize(("mask", "leaks"), [("strict", 0), ("chatretriever", 1)])
def test_under_a_session_mask_the_end_token_stands_for_the_session(
    form: PromptFormat, mask: Any, leaks: int
) -> None:
    session, plain = form.session(TURN), form.prompt(TURN, PASSAGES)
    prompt = form.prompt(TURN, PASSAGES, mask)
    assert plain == (plain.ids, 0, 0)
    assert prompt.ids[: prompt.unseen] == session
    assert prompt.ids[: prompt.unseen + 1] == form.query(TURN)
    assert prompt.start == prompt.unseen + 1 + leaks
    assert prompt.ids[prompt.unseen + 1 :] == plain.ids[len(session) :]


def test_a_tokenizer_of_no_chat_model_is_refused(tiny_tokenizer: Any) -> None:
    plain = copy.deepcopy(tiny_tokenizer)
    plain.chat_template = None
    with pytest.raises(UserError, match="has no chat template or end token; name a chat model"):
        PromptFormat(plain, 100, 20)
