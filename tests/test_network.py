"""No connection where none may be made; hostile answers; secrets that are written nowhere."""

from __future__ import annotations

import io
import json
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Fault, Handler, Server, serving, status
from test_endpoint import CHAT, KEY, MODELS, answers, generator, said, system
from test_evaluate import CARD
from test_fetch import BODIES, TRAIN, card_of, get, no_sockets, sources

from uniconv_bench import chatserver, cli, evaluate
from uniconv_bench.cards import Source
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir
from uniconv_bench.offline import LIBRARIES, OFFLINE
from uniconv_bench.progress import Silent
from uniconv_bench.uniconv.backbone import checkpoint, find_backbone

TOKEN, PROXY = "hf_secret_7c41", "proxy-secret-90aa"


@pytest.fixture(autouse=True)
def _cache(private_cache: Path) -> None:
    pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(chatserver, "BACKOFF", 0.01)
    with serving() as running:
        running.files |= {MODELS: b'{"data": []}', CHAT: said("A lamp.")} | BODIES
        yield running


# ------------------------------------------------------------------------------- offline


@pytest.mark.slow
def test_the_main_commands_offline_make_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(CARD.replace('"tiny"', f'"{name}"'))
    one, two = (str(tmp_path / f"{name}.toml") for name in ("one", "two"))
    results = str(tmp_path / "results")
    record = str(tmp_path / "results" / "sample" / "one" / "qrecc.json")
    monkeypatch.setattr("sys.stdin", io.StringIO("who looked after it?\n"))
    walk = [
        *(f"list {kind}" for kind in ("tasks", "systems", "metrics", "studies")),
        "show task qrecc",
        "show system uniconv",
        "prepare -t qrecc",
        "prepare -t qrecc --profile full --dry-run",
        f"run -t qrecc -s {one} -s {two} --results {results}",
        f"retrieve -t qrecc -s {one}",
        f"generate -t qrecc -s {one}",
        f"chat -t qrecc -s {one}",
        f"why -t qrecc -s {one}",
        f"export -t qrecc --out {tmp_path / 'out'}",
        f"table --results {results}",
        f"compare one two -t qrecc --results {results}",
        f"claims --results {results}",
        f"reproduce {record} {record} --ledger {tmp_path / 'ledger'}",
        f"explain {record}",
        f"report --results {results} --output {tmp_path / 'report'}",
        "cache list",
        "doctor",
    ]
    with no_sockets(monkeypatch):
        for line in walk:
            code = cli.main(["--offline", *line.split()])
            assert code == 0, f"{line}: {capsys.readouterr().err}"
            capsys.readouterr()


def test_offline_holds_in_the_environment_and_for_libraries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(OFFLINE, "1")
    cli.main(["prepare", "-t", "qrecc", "--profile", "full"])
    assert "error: offline, and the cache lacks" in capsys.readouterr().err
    assert [os.environ[name] for name in LIBRARIES] == ["1"] * len(LIBRARIES)
    monkeypatch.setenv(OFFLINE, "0")
    cli.main(["prepare", "-t", "qrecc", "--profile", "full"])
    assert "error: QReCC has no direct download" in capsys.readouterr().err


def test_each_door_to_a_network_is_closed_offline(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFFLINE, "1")
    with no_sockets(monkeypatch):
        with pytest.raises(UserError, match="offline: an answer of m would need a connection"):
            answers(generator(server))
        with pytest.raises(UserError, match="offline, and the cache lacks 3 raw files"):
            get(card_of(sources(server)))
        with pytest.raises(UserError, match="the weights of hub:.* cannot be fetched"):
            checkpoint(find_backbone(f"hub:owner/name@{'a' * 40}"), Silent())
    assert server.seen == []


# ------------------------------------------------------------------------- hostile answers


def body(content: bytes, code: int = 200, **headers: object) -> Fault:
    def fault(handler: Handler, _: bytes) -> None:
        handler.start(code, Content_Length=len(content), **headers)
        handler.wfile.write(content)

    return fault


def endless(handler: Handler, _: bytes) -> None:
    handler.start(200, Transfer_Encoding="chunked")
    while True:
        handler.wfile.write(b"10000\r\n" + b"x" * (1 << 16) + b"\r\n")


