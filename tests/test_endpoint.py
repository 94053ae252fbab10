"""Answers from a server: what it is asked, what is borne with, what is never written down."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from server import Fault, Handler, Server, drop, instead, serving, status
from test_evaluate import CARD
from test_outside import Notes

from uniconv_bench import chatserver, cli, evaluate
from uniconv_bench.endpoint import EndpointGenerator
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir
from uniconv_bench.progress import Silent
from uniconv_bench.reader import Memories
from uniconv_bench.registry import task_card
from uniconv_bench.runs import read_answers
from uniconv_bench.system import Answer, Context
from uniconv_bench.system_cards import EndpointGenerator as EndpointCard
from uniconv_bench.system_cards import Inference
from uniconv_bench.task import load_task

CHAT, COMPLETION, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
KEY = "sk-secret-5f2a"


def said(text: str | None, model: str = "m-2026") -> bytes:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return json.dumps({"model": model, "choices": [{"message": message}], "usage": usage}).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(chatserver, "BACKOFF", 0.01)
    with serving() as running:
        running.files[MODELS] = json.dumps(
            {"data": [{"id": "other"}, {"id": "m", "root": "org/m", "created": time.time()}]}
        ).encode()
        running.files[CHAT] = said(" A lamp. ")
        yield running


def generator(server: Server, **changes: Any) -> EndpointGenerator:
    settings = {"kind": "endpoint", "url": f"{server.url}/v1", "model": "m", "concurrency": 1}
    context = Context(task_card("qrecc")[0], "", Inference(passage_tokens=6), {})
    return EndpointGenerator(EndpointCard(**(settings | changes)), context)


def answers(asked: EndpointGenerator, count: int = 1, progress: Any = None) -> list[Answer]:
    task = load_task("qrecc", "sample", progress=Silent())
    turns = task.turns()[1 : 1 + count]
    evidence = {turn.turn_id: [next(iter(task.corpus))] for turn in turns}
    return list(asked.generate(turns, evidence, progress or Silent()))


def test_what_a_chat_server_is_asked_and_says(server: Server) -> None:
    (answer,) = answers(generator(server, temperature=0.5, seed=4, stop=("\n",)))
    task = load_task("qrecc", "sample", progress=Silent())
    turn, passage = task.turns()[1], next(iter(task.corpus))
    assert answer == Answer(turn.turn_id, "A lamp.", 7, 2, (passage.passage_id,))
    (body,) = map(json.loads, server.posted)
    asked = body.pop("messages")
    assert body == {
        "model": "m",
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 4,
        "stop": ["\n"],
        "max_tokens": task.card.answer_tokens,
    }
    assert [m["role"] for m in asked] == ["system", "user", "assistant", "user"]
    assert asked[1]["content"] == turn.history[0].text
    first = " ".join(passage.contents.split()[:6])
    shown = asked[-1]["content"]
    assert shown.startswith(f"{turn.query}\n\nPassages:\n[1] ")
    assert " ".join(shown.partition("[1] ")[2].split()) == first


def test_a_completion_server_gets_one_text(server: Server) -> None:
    server.files[COMPLETION] = json.dumps({"choices": [{"text": " Yes.\n"}]}).encode()
    (answer,) = answers(generator(server, form="completion"))
    assert answer.text == "Yes."
    prompt = json.loads(server.posted[0])["prompt"]
    assert prompt.count("\nUser: ") == 2 and prompt.endswith("\nAssistant:")


def test_no_system_role_where_the_model_refuses_it(server: Server) -> None:
    answers(generator(server, instruction="user"))
    roles = [m["role"] for m in json.loads(server.posted[0])["messages"]]
    assert roles == ["user", "assistant", "user"]


def silent(handler: Handler, body: bytes) -> None:
    time.sleep(0.6)
    handler.close_connection = True


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (status(429, Retry_After=0), "it answers 429; again in 0 s"),
        (status(500), "it answers 500"),
        (status(503), "it answers 503"),
        (drop(20), "no connection, or it broke"),
        (instead(b'{"choices": [{"mess'), "its answer is no whole JSON"),
        (instead(b""), "its answer is no whole JSON"),
        (instead(b"[]"), "its answer is no JSON object"),
        (instead(b'{"choices": []}'), "its answer holds no text"),
        (silent, "it is silent"),
    ],
)
def test_what_may_pass_is_tried_again(fault: Fault, told: str, server: Server) -> None:
    server.scripts[CHAT] = [fault, fault]
    notes = Notes()
    (answer,) = answers(generator(server, timeout=0.3), progress=notes)
    assert answer.text == "A lamp." and len(server.posted) == 3
    assert len(notes.lines) == 2 and all(told in line for line in notes.lines)
    server.scripts[CHAT] = [fault] * 3
    with pytest.raises(UserError, match="the server failed: ") as raised:
        answers(generator(server, timeout=0.3, tries=3))
    assert str(raised.value).count(told.partition(";")[0]) == 1


def test_waits_double_and_the_server_may_ask_for_its_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    monkeypatch.setattr(chatserver, "BACKOFF", 1.0)
    asked = generator(server)
    asked._server._given_up = Impatient()
    server.scripts[CHAT] = [status(500), status(500), status(500), status(429, Retry_After=17)]
    answers(asked)
    assert [0.75 * 2**n <= waits[n] <= 1.25 * 2**n for n in range(3)] == [True] * 3
    assert waits[3:] == [17.0]
    server.scripts[CHAT] = [status(429, Retry_After=3600)]
    with pytest.raises(UserError, match="asks to wait 3600 s"):
        answers(asked)


def test_an_empty_answer_is_an_answer(server: Server) -> None:
    server.scripts[CHAT] = [instead(said("")), instead(said(None))]
    assert [answer.text for answer in answers(generator(server), 2)] == ["", ""]


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (400, "the server answers 400 (no such thing as ***)"),
        (404, "the server answers 404 (no such thing as ***)"),
        (401, "the server answers 401"),
        (302, "the server answers 302"),
    ],
)
def test_a_refusal_is_one_line_and_is_not_tried_again(
    code: int, line: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    body = json.dumps({"error": {"message": f"no such\nthing as {KEY}"}}).encode()

    def refuse(handler: Handler, _: bytes) -> None:
        handler.start(code, Content_Length=len(body), Location="/elsewhere")
        handler.wfile.write(body)

    server.scripts[CHAT] = [refuse] * 9
    with pytest.raises(UserError) as raised:
        answers(generator(server, key="MY_KEY", concurrency=2), 9)
    assert str(raised.value).startswith(line) and KEY not in str(raised.value)
    assert ("MY_KEY" in str(raised.value)) == (code == 401)
    assert len(server.posted) < 9  # nor is everything else asked


def test_the_key_is_sent_and_nothing_of_netrc(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("MY_KEY", KEY)
    asked = generator(server, key="MY_KEY")
    answers(asked)
    answers(generator(server))
    assert server.asked("Authorization") == [f"Bearer {KEY}", None]
    assert KEY not in json.dumps(dict(asked.fingerprint()))
    monkeypatch.setenv("MY_KEY", "")
    with pytest.raises(UserError, match="the environment variable MY_KEY holds no key"):
        answers(asked)


def test_a_fingerprint_names_what_is_served_and_asked(server: Server) -> None:
    found = dict(generator(server).fingerprint())
    assert found["served"] == {"id": "m", "root": "org/m"}
    assert found == dict(generator(server, tries=2, timeout=1.0).fingerprint())
    for change in ({"temperature": 0.1}, {"seed": 1}, {"form": "completion"}, {"model": "other"}):
        assert dict(generator(server, **change).fingerprint()) != found
    server.files[MODELS] = b'{"data": []}'
    assert dict(generator(server).fingerprint())["served"] == {}
    server.scripts[MODELS] = [status(404), status(500), status(503)]
    assert dict(generator(server).fingerprint())["served"] == {}
    assert dict(generator(server).fingerprint())["served"] == {}
    assert len(server.scripts[MODELS]) == 1
    generator(server).fingerprint()
    assert not server.scripts[MODELS]
    server.scripts[MODELS] = [status(401)]
    with pytest.raises(UserError, match="name the environment variable that holds a key"):
        generator(server).fingerprint()


def test_a_model_that_changes_meanwhile_is_refused(server: Server) -> None:
    server.scripts[CHAT] = [instead(said("a")), instead(said("b", "m-2027"))]
    with pytest.raises(UserError, match="its model was 'm-2026' and is now 'm-2027'"):
        answers(generator(server), 2)


def test_an_address_with_a_password_is_no_address() -> None:
    for url in ("http://me:word@host/v1", "ftp://host", "http://host/v1?key=1"):
        with pytest.raises(ValueError, match="url"):
            EndpointCard(kind="endpoint", url=url, model="m")


def streamed(*pieces: str | None, end: bytes = b"data: [DONE]\n\n") -> Fault:
    rows = [json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in pieces]
    return instead(b"".join(f"data: {row}\n\n".encode() for row in rows) + end)


def pieces(asked: EndpointGenerator) -> Iterator[str]:
    turn = load_task("qrecc", "sample", progress=Silent()).turns()[0]
    return asked.stream(turn, [], Memories(), Silent())


def test_pieces_come_as_the_server_writes_them(server: Server) -> None:
    server.scripts[CHAT] = [status(500), streamed(None, "\n A", " lamp", ".", " \n", "")]
    assert list(pieces(generator(server))) == ["A", " lamp", "."]
    assert json.loads(server.posted[0])["stream"] is True
    server.scripts[CHAT] = [streamed("A", end=b"data: {\n\n")]
    found = pieces(generator(server))
    assert next(found) == "A"
    with pytest.raises(UserError, match="its answer broke off"):
        next(found)


def system(folder: Path, url: str, more: str = "") -> str:
    path = folder / "served.toml"
    llm = f'{{ kind = "endpoint", url = "{url}", model = "m", tries = 2{more} }}'
    path.write_text(CARD.replace('{ kind = "llm" }', llm))
    return str(path)


def test_a_stopped_run_asks_only_what_is_not_answered(
    server: Server, tmp_path: Path, private_cache: Path
) -> None:
    card = system(tmp_path, f"{server.url}/v1", ", concurrency = 1")
    bad: list[Callable[..., None]] = [status(500)] * 2
    server.scripts[CHAT] = [instead(said("one")), instead(said("two")), *bad]
    given: dict[str, Any] = {"limit": 4, "progress": Silent()}
    with pytest.raises(UserError, match="it answers 500"):
        evaluate.generate("qrecc", card, "sample", **given)
    asked = len(server.posted)
    found = read_answers(evaluate.generate("qrecc", card, "sample", **given))
    assert [a.text for a in found.values()] == ["one", "two", "A lamp.", "A lamp."]
    assert len(server.posted) == asked + 2
    evaluate.generate("qrecc", card, "sample", **given)
    assert len(server.posted) == asked + 2


def test_no_server_is_one_line(
    tmp_path: Path, private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert cli.main(["generate", "-t", "qrecc", "-s", system(tmp_path, url)]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert "the server failed: no connection, or it broke" in line and url in line


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(find_spec, ("fastapi", "openai", "uvicorn"))), reason="needs transformers[serving]"
)
def test_a_real_server(tiny_folder: Path, tmp_path: Path, private_cache: Path) -> None:
    """`transformers serve` with tiny random weights, asked by a whole run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", serve, "serve", str(tiny_folder), "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    try:
        _wait(port, running, tmp_path / "log")
        card = Path(system(tmp_path, f"http://127.0.0.1:{port}/v1"))
        card.write_text(card.read_text().replace('model = "m"', f'model = "{tiny_folder}"'))
        path = evaluate.generate("qrecc", str(card), "sample", limit=3, progress=Silent())
        found = read_answers(path)
        assert len(found) == 3 and all(a.tokens or a.text for a in found.values())
        (folder,) = (cache_dir() / "answers").iterdir()
        assert str(tiny_folder) in (folder / "manifest.json").read_text()
    finally:
        running.terminate()
        running.wait(30)


def _wait(port: int, running: Any, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        with socket.socket() as trial:
            if not trial.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])
