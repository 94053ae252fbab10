"""The one-pass form of the joint loss: trees of rows, and gradients as of three plain passes."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_uniconv import END, WEIGHTS, learnt, task, training
from torch.nn import functional

from uniconv_bench.conversation import Utterance
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.training_cards import Lora
from uniconv_bench.uniconv import tree
from uniconv_bench.uniconv.adapter import adapted
from uniconv_bench.uniconv.backbone import find_backbone, load_model, load_tokenizer
from uniconv_bench.uniconv.embedding import embed
from uniconv_bench.uniconv.joint import JointLoss
from uniconv_bench.uniconv.losses import Weights, loss_terms
from uniconv_bench.uniconv.mixture import make_batch
from uniconv_bench.uniconv.tree import Packed, Row, pack, size

torch.set_num_threads(1)
TREES = [
    [Row([5, 6, 7, END]), Row([5, 6, 8, 9, END]), Row([5, 6, 8, 10])],
    [Row([5, 6, 7, END])],
    [Row([11, 12]), Row([11, 12, 13]), Row([11, 12])],
    [Row([20]), Row([21])],
]
SIZES = [8, 4, 3, 2]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the short trees of these tests are attended in several pieces too."""
    monkeypatch.setattr(tree, "PIECE", 3)


def packed(trees: Any = TREES) -> Packed:
    return pack(trees, END, torch.float32, "cpu")


def test_what_rows_share_is_one_node() -> None:
    assert [size(tree) for tree in TREES] == SIZES
    assert packed().ids.shape == (2, 9)  # 8 and 4 + 3 + 2 nodes


def test_every_row_is_a_path_that_sees_itself_alone() -> None:
    made = packed()
    rows = [row for rows in TREES for row in rows]
    for (line, path), row in zip(made.paths, rows, strict=True):
        assert made.ids[line, path].tolist() == row.ids
        assert made.positions[line, path].tolist() == list(range(len(row.ids)))
        for place, node in enumerate(path):
            seen = (made.mask[line, 0, node] == 0).nonzero().flatten().tolist()
            assert sorted(seen) == sorted(path[: place + 1])


@pytest.mark.parametrize(("start", "leaks"), [(4, 0), (5, 1)])
def test_what_is_masked_is_seen_through_the_end_token_alone(start: int, leaks: int) -> None:
    """Session 5 6 7, its end token, then the answer; with ChatRetriever's mask one token leaks."""
    row = Row([5, 6, 7, END, 30, 31, 32], unseen=3, start=start)
    made = packed([[Row([5, 6, 7, END]), row]])
    assert size([Row([5, 6, 7, END]), row]) == 7
    (_, path) = made.paths[1]
    views = [(made.mask[0, 0, node] == 0).nonzero().flatten().tolist() for node in path]
    assert views[: 4 + leaks] == [path[: n + 1] for n in range(4 + leaks)]
    for place in range(4 + leaks, 7):
        assert views[place] == path[3 : place + 1]


@pytest.mark.parametrize("order", [1, -1])
def test_nodes_that_see_less_are_nobody_elses(order: int) -> None:
    """Whichever of the two rows grows first."""
    rows = [Row([5, 6, END, 30], unseen=2, start=3), Row([5, 6, END, 30, 31])][::order]
    made = packed([rows])
    masked, plain = (path for _, path in made.paths[::order])
    seen = {
        node: (made.mask[0, 0, node] == 0).nonzero().flatten().tolist() for node in masked + plain
    }
    assert [seen[node] for node in plain] == [plain[: place + 1] for place in range(5)]
    assert seen[masked[3]] == masked[2:]


def test_masks_are_added_and_every_node_sees_something() -> None:
    made = packed()
    assert made.mask.dtype == torch.float32
    assert set(made.mask.unique().tolist()) == {0.0, torch.finfo(torch.float32).min}
    assert (made.mask == 0).any(-1).all()  # fillers too: no softmax over nothing


