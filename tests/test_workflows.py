"""The workflows that meet strangers' pull requests: their rights, and how they find a bundle."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent.parent / ".github" / "workflows"
CHECK, COMMENT = FOLDER / "submission.yml", FOLDER / "submission-comment.yml"


def workflow(path: Path) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text())
    return loaded


def test_the_check_runs_with_no_right_and_no_secret() -> None:
    check = workflow(CHECK)
    assert list(check[True]) == ["pull_request"]  # YAML reads the key `on` as true
    assert check["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in check["jobs"].values())
    assert "secrets" not in CHECK.read_text() and "persist-credentials: false" in CHECK.read_text()


def test_what_the_check_runs_is_the_base_branchs_at_pinned_versions() -> None:
    steps = workflow(CHECK)["jobs"]["check"]["steps"]
    refs = {
        s["with"]["path"]: s["with"].get("ref") for s in steps if "checkout" in s.get("uses", "")
    }
    assert refs == {"pull-request": None, "trusted": "${{ github.event.pull_request.base.sha }}"}
    scripts = "\n".join(step.get("run", "") for step in steps)
    assert "make -C trusted setup" in scripts and "pip install" not in scripts
    runs = re.findall(r"(\S*python) (-\S+)(?: (\S+ \S+))?", scripts)
    assert runs == [
        ("python", "-I", '- "$RUNNER_TEMP/changed"'),
        ("trusted/.venv/bin/python", "-I", "-m uniconv_bench"),
    ]


def test_no_script_has_text_of_the_pull_request_pasted_in() -> None:
    for path in (CHECK, COMMENT):
        for job in workflow(path)["jobs"].values():
            for step in job["steps"]:
                script = step.get("run", "") + step.get("with", {}).get("script", "")
                assert not re.search(r"\$\{\{(?!\s*\})", script), step


def test_the_comment_alone_may_write_and_checks_nothing_out() -> None:
    comment = workflow(COMMENT)
    assert list(comment[True]) == ["workflow_run"] and comment["permissions"] == {}
    (job,) = comment["jobs"].values()
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}
    assert [step["uses"].partition("@")[0] for step in job["steps"]] == ["actions/github-script"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            ["leaderboards/submissions/a-b/card.toml", "leaderboards/submissions/a-b/x.run.gz"],
            "a-b",
        ),
        (["leaderboards/submissions/a/card.toml", "leaderboards/submissions/b/card.toml"], None),
        (["leaderboards/submissions/a/card.toml", "uniconv_bench/cli.py"], None),
        (["leaderboards/submissions/a/card.toml", ".github/workflows/x.yml"], None),
        (["leaderboards/submissions/a\nname=b/card.toml"], None),
        (["leaderboards/submissions/$(id)/card.toml"], None),
        (["leaderboards/submissions/../card.toml"], None),
        ([], None),
    ],
)
def test_the_one_submission_is_found(
    changed: list[str], expected: str | None, tmp_path: Path
) -> None:
    steps = workflow(CHECK)["jobs"]["check"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("id") == "find"]
    code = script.partition("<<'PYTHON'\n")[2].partition("PYTHON\n")[0]
    (tmp_path / "changed").write_bytes(b"".join(path.encode() + b"\0" for path in changed))
    command = [sys.executable, "-I", "-", str(tmp_path / "changed")]
    done = subprocess.run(command, input=code, capture_output=True, text=True)
    assert done.stdout == (f"name={expected}\n" if expected else "")
    assert (done.returncode == 0) is (expected is not None) and "Traceback" not in done.stderr


# --- the comment -------------------------------------------------------------------------------

HARNESS = """
const told = JSON.parse(require("fs").readFileSync(0, "utf8"));
const posted = [];
const rest = {
  pulls: { list: async () => ({ data: told.pulls }), listFiles: async () => told.files },
  actions: {
    listWorkflowRunArtifacts: async () => ({
      data: { artifacts: [{ name: "submission-report", id: 7, size_in_bytes: 9 }] },
    }),
    downloadArtifact: async () => ({ data: Buffer.from(told.archive, "base64") }),
  },
  issues: {
    listComments: async () => told.comments,
    createComment: async (given) => posted.push(given),
    updateComment: async (given) => posted.push(given),
  },
};
const github = { rest, paginate: (call, given) => call(given) };
const context = { repo: { owner: "o", repo: "r" }, payload: { workflow_run: told.run } };
const core = { info: () => undefined };
const Script = Object.getPrototypeOf(async () => undefined).constructor;
new Script("github", "context", "core", "require", told.script)(github, context, core, require)
  .then(() => console.log(JSON.stringify(posted)));
