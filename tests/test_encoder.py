"""Published embedding models: folders of tiny random weights against plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralModel,
)
from uniconv_bench.baselines.encoder import EncoderRetriever, Inputs, _all_in_view, embedder

from uniconv_bench.cards import Bm25Settings
from uniconv_bench.conversation import Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.progress import Silent
from uniconv_bench.system import Context, InMemory
from uniconv_bench.system_cards import EncoderRetriever as EncoderCard
from uniconv_bench.system_cards import Inference
from uniconv_bench.uniconv.backbone import (
    backbones,
    checkpoint,
    find_backbone,
    load_encoder,
    load_tokenizer,
)

torch.set_num_threads(1)
EOS = "<|im_end|>"
SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PASSAGES = [
    Passage("a", "The light at Nore was lit in 1732.", "Nore"),
    Passage("b", "A keeper."),
    Passage("c", "Long ago the keeper of the light went home across the ice and was not seen."),
]
TURN = Turn(
    "c_3",
    "c",
    3,
    "Who kept it?",
    (Utterance("user", "Tell me of Nore."), Utterance("assistant", "It is a light.")),
)


def saved(model: Any, folder: Path, tokenizer: Any) -> Path:
    """With weights large enough for token order and pooling to show."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, str]:
    """Checkpoints of several architectures, and adapters on one of them."""
    root = tmp_path_factory.mktemp("peers")
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.?"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{x}" for x in letters)]
    bert_sizes = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
    found = {
        "mistral": saved(MistralModel(MistralConfig(**SIZES)), root / "mistral", tokenizer),
        "llama": saved(LlamaForCausalLM(LlamaConfig(**SIZES)), root / "llama", tokenizer),
        "bert": saved(
            BertModel(BertConfig(**(bert_sizes | {"vocab_size": len(words)}))),
            root / "bert",
            BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}),
        ),
    }
    for name, auto in (("headed", AutoModelForCausalLM), ("headless", AutoModel)):
        config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        torch.manual_seed(6)
        adapted = get_peft_model(auto.from_pretrained(found["llama"]), config)
        adapted.save_pretrained(root / name)
        found[name] = root / name
    return {name: str(folder) for name, folder in found.items()}


def card(model: str, **fields: Any) -> EncoderCard:
    return EncoderCard(kind="encoder", model=model, **fields)


def embedded(chosen: EncoderCard, side: str = "passage") -> torch.Tensor:
    """What the retriever makes of the passages, or of the turn, in one batch."""
    backbone = find_backbone(chosen.model)
    lora = find_backbone(chosen.lora) if chosen.lora else None
    model = load_encoder(backbone, lora, "float32", True, Silent())
    inputs = Inputs(chosen, load_tokenizer(backbone, Silent()))
    if side == "query":
        return torch.tensor(
            embedder(model, chosen, inputs.pad, inputs.before_query)([inputs.query(TURN)])
        )
    rows = [inputs.passage(passage) for passage in PASSAGES]
    return torch.tensor(embedder(model, chosen, inputs.pad, inputs.before_passage)(rows))