def test_states_of_a_tree_are_those_of_its_rows(tiny_model: Any) -> None:
    made = packed()
    states = tiny_model.base_model(
        input_ids=made.ids, attention_mask=made.mask, position_ids=made.positions, use_cache=False
    ).last_hidden_state
    rows = [row for rows in TREES for row in rows]
    for (line, path), row in zip(made.paths, rows, strict=True):
        alone = tiny_model.base_model(torch.tensor([row.ids]), use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(states[line, path], alone, atol=1e-5, rtol=1e-4)


def test_keys_that_no_node_sees_are_not_read(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the states are the same, as the mask threw away what came of them."""
    made, scores = packed(), []
    known = {"attention_mask": made.mask, "position_ids": made.positions, "use_cache": False}
    before = tiny_model.base_model(input_ids=made.ids, **known).last_hidden_state
    monkeypatch.setattr(tiny_model.config, "_attn_implementation", "sdpa")  # as it was, at the end
    tree.attend_in_order(tiny_model)
    computed = functional.scaled_dot_product_attention

    def counted(query: Any, key: Any, *given: Any, **options: Any) -> Any:
        scores.append(query.shape[2] * key.shape[2])
        return computed(query, key, *given, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    after = tiny_model.base_model(input_ids=made.ids, **known, in_order=True).last_hidden_state
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)
    layers, width = tiny_model.config.num_hidden_layers, made.ids.shape[1]
    pieces = [
        (min(start + 3, width) - start, min(start + 3, width)) for start in range(0, width, 3)
    ]
    assert sum(scores) == layers * sum(many * end for many, end in pieces) < layers * width**2


def batch_of(form: PromptFormat, **changes: Any) -> Any:
    chosen = training(**changes)
    return make_batch(learnt(task(), chosen), chosen, form, random.Random(0))


def reference(
    model: Any, batch: Any, weights: Weights, end: int = END
) -> tuple[dict[str, float], dict[str, Any]]:
    """Values and gradients of three passes."""
    model.zero_grad()
    values: dict[str, float] = {}
    for name, weight, loss in loss_terms(model, batch, weights, end):
        (weight * loss).backward()
        values[name] = values.get(name, 0.0) + loss.item()
    return values, gradients(model)


def gradients(model: Any) -> dict[str, Any]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def distance(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Of all gradients as one vector, relative."""
    assert found.keys() == wanted.keys()
    apart = sum(float(((found[n] - wanted[n]) ** 2).sum()) for n in wanted)
    return float((apart / sum(float((g**2).sum()) for g in wanted.values())) ** 0.5)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"generation_input": "session+passage", "generation_passages": 0},
    {"generation_input": "session+passage", "generation_passages": 2},
    {"cii_input": "query+passage"},
    {"cii_score": "loglik", "generation_input": "session+passage"},
    {"cii_score": "loglik", "cii_input": "query+passage", "cii_rivals": 2},
    {"cii_score": "pairwise", "cii_negatives": "previous_turn"},
    {"cii_score": "loglik", "cii_negatives": "retrieved_wrong_passage", "cii_rivals": 2},
    {"cii_negatives": "retrieved_wrong_passage"},
    {"cii_negatives": "previous_turn"},
    {"ddm": "response_as_passage"},
    {"ddm": "passage_as_response"},
    {"hard_negatives": 0},
    {"session_mask": "strict"},
    {"session_mask": "chatretriever", "generation_input": "session+passage"},
]


@pytest.mark.parametrize("tokens_at_once", [None, 700, 1])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_one_pass_has_the_gradients_of_three(
    changes: dict[str, Any], tokens_at_once: int | None, tiny_model: Any, form: PromptFormat
) -> None:
    batch = batch_of(form, **changes)
    weights = replace(WEIGHTS, cii_score=changes.get("cii_score", "embedding"))
    values, wanted = reference(tiny_model, batch, weights)
    assert set(values) == {"retrieval", "generation", "cii"}
    tiny_model.zero_grad()
    found = JointLoss(tiny_model, weights, END, tokens_at_once=tokens_at_once).step(batch)
    assert found == pytest.approx(values, rel=1e-5)
    assert distance(gradients(tiny_model), wanted) < 5e-5


