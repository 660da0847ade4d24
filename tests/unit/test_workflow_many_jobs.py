"""What is the same for all jobs of a rule is looked at once."""

from types import SimpleNamespace
from typing import Any

import pytest

from brainscm.workflow.many_jobs import ScriptProcessor, common, remember_what_jobs_share, rules


def test_a_script_is_looked_for_once_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[str, str]] = []

    def look(processor: Any, job: Any) -> None:
        looked.append((processor.script_type, job.rule))

    monkeypatch.setattr(ScriptProcessor, "process_job", look)
    monkeypatch.setattr(common, "get_function_params", common.get_function_params)
    monkeypatch.setattr(rules, "get_function_params", rules.get_function_params)
    remember_what_jobs_share()
    for kind in ("script", "notebook"):
        for rule in ("preprocess_scan", "align_scan", "preprocess_scan"):
            ScriptProcessor.process_job(SimpleNamespace(script_type=kind), SimpleNamespace(rule=rule))
    assert looked == [(kind, rule) for kind in ("script", "notebook") for rule in ("preprocess_scan", "align_scan")]
    assert list(rules.get_function_params(look)) == ["processor", "job"]