def states(folder: str, text: str, **options: Any) -> torch.Tensor:
    """Last-layer states of one text alone, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model(input_ids=ids, **options).last_hidden_state[0]


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


def test_encoder_with_its_own_special_tokens_and_mean(folders: dict[str, str]) -> None:
    found = embedded(card(folders["bert"]))
    for passage, vector in zip(PASSAGES, found, strict=True):
        expected = unit(states(folders["bert"], passage.contents).mean(0))
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)


def test_first_token_and_inner_product(folders: dict[str, str]) -> None:
    found = embedded(card(folders["bert"], pooling="cls", similarity="dot"))
    for passage, vector in zip(PASSAGES, found, strict=True):
        expected = states(folders["bert"], passage.contents)[0]
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)
        assert abs(float(vector.norm()) - 1) > 0.1


@pytest.mark.parametrize("name", ["mistral", "llama"])
def test_decoder_at_its_last_closing_token(name: str, folders: dict[str, str]) -> None:
    chosen = card(folders[name], passage_prompt="passage: {text}", closing=(EOS,), pooling="last")
    for passage, vector in zip(PASSAGES, embedded(chosen), strict=True):
        expected = unit(states(folders[name], f"passage: {passage.contents}{EOS}")[-1])
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["mistral", "llama"])
def test_decoder_that_sees_ahead_and_pools_the_text_alone(
    name: str, folders: dict[str, str]
) -> None:
    chosen = card(
        folders[name],
        passage_prompt="<embed>\n{text}",
        pooled="text",
        attention="bidirectional",
    )
    prompt = len(AutoTokenizer.from_pretrained(folders[name])("<embed>\n")["input_ids"])
    for passage, vector in zip(PASSAGES, embedded(chosen), strict=True):
        text = f"<embed>\n{passage.contents}"
        length = len(AutoTokenizer.from_pretrained(folders[name])(text)["input_ids"])
        open_mask = torch.zeros(1, 1, length, length)
        expected = unit(states(folders[name], text, attention_mask=open_mask)[prompt:].mean(0))
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)
        causal = unit(states(folders[name], text)[prompt:].mean(0))
        assert (vector - causal).abs().max() > 1e-3


def test_a_mask_of_all_in_view_is_added_to_scores() -> None:
    """Eager attention takes no notice of a boolean one."""
    mask = _all_in_view(torch.tensor([[1, 1, 0]]), torch.float32)
    lowest = torch.finfo(torch.float32).min
    assert mask.dtype == torch.float32 and mask[0, 0].tolist() == [[0.0, 0.0, lowest]] * 3


@pytest.mark.parametrize("name", ["headed", "headless"])
def test_adapter_on_a_base_model(name: str, folders: dict[str, str]) -> None:
    from peft import PeftModel

    auto = AutoModelForCausalLM if name == "headed" else AutoModel
    plain = auto.from_pretrained(folders["llama"]).eval()
    adapted = PeftModel.from_pretrained(plain, folders[name]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders["llama"])
    chosen = card(folders["llama"], lora=folders[name], closing=(EOS,), pooling="last")
    for passage, vector in zip(PASSAGES, embedded(chosen), strict=True):
        ids = tokenizer(passage.contents + EOS, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            output = adapted(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(vector, unit(output[0, -1]), atol=1e-5, rtol=0)
        without = unit(states(folders["llama"], passage.contents + EOS)[-1])
        assert (vector - without).abs().max() > 1e-3


def test_an_adapter_of_another_model_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    other = LlamaForCausalLM(LlamaConfig(**(SIZES | {"num_hidden_layers": 1})))
    tokenizer = AutoTokenizer.from_pretrained(folders["llama"])
    one_layer = str(saved(other, tmp_path / "one", tokenizer))
    with pytest.raises(UserError, match=r"of another model: .*layers\.1\."):
        embedded(card(one_layer, lora=folders["headed"]))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_config.json").write_text("{}")
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        embedded(card(one_layer, lora=str(tmp_path / "pickled")))


def test_a_model_that_cannot_see_ahead_is_refused(
    folders: dict[str, str], private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forwards(LlamaModel):
        """Passes over masks, as recurrent layers do."""

        def forward(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
            return super().forward(input_ids, **options)

    model = Forwards.from_pretrained(folders["llama"]).eval()
    monkeypatch.setattr("uniconv_bench.baselines.encoder.load_encoder", lambda *given: model)
    with pytest.raises(UserError, match="Forwards reads only forwards"):
        list(retriever(card(folders["llama"], attention="bidirectional")).retrieve(*ASKED))


def test_a_session_takes_its_prompt_its_order_and_its_roles(folders: dict[str, str]) -> None:
    chat = card(
        folders["llama"],
        user="<user>{text}</>",
        assistant="<bot>{text}</>",
        query_prompt="ask: {text}!",
        closing=("<|im_start|>", EOS),
    )
    tokenizer = AutoTokenizer.from_pretrained(folders["llama"])
    text = "ask: <user>Tell me of Nore.</>\n<bot>It is a light.</>\n<user>Who kept it?</>!"
    assert tokenizer.decode(Inputs(chat, tokenizer).query(TURN)) == f"{text}<|im_start|>{EOS}"
    backwards = card(folders["llama"], order="newest_first", separator=" | ")
    assert tokenizer.decode(Inputs(backwards, tokenizer).query(TURN)) == (
        "Who kept it? | It is a light. | Tell me of Nore."
    )


def test_a_long_session_loses_its_oldest_utterances_and_never_its_closing(
    folders: dict[str, str],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["llama"])

    def query(tokens: int) -> str:
        return tokenizer.decode(
            Inputs(card(folders["llama"], query_tokens=tokens, closing=(EOS,)), tokenizer).query(
                TURN
            )
        )

    assert query(40) == f"It is a light.\nWho kept it?{EOS}"
    assert query(20) == f"Who kept it?{EOS}"
    assert query(6) == f"Who k{EOS}"
    bert = AutoTokenizer.from_pretrained(folders["bert"])
    short = Inputs(card(folders["bert"], passage_tokens=5), bert).passage(PASSAGES[2])
    assert (short[0], short[-1], len(short)) == (bert.cls_token_id, bert.sep_token_id, 5)


def test_an_end_token_that_the_tokenizer_adds_is_not_doubled(folders: dict[str, str]) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(folders["mistral"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"<|im_start|> $A {EOS}", special_tokens=[("<|im_start|>", 1), (EOS, 2)]
    )
    assert tokenizer("x")["input_ids"][-1] == 2
    row = Inputs(card("random-tiny", closing=(EOS,)), tokenizer).passage(PASSAGES[1])
    assert (row[0], row[-1], row.count(2)) == (1, 2, 1)
    assert Inputs(card("random-tiny", query_prompt="q: {text}"), tokenizer).before_query == 4


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"closing": ("two tokens",)}, "'two tokens' is not one token"),
        ({"query_prompt": "Instruct: {text}", "query_tokens": 8}, "raise query_tokens"),
        ({"passage_tokens": 3000}, "has 2048 positions"),
    ],
)
def test_impossible_settings_are_refused(
    fields: dict[str, Any], told: str, folders: dict[str, str], private_cache: Path
) -> None:
    with pytest.raises(UserError, match=told):
        list(retriever(card(folders["llama"], **fields)).retrieve(*ASKED))


# --- as a retriever -----------------------------------------------------------------------------

ASKED: tuple[Sequence[Turn], InMemory, int, Silent] = ([TURN], InMemory(PASSAGES), 3, Silent())


def retriever(chosen: EncoderCard) -> EncoderRetriever:
    task: Any = type("TaskCard", (), {"bm25": Bm25Settings()})
    return EncoderRetriever(chosen, Context(task, "", Inference(), {}))


def test_ranking_is_that_of_the_embeddings(folders: dict[str, str], private_cache: Path) -> None:
    chosen = card(folders["mistral"], query_prompt="query: {text}", closing=(EOS,), pooling="last")
    ((turn_id, ranking),) = retriever(chosen).retrieve(*ASKED)
    scores = embedded(chosen, "query")[0] @ embedded(chosen).T
    expected = sorted(zip(scores.tolist(), "abc", strict=True), reverse=True)
    assert turn_id == "c_3"
    assert [passage_id for passage_id, _ in ranking] == [name for _, name in expected]
    assert [score for _, score in ranking] == pytest.approx([s for s, _ in expected], abs=1e-5)


def test_fingerprint_follows_whatever_changes_an_embedding(folders: dict[str, str]) -> None:
    base = retriever(card(folders["llama"])).fingerprint()
    assert base == retriever(card(folders["llama"], sources={"pooling": "ours"})).fingerprint()
    changes: dict[str, Any] = {
        "model": folders["mistral"],
        "lora": folders["headed"],
        "query": "query",
        "user": "U: {text}",
        "assistant": "A: {text}",
        "separator": " | ",
        "order": "newest_first",
        "query_prompt": "query: {text}",
        "passage_prompt": "passage: {text}",
        "closing": (EOS,),
        "query_tokens": 7,
        "passage_tokens": 7,
        "pooling": "last",
        "pooled": "text",
        "attention": "bidirectional",
        "similarity": "dot",
    }
    assert set(changes) == set(EncoderCard.model_fields) - {"kind", "sources"}
    for field, value in changes.items():
        changed = EncoderCard(**(card(folders["llama"]).model_dump() | {field: value}))
        assert base != retriever(changed).fingerprint(), field


# --- where weights come from --------------------------------------------------------------------


def test_a_commit_on_the_hub_is_read_from_the_hubs_cache(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    name = f"hub:lab/tiny@{commit}"
    with pytest.raises(UserError, match=f"cannot be fetched.*hf download lab/tiny --rev.*{commit}"):
        checkpoint(find_backbone(name), Silent())
    snapshot = Path(constants.HF_HUB_CACHE) / "models--lab--tiny" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(folders["mistral"])
    chosen = card(name, closing=(EOS,), pooling="last")
    local = card(folders["mistral"], closing=(EOS,), pooling="last")
    assert torch.equal(embedded(chosen), embedded(local))
    assert find_backbone(name).revision == name


def test_weights_without_a_pinned_commit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no revision"):
        find_backbone("hub:lab/tiny")
    with pytest.raises(UserError, match=r"neither config\.json nor adapter_config\.json"):
        find_backbone(str(tmp_path))
    unpinned = [
        name for name, b in backbones().items() if b.hub and not (b.hub_revision or b.distribution)
    ]
    assert unpinned == []


def test_code_on_the_hub_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "unheard_of", "auto_map": {"AutoModel": "evil.Model"}}'
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(UserError, match="cannot be loaded.*safetensors of an architecture"):
        load_encoder(find_backbone(str(tmp_path)), None, "float32", True, Silent())


def test_what_no_hub_has_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"chatretriever-7b cannot be fetched; merge the LoRA"):
        checkpoint(find_backbone("chatretriever-7b"), Silent())