@pytest.mark.parametrize("cii", [0.0, 0.5])
def test_tokens_read_are_those_of_losses_that_weigh(
    cii: float, tiny_model: Any, form: PromptFormat
) -> None:
    batch = batch_of(form)
    loss = JointLoss(tiny_model, replace(WEIGHTS, cii=cii), END, tokens_at_once=200)
    loss.step(batch)
    begun: list[set[tuple[int, ...]]] = [set() for _ in batch.queries]
    rows = [(i, q) for i, q in enumerate(batch.queries) if batch.positives[i] is not None]
    said = zip(batch.prompts, batch.responses, strict=True)
    rows += [(i, [*prompt.ids, *response]) for i, (prompt, response) in enumerate(said)]
    rows += [(anchor.turn, anchor.ids) for anchor in batch.anchors if cii]
    for turn, ids in rows:
        begun[turn] |= {tuple(ids[: end + 1]) for end in range(len(ids))}
    texts = sum(map(len, [*batch.candidates, *(batch.targets if cii else [])]))
    assert loss.tokens_read == sum(map(len, begun)) + texts


@pytest.mark.parametrize("term", ["retrieval", "generation", "cii"])
def test_one_objective_alone(term: str, tiny_model: Any, form: PromptFormat) -> None:
    alone = {"retrieval": 0.0, "generation": 0.0, "cii": 0.0} | {term: 2.0}
    weights = Weights(**alone, temperature=0.05, cii_temperature=0.1)
    batch = batch_of(form)
    values, wanted = reference(tiny_model, batch, weights)
    tiny_model.zero_grad()
    assert JointLoss(tiny_model, weights, END).step(batch) == pytest.approx(values, rel=1e-5)
    assert set(values) == {term}
    assert distance(gradients(tiny_model), wanted) < 5e-5


def test_sessions_cut_to_the_limit(tiny_model: Any, tiny_tokenizer: Any) -> None:
    short = PromptFormat(tiny_tokenizer, 60, 12)
    batch = batch_of(short)
    assert max(map(len, batch.candidates)) == 12
    values, wanted = reference(tiny_model, batch, WEIGHTS)
    tiny_model.zero_grad()
    assert JointLoss(tiny_model, WEIGHTS, END).step(batch) == pytest.approx(values, rel=1e-5)
    assert distance(gradients(tiny_model), wanted) < 5e-5


def two_relevant() -> Any:
    """The toy task with longer and longer sessions; a passage is relevant to two turns."""
    said = (Utterance("user", "Where was the light built?"), Utterance("assistant", "On a reef."))
    of = task()
    turns = [
        replace(turn, gold=(f"p{number}", f"p{(number + 1) % 8}"), history=said * number)
        for number, turn in enumerate(of.turns("train"))
    ]
    of.turns = lambda split=None: turns
    return of


def test_several_relevant_passages(tiny_model: Any, form: PromptFormat) -> None:
    chosen = training()
    found = learnt(two_relevant(), chosen)
    assert {len(example.turn.gold) for example in found} == {2}
    batch = make_batch(found, chosen, form, random.Random(0))
    assert int((~batch.allowed).sum()) > len(found)  # the other relevant one is no negative
    values, wanted = reference(tiny_model, batch, WEIGHTS)
    tiny_model.zero_grad()
    assert JointLoss(tiny_model, WEIGHTS, END).step(batch) == pytest.approx(values, rel=1e-5)
    assert distance(gradients(tiny_model), wanted) < 5e-5


