"""The workflows that meet strangers' pull requests: their rights, and how they find a bundle."""

from __future__ import annotations

import re
import subprocess
import sys
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
    assert re.findall(r"(\S+) -I -m uniconv_bench", scripts) == ["trusted/.venv/bin/python"]


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
