"""Whatever batch systems and sites print, a parser has a verdict or nothing, and never an exception."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clusters import test_accounting, test_htcondor_words, test_lsf_words, test_pbs_words
from toilfn.clusters import htcondor, lsf, parasol, pbs
from toilfn.clusters.base import JobState
from toilfn.clusters.common.polled import JobReport
from toilfn.clusters.lsf import read_parameters


def bjobs(text: str) -> list[Any]:
    records = lsf.json_records(text) or []
    return [lsf.queue_record(record) for record in records if lsf.job_key(record) is not None]


def qstat(text: str) -> list[Any]:
    jobs = (pbs.json_jobs(text) or {}) | (pbs.xml_jobs(text) or {})
    [pbs.variable(job, "TOILFN_JOB") for job in jobs.values()]
    return [pbs.job_found(job, exits) for job in jobs.values() for exits in (pbs.PBS_EXITS, pbs.TORQUE_EXITS)]


def condor_q(text: str) -> list[Any]:
    ads = htcondor.json_ads(text) or []
    htcondor.batch_names(ads)
    return [htcondor.job_ad(ad) for ad in ads if htcondor.ad_key(ad) is not None]


def parasol_files(text: str) -> list[Any]:
    return [row.found for row in parasol.listed(text).values()] + [row for row, _ in parasol.results(text).values()]


PARSERS: Mapping[str, Callable[[str], list[Any]]] = {
    "bjobs": bjobs,
    "bhist": lambda text: list(lsf.history(text).values()),
    "bparams": lambda text: [None for _ in [read_parameters(text)]],
    "qstat": qstat,
    "tracejob": lambda text: [pbs.traced(text, pbs.PBS_EXITS)],
    "condor_q": condor_q,
    "event log": lambda text: list(htcondor.event_log(text).values()),
    "parasol": parasol_files,
}

ADS = [{"ClusterId": 4, "ProcId": 0, "JobStatus": 5, "HoldReasonCode": 34, "HoldReasonSubCode": 102, "HoldReason": "x"}]
ADS += [{"ClusterId": 4, "ProcId": 1, "JobStatus": 4, "ExitCode": 0, "ExitBySignal": False, "LastRemoteHost": "a"}]
SAMPLES = {
    "bjobs": [json.dumps({"RECORDS": [{"JOBID": "4", "JOBINDEX": "1", "STAT": "EXIT", "EXIT_CODE": "3"}]}, indent=1)],
    "bhist": [
        test_lsf_words.HISTORY.format(f"{test_lsf_words.AT} Exited by signal 2. x; Completed <exit>; TERM_SWAP: y;")
    ],
    "bparams": [test_accounting.PARAMETERS],
    "qstat": [test_pbs_words.answer('"X":005,'), test_pbs_words.XML],
    "tracejob": [test_accounting.TRACE.format(271)],
    "condor_q": [json.dumps(ADS, indent=1)],
    "event log": [test_accounting.EVENTS, test_htcondor_words.ABORTED],
    "parasol": ["12 none root 2009/07/23 10:54:09 /x/a.sh\n", '256 node1 12 a.sh 1 1 5 6 7 root /tmp/err "/x/a.sh"\n'],
}
PIECES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ['"', "{", "}", "[", "]", "<", ">", ":", ",", "\n", "\r", "\0", "-1", "005", "9" * 5000, "null", "\ud800"]
    ),
)


@st.composite
def answers(draw: st.DrawFn, name: str) -> str:
    """Build an answer that is cut, doubled, and has foreign pieces in it."""
    text = draw(st.sampled_from(SAMPLES[name]))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(len(text), begin + draw(st.sampled_from([0, 1, 5, 40, len(text)])))))
        text = text[:begin] + draw(PIECES) + text[end:]
    return text


def check(name: str, text: str) -> None:
    """Let a parser read a text, and check its result."""
    for found in PARSERS[name](text):
        assert found is None or isinstance(found, JobReport)
        if found is not None and found.state is not JobState.ENDED:
            assert found.cause is None
            assert not found.is_stuck


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=150)
@given(data=st.data())
def test_altered_answers(name, data):
    check(name, data.draw(answers(name)))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=100)
@given(text=st.text())
def test_any_text(name, text):
    check(name, text)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)
NAMES = st.sampled_from(["JOBID", "JOBINDEX", "STAT", "EXIT_CODE", "EXIT_REASON", *htcondor.ATTRIBUTES])


@settings(max_examples=150)
@given(record=st.dictionaries(NAMES, VALUES) | VALUES)
def test_records_with_values_of_any_type(record):
    check("bjobs", json.dumps({"RECORDS": [record]}))
    check("condor_q", json.dumps([record]))
    check("qstat", json.dumps({"Jobs": {"7.s": record}}))