"""
NEW = [f"leaderboards/submissions/mine/{name}" for name in ("card.toml", "manifest.json", "x.gz")]


def comment(
    tmp_path: Path,
    *,
    table: str = "| a |\n",
    status: str = "0",
    conclusion: str | None = None,
    files: list[str] = NEW,
    change: str = "added",
    head: str = "c0ffee",
    comments: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """What the workflow's own script posts, run against a GitHub of this test's."""
    if not (node := shutil.which("node")) or not shutil.which("unzip"):
        pytest.skip("needs node and unzip")
    (job,) = workflow(COMMENT)["jobs"].values()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("table.md", table)
        archive.writestr("status", f"{status}\n")
    told = {
        "script": job["steps"][0]["with"]["script"],
        "run": {
            "id": 1,
            "head_sha": "c0ffee",
            "head_branch": "b",
            "head_repository": {"owner": {"login": "s"}},
            "conclusion": conclusion or ("success" if status == "0" else "failure"),
        },
        "pulls": [{"number": 3, "head": {"sha": head}}],
        "files": [{"filename": name, "status": change} for name in files],
        "archive": base64.b64encode(packed.getvalue()).decode(),
        "comments": list(comments),
    }
    done = subprocess.run(
        [node, "-e", HARNESS],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        env={"RUNNER_TEMP": str(tmp_path), "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    posted: list[dict[str, Any]] = json.loads(done.stdout)
    return posted


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("0", "**Nothing wrong.**"),
        ("1", "**Refused.**"),
        ("3", "**Nothing wrong, but not all could be checked here.**"),
    ],
)
def test_a_comment_gives_the_verdict_of_the_check(
    tmp_path: Path, status: str, verdict: str
) -> None:
    (posted,) = comment(tmp_path, status=status)
    assert posted["issue_number"] == 3 and verdict in posted["body"] and "c0ffee" in posted["body"]
    mark = posted["body"].partition("\n")[0]
    own = {"id": 5, "user": {"type": "Bot"}, "body": posted["body"]}
    forged = {"id": 4, "user": {"type": "User"}, "body": mark}
    (again,) = comment(tmp_path, status=status, comments=[forged, own])
    assert again["comment_id"] == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"head": "another commit"},
        {"files": [*NEW, ".github/workflows/submission.yml"]},
        {"files": [*NEW, "leaderboards/submissions/other/card.toml"]},
        {"files": [*NEW, "leaderboards/submissions/mine2/card.toml"]},
        {"files": NEW[2:]},  # into a folder that is there already
        {"files": ["uniconv_bench/card.toml", "uniconv_bench/manifest.json"]},
        {"files": []},
        {"change": "modified"},
        {"change": "removed"},
        {"status": "2"},
        {"status": "0", "conclusion": "failure"},
        {"status": "1", "conclusion": "success"},
    ],
)
def test_there_is_no_comment_without_a_verdict(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert comment(tmp_path, **changed) == []


@pytest.mark.parametrize(
    "text",
    [
        "@someone https://e.x www.e.x **b** # h\nfixes #1 ![x](http://e.x) <img src=x>",
        "```\n**out of the fence**\n```",
        "`````\n# out\n`````\n~~~",
        "a\r```\u2028```\n",
        "`" * 19_998 + "\n" + "`" * 30_000,
    ],
)
def test_nothing_in_a_comment_is_live(tmp_path: Path, text: str) -> None:
    (posted,) = comment(tmp_path, table=text)
    head, _, rest = posted["body"].partition("\n\n")
    assert len(posted["body"]) < 65_536  # GitHub takes no longer one
    opening, *lines = rest.rstrip("\n").split("\n")
    fence = opening.removesuffix("text")
    assert set(fence) == {"`"} and len(fence) >= 3 and lines[-1] == fence
    assert not any(fence in line for line in lines[:-1])
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert "".join(lines[:-1])[:9] in "".join(re.sub(r"[^\x20-\x7e\n]", "?", text).split("\n"))