@pytest.fixture(scope="module")
def real_backbone() -> tuple[Any, Any]:
    """SmolLM2-135M in float32 with LoRA on all layers, none of it zero, and its tokenizer."""
    backbone = find_backbone("smollm2-135m")
    torch.manual_seed(0)
    card = training(lora=Lora(dropout=0.0))
    model = adapted(load_model(backbone, "float32", Silent()), card).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    return model, load_tokenizer(backbone, Silent())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mask", "tokens_at_once"),
    [("none", None), ("none", 300), ("strict", None), ("chatretriever", None)],
)
def test_one_pass_has_the_gradients_of_three_on_the_real_backbone(
    mask: str, tokens_at_once: int | None, real_backbone: tuple[Any, Any]
) -> None:
    """With sessions that are cut, turns of unlike length, and two relevant passages."""
    model, tokenizer = real_backbone
    chosen = training(session_mask=mask, generation_input="session+passage", generation_passages=1)
    form, whole = (PromptFormat(tokenizer, limit, 12) for limit in (90, 900))
    turns = sorted(learnt(two_relevant(), chosen), key=lambda e: len(e.turn.history))[:6:2]
    batch = make_batch(turns, chosen, form, random.Random(0))
    cut = [form.query(e.turn) != whole.query(e.turn) for e in turns]
    assert cut == [False, False, True] and max(map(len, batch.candidates)) == 12
    assert len(set(map(len, batch.queries))) == 3
    values, wanted = reference(model, batch, WEIGHTS, form.end)
    model.zero_grad()
    loss = JointLoss(model, WEIGHTS, form.end, tokens_at_once=tokens_at_once)
    assert loss.step(batch) == pytest.approx(values, rel=1e-4)
    assert distance(gradients(model), wanted) < 5e-5


def test_a_second_pass_draws_the_same_dropout(form: PromptFormat) -> None:
    """Else the gradients carried back would belong to other embeddings."""
    fresh = load_model(find_backbone("random-tiny"), "float32", Silent())
    model = adapted(fresh, training(lora=Lora(r=4, alpha=8, dropout=0.5)))
    model.train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # at 0, as it begins, it would hide what is dropped
            torch.nn.init.normal_(parameter)
    batch = batch_of(form)
    seen: list[Any] = []
    handle = model.get_base_model().base_model.register_forward_hook(
        lambda module, inputs, output: seen.append(output.last_hidden_state.detach().clone())
    )
    JointLoss(model, WEIGHTS, END, tokens_at_once=500).step(batch)
    handle.remove()
    parts = len(seen) // 2
    assert parts > 1
    for one, two in zip(seen[:parts], seen[parts:], strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(seen[0], seen[1])


def test_a_session_is_read_once(form: PromptFormat) -> None:
    batch = batch_of(form)
    rows = [
        [Row(q), Row([*p.ids, *(r or [])])]
        for q, p, r in zip(batch.queries, batch.prompts, batch.responses, strict=True)
    ]
    for anchor in batch.anchors:
        rows[anchor.turn].append(Row(anchor.ids))
    sessions = sum(len(q) - 1 for q in batch.queries)
    apart = sum(len(row.ids) for tree in rows for row in tree)
    assert sum(size(tree) for tree in rows) <= apart - sessions


@pytest.mark.parametrize("tokens_at_once", [None, 1])
@pytest.mark.parametrize("retrieval", [0.0, 1.0])
def test_a_teachers_similarities_are_learnt_in_one_pass_as_in_several(
    retrieval: float, tokens_at_once: int | None, tiny_model: Any, form: PromptFormat
) -> None:
    batch = batch_of(form)
    assert batch.positives.index(None) < 3  # a turn that is not judged, before some that are
    teacher = torch.rand(len(batch.queries), len(batch.candidates))
    batch = replace(batch, teacher=teacher)
    learnt = {"retrieval": retrieval, "distillation": 3.0, "distillation_temperature": 0.2}
    weights = replace(WEIGHTS, **learnt)
    values, wanted = reference(tiny_model, batch, weights)
    rows = [i for i, positive in enumerate(batch.positives) if positive is not None]
    with torch.no_grad():
        own = embed(tiny_model, [batch.queries[i] for i in rows], END)
        scores = own @ embed(tiny_model, batch.candidates, END).T
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher[rows] / 0.2),
        torch.distributions.Categorical(logits=scores / 0.2),
    )
    assert values["distillation"] == pytest.approx(kl.mean().item(), rel=1e-4)
    tiny_model.zero_grad()
    found = JointLoss(tiny_model, weights, END, tokens_at_once=tokens_at_once).step(batch)
    assert found == pytest.approx(values, rel=1e-4)
    assert distance(gradients(tiny_model), wanted) < 1e-4
    _, others = reference(tiny_model, batch, replace(weights, distillation=1.0))
    assert distance(others, wanted) > 1e-2
