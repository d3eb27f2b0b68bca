"""Claims and issues: marks, what a record proves of them, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from niclab.cli import COULD_NOT_RUN, FAIL, PASS, main
from niclab.report import claims
from niclab.report.claims import proofs

CLAIM = {"kind": "claim", "number": None, "says": "pods fly", "verdict": "false", "truth": "they are routed"}
ISSUE = {"kind": "issue", "number": 40521, "says": "replies leave another NIC"}


def record(*tests: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "niclab": "0", "kernel": "6.1", "date": "2026-01-02", "datapath": "builtin", "tests": tests}


def measured(
    claim: dict[str, Any], *, version: str = "1.20", outcome: str = "passed", cell: str = "eth0"
) -> dict[str, Any]:
    return {
        "topology": "two-nic",
        "datapath": "builtin",
        "settings": {},
        "unmodelled": [],
        "warnings": [],
        "nodes": {},
        "addresses": {},
        "flows": [],
        "measurement": {"canaries": "ok", "drops": 0},
        "test": f"test_x.py::test_it[{version}]",
        "cilium_version": version,
        "outcome": outcome,
        "claims": [claim],
        "commands": [{"host": "node1", "line": "ip route", "output": "default via 10.0.0.254\n"}],
        "matrix": {"label": "eth0", "cells": [{"flow": "pod1→pod2", "text": cell, "loud": False}]},
    }


def test_a_verdict_counts_only_where_its_tests_passed() -> None:
    tests = [measured(CLAIM), measured(CLAIM, version="1.18", outcome="failed"), measured(ISSUE)]
    new, old = proofs(tests, "claim")
    assert (new.verdict, new.proved) == ("false", True)
    assert (old.verdict, old.proved) == ("not proved", False)
    assert claims.verdict([new, old]) == "false on 1.20, not proved on 1.18"
    assert new.seen == ("devices eth0: pod1→pod2 eth0",)
    assert new.ran == ("node1$ ip route\ndefault via 10.0.0.254\n",)


def test_what_was_skipped_is_not_measured() -> None:
    assert proofs([measured(CLAIM, outcome="skipped")], "claim")[0].verdict == "not measured"


@pytest.mark.parametrize("outcome", ["failed", "skipped", None])
def test_what_did_not_pass_is_not_proved(outcome: str | None) -> None:
    test = measured(CLAIM) | {"outcome": outcome}
    assert proofs([measured(CLAIM), test], "claim")[0].verdict == "not proved"


def test_shown_as_text_and_markdown() -> None:
    found = proofs([measured(CLAIM), measured(CLAIM, version="1.18", cell="eth1|x")], "claim")
    text = claims.text(found)
    assert "FALSE  pods fly" in text
    assert "so: they are routed" in text
    document = claims.markdown(found, title="Claims", measured="today")
    assert (
        "| pods fly | false | they are routed | devices eth0: pod1→pod2 eth0 | devices eth0: pod1→pod2 eth1\\|x |"
        in document
    )


def test_outputs_stand_once_under_their_claim_and_name_the_versions_they_are_of() -> None:
    other = measured(CLAIM, version="1.19")
    other["commands"] = [{"host": "node1", "line": "ip route", "output": "\n"}]
    found = proofs([measured(CLAIM), measured(CLAIM, version="1.18"), other], "claim")
    document = claims.markdown(found, title="Claims", measured="today")
    assert document.count("### pods fly") == 1
    assert (
        "\n1.20 and 1.18:\n\n    node1$ ip route\n    default via 10.0.0.254\n\n1.19:\n\n    node1$ ip route\n"
        in document
    )


def test_issues_come_by_number_and_claims_as_they_were_made() -> None:
    issues = proofs([measured(ISSUE), measured(ISSUE | {"number": 9, "says": "early"})], "issue")
    document = claims.markdown(issues, title="Issues", measured="today")
    assert document.index("| #9 |") < document.index("| #40521 |")
    shown = proofs([measured(CLAIM | {"says": "z"}), measured(CLAIM | {"says": "a"})], "claim")
    assert [claim["says"] for claim in claims.as_json(shown)] == ["z", "a"]
    assert claims.text(shown).index("FALSE  z") < claims.text(shown).index("FALSE  a")


@pytest.mark.parametrize(("outcome", "status"), [("passed", PASS), ("failed", FAIL), ("skipped", FAIL)])
def test_from_a_record(outcome: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record(measured(ISSUE, outcome=outcome), measured(CLAIM))))
    assert main(["issues", "--record", str(path), "-o", "json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert [one["number"] for one in found] == [40521]
    assert main(["claims", "--record", str(path), "-o", "markdown"]) == PASS
    assert "measured on 2026-01-02 with the built-in model" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tests": []}'])
def test_a_record_that_is_none(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    assert main(["claims", "--record", str(path)]) == COULD_NOT_RUN
    assert "fix:" in capsys.readouterr().err


def test_a_run_has_a_line_for_claims_and_one_for_issues() -> None:
    tests = [measured(CLAIM), measured(CLAIM | {"says": "z"}, outcome="failed"), measured(ISSUE)]
    assert list(claims.summary(tests)) == ["claims: 2: 1 false, 1 not proved", "issues: 1 of 1 shown"]
    assert list(claims.summary([])) == []


def test_marks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.issue(40521, "replies leave another NIC")
        def test_a(): pass
        @pytest.mark.issue(27343, "the FIB is skipped")
        def test_b(): pass
        @pytest.mark.claim("pods fly", verdict="false", truth="they are routed")
        def test_c(): pass
    """)
    assert pytester.runpytest("-m", "issue_40521", "--strict-markers").parseoutcomes() == {"passed": 1, "deselected": 2}
    assert pytester.runpytest("-m", "issue").parseoutcomes() == {"passed": 2, "deselected": 1}
    assert pytester.runpytest("-m", "claim").parseoutcomes() == {"passed": 1, "deselected": 2}


@pytest.mark.parametrize(
    "mark",
    [
        'claim("x")',
        'claim("x", verdict="maybe", truth="y")',
        'issue("x")',
        "issue(5)",
        'claim(verdict="true", truth="y")',
    ],
)
def test_a_mark_that_says_too_little(mark: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.{mark}\ndef test_a(): pass")
    done = pytester.runpytest()
    assert done.ret != 0
    assert "mark takes" in done.stdout.str() + done.stderr.str()