DEEP = b"[" * 100_000
HOSTILE: dict[str, tuple[Fault, str]] = {
    "no end": (endless, "its answer has more than 16 MiB"),
    "too deep": (body(DEEP), "its answer is no whole JSON"),
    "an error too deep": (body(DEEP, 400), "the server answers 400 (http"),
    "choices of another type": (body(b'{"choices": 1}'), "its answer holds no text"),
    "a choice of another type": (body(b'{"choices": ["x"]}'), "its answer holds no text"),
    "a message of another type": (body(b'{"choices": [{"message": 1}]}'), "holds no text"),
    "text of another type": (body(b'{"choices": [{"text": [1], "content": [1]}]}'), "no text"),
    "a wait of letters": (status(503, Retry_After="²"), "it answers 503"),
    "a wait of years": (status(503, Retry_After="9" * 12), "and asks to wait 9"),
    "a wait without end": (status(503, Retry_After="9" * 5000), "it answers 503"),
    "a wait until no day": (
        status(503, Retry_After="Mon, 01 Jan 0001 00:00:00 +2359"),
        "it answers 503",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_endpoints(name: str, server: Server) -> None:
    fault, told = HOSTILE[name]
    server.scripts[CHAT] = [fault] * 2
    with pytest.raises(UserError) as raised:
        answers(generator(server, tries=2))
    assert told in str(raised.value) and len(str(raised.value)) < 1000


@pytest.mark.parametrize("listed", [b'{"data": 5}', b'{"data": ["m", null]}', b"{}"])
def test_a_list_of_models_of_another_shape_names_none(listed: bytes, server: Server) -> None:
    server.files[MODELS] = listed
    assert dict(generator(server).fingerprint())["served"] == {}


def test_odd_parts_of_an_answer_do_no_harm(server: Server) -> None:
    found = json.loads(said("half \ud83d of it"))
    found["usage"] = {"prompt_tokens": "many", "completion_tokens": 2}
    server.files[CHAT] = json.dumps(found).encode()
    (answer,) = answers(generator(server))
    assert (answer.text, answer.prompt_tokens, answer.tokens) == ("half ? of it", 0, 2)


REPLIES: dict[str, tuple[Fault, str]] = {
    "a redirect to no address": (status(302, Location="http://["), "to what is no address"),
    "a redirect that is no text": (status(302, Location="/\xff"), "to what is no address|404"),
    "a redirect to a file": (status(302, Location="file:///etc/passwd"), "refused: InvalidSchema"),
    "a wait that is no number": (status(503, Retry_After="²"), "answers 503"),
    "a wait until no day": (status(503, Retry_After="Mon, 01 Jan 0001 00:00:00 +2359"), "503"),
}


@pytest.mark.parametrize("name", REPLIES)
def test_hostile_sources(name: str, server: Server) -> None:
    fault, told = REPLIES[name]
    server.scripts["/train.json"] = [fault] * 9
    with pytest.raises(UserError, match=told) as raised:
        get(card_of(sources(server)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("length", ["²", "9" * 5000, "-1", "1e3"])
def test_a_length_that_is_none_is_not_believed(length: str, server: Server) -> None:
    def fault(handler: Handler, content: bytes) -> None:
        handler.start(200, Content_Length=length)
        handler.wfile.write(content)
        handler.close_connection = True

    server.scripts["/train.json"] = [fault] * 9
    folder = get(card_of(sources(server)))
    assert (folder / TRAIN).read_bytes() == BODIES["/train.json"]


# ------------------------------------------------------------------------------- secrets


def kept() -> str:
    """All that stands in the cache."""
    files = [path for path in cache_dir().rglob("*") if path.is_file()]
    return "".join(path.read_bytes().decode("utf-8", "replace") for path in files)


def test_no_secret_of_the_environment_is_written_anywhere(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("https_proxy", f"http://me:{PROXY}@127.0.0.1:9")
    monkeypatch.setenv("http_proxy", f"http://me:{PROXY}@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    url = "http://files.example/v1"
    card = system(tmp_path, url, ', key = "OPENAI_API_KEY"')
    command = ["generate", "-t", "qrecc", "-s", card, "--limit", "2"]
    assert cli.main(command) == 2
    with pytest.raises(UserError) as shown:
        cli.main([*command, "--debug"])
    trace = "".join(traceback.format_exception(shown.value))
    source = {"file": "a.json", "url": "https://files.example/a.json"}
    with pytest.raises(UserError, match="the proxy cannot be reached") as refused:
        get(card_of([source]))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "*")
    card = system(tmp_path, f"{server.url}/v1", ', key = "OPENAI_API_KEY"')
    record, _ = evaluate.run("qrecc", card, "sample", limit=2, results=None, progress=Silent())
    assert f"Bearer {KEY}" in server.asked("Authorization")
    out, err = capfd.readouterr()
    written = [out, err, trace, kept(), str(refused.value), record.model_dump_json()]
    for secret in (KEY, TOKEN, PROXY):
        assert not any(secret in text for text in written)


@pytest.mark.parametrize("url", ["https://me:word@files.example/a", "https://a@b.example/c"])
def test_a_source_with_a_password_in_its_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        Source(file="a", url=url)
