"""The server's pages, by requests: who sees them, lists, and what their forms do. `test_browser.py` clicks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.server.test_security import token
from tests.server.wes import Client, Server
from toilfn.server import index as index_module
from toilfn.server.index import Filter, Index
from toilfn.server.records import Place, State

HTML = {"Accept": "text/html"}
FAILS = """\
import toilfn as toil

@toil.task
def bad(n):
    print("it says <b>this</b>")
    print("and that")
    raise ValueError("no <i>good</i>")

toil.compute([bad(n) for n in range(3)])
"""


class Browser:
    """Keeps cookies, and sends forms as a page of the server does."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.session = requests.Session()
        self.session.headers.update(HTML)

    def get(self, path: str, **keywords: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=60, **keywords)

    def post(self, path: str, origin: str | None = None, **fields: str) -> requests.Response:
        headers = {"Origin": self.url if origin is None else origin}
        return self.session.post(self.url + path, data=fields, headers=headers, timeout=60, allow_redirects=False)


@pytest.fixture
def browser(server: Server) -> Browser:
    return Browser(server)


@pytest.fixture(scope="module")
def failed(server: Server) -> str:
    client = server.client()
    run = client.script(FAILS, tags='{"project": "<u>apples</u>"}', params={"sample": "Pippin"})
    assert client.wait(run) == "EXECUTOR_ERROR"
    return run


def listed(browser: Browser, query: str = "") -> list[str]:
    page = browser.get(f"/ui?{query}")
    assert page.status_code == 200, page.text
    return re.findall(r'href="/ui/runs/(run-\w+)"', page.text)


def test_a_browser_is_redirected_to_the_pages_and_a_client_to_the_service(browser, server):
    assert browser.get("/").url == f"{server.url}/ui"
    assert "service-info" in requests.get(server.url, timeout=30).url


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere(browser, failed):
    for path in ("/ui", f"/ui/runs/{failed}", "/ui/health"):
        policy = browser.get(path).headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/ui/nothing", "/ui/runs/nothing/here", "/ui/%3Cb%3E"])
def test_a_page_that_does_not_exist_leads_back(browser, path):
    answer = browser.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert 'href="/ui"' in answer.text
    assert "<b>" not in answer.text


def test_failures_can_be_read_from_the_list(browser, failed):
    text = browser.get("/ui?state=EXECUTOR_ERROR").text
    assert "bad: ValueError: no &lt;i&gt;good&lt;/i&gt; (and 2 more failed tasks)" in text
    assert "<i>" not in text
    assert "<u>" not in text


@pytest.mark.parametrize("wanted", ["work.py", "APPLES", "Pippin", "good", "kind=PYTHON", "state=EXECUTOR_ERROR"])
def test_runs_are_found(browser, failed, wanted):
    assert failed in listed(browser, wanted if "=" in wanted else f"q={wanted}")


@pytest.mark.parametrize("wanted", ["nothing-like-this", "kind=CWL", "state=QUEUED", "archived=yes"])
def test_other_runs_are_left_out(browser, failed, wanted):
    assert failed not in listed(browser, wanted if "=" in wanted else f"q={wanted}")


def test_pages_of_the_list_stay_stable_while_others_come(tmp_path):
    index = Index(tmp_path / "index.sqlite")
    place = Place(str(tmp_path / "place"), sync=False)

    def add() -> str:
        run = place.run(place.new_id())
        request = {"owner": "local", "submitted": time.time(), "kind": "CWL", "document": "a.cwl", "params": {},
                   "request": {"tags": {}}}  # fmt: skip
        place.submit(run, request)
        index.note(run, State.QUEUED)
        return run.id

    runs = sorted((add() for _ in range(25)), reverse=True)
    assert [row.id for row in index.page(10)] == runs[:10]
    late = add()
    assert [row.id for row in index.page(10, runs[9])] == runs[10:20]
    assert [row.id for row in index.page(10, after=runs[10])] == runs[:10]
    assert [row.id for row in index.page(10, after=runs[3])] == [late, *runs[:3]]
    index.close()


def test_a_list_is_answered_as_soon_as_the_index_has_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "_BLOCK", 10)
    place = Place(str(tmp_path / "place"), sync=False)
    runs = []
    for _ in range(25):
        runs.insert(0, place.new_id())
        request = {"owner": "local", "submitted": time.time(), "kind": "CWL", "document": "a.cwl", "params": {},
                   "request": {"tags": {}}}  # fmt: skip
        place.submit(place.run(runs[0]), request)
    index = Index(tmp_path / "index.sqlite")
    assert index.whole_page(5) is None
    rebuilding = index.rebuild(place)
    assert (next(rebuilding), index.whole_page(5)) == (25, None)
    assert next(rebuilding) == 15
    assert [row.id for row in index.whole_page(5)] == runs[:5]
    assert index.whole_page(5, runs[7]) is None
    assert index.whole_page(5, wanted=Filter(owner="nobody")) is None
    assert list(rebuilding) == [5, 0]
    assert [row.id for row in index.whole_page(5, runs[7])] == runs[8:13]
    assert index.whole_page(5, wanted=Filter(owner="nobody")) == []
    index.close()


def test_labels_are_shown_and_found_and_archived_runs_are_set_aside(browser, client):
    run = client.script()
    client.wait(run)
    assert browser.post(f"/ui/runs/{run}/labels", labels="batch = 7\nkeep\n").status_code == 303
    assert listed(browser, "q=keep") == [run]
    assert "batch: 7" in browser.get(f"/ui/runs/{run}").text
    assert browser.post(f"/ui/runs/{run}/labels", labels="= 7").status_code == 400
    assert browser.post(f"/ui/runs/{run}/archive", archived="yes").status_code == 303
    assert run not in listed(browser)
    assert run in listed(browser, "archived=yes")
    assert browser.post(f"/ui/runs/{run}/archive", archived="").status_code == 303
    assert run in listed(browser)


def test_labels_are_in_the_record_so_that_a_new_index_has_them(start):
    server = start()
    client, browser = server.client(), Browser(server)
    run = client.script()
    client.wait(run)
    browser.post(f"/ui/runs/{run}/labels", labels="kept=yes")
    server.stop()
    for path in (server.place / "work").glob("index.sqlite*"):
        path.unlink()
    server.start()
    client.get("/runs")  # waits for the index
    assert listed(browser, "q=kept") == [run]


def test_a_run_is_deleted_with_what_it_holds(browser, client, server):
    run = client.script()
    client.wait(run)
    page = browser.get(f"/ui/runs/{run}/delete")
    assert re.search(r"This frees [1-9]", page.text)
    assert browser.post(f"/ui/runs/{run}/delete").headers["location"] == "/ui"
    assert not (server.place / "work" / run).exists()
    assert run not in listed(browser)
    client.get(f"/runs/{run}", status=404)
    assert browser.get(f"/ui/runs/{run}").status_code == 404


def test_a_running_run_can_be_cancelled_and_not_deleted(browser, client):
    run = client.script(params={"seconds": 600})
    client.wait(run, "RUNNING")
    assert browser.post(f"/ui/runs/{run}/delete").status_code == 400
    assert browser.post(f"/ui/runs/{run}/cancel").status_code == 303
    assert client.wait(run) == "CANCELED"


def test_logs_are_searched_and_read_by_ranges(browser, failed):
    page = browser.get(f"/ui/runs/{failed}/tasks?state=failed").text
    task = re.search(r"/task/(\w{32})", page)[1]
    found = browser.get(f"/ui/runs/{failed}/task/{task}?q=THIS").text
    assert '<span class="line">1</span>it says &lt;b&gt;this&lt;/b&gt;' in found
    assert "and that" not in found
    log = browser.get(f"/ui/runs/{failed}/task/{task}/log/1", headers={"Range": "bytes=0-6"})
    assert (log.status_code, log.text) == (206, "it says")
    assert "attachment" in log.headers["content-disposition"]
    whole = browser.get(f"/ui/runs/{failed}/stderr").text
    assert "ValueError" in whole
    part = browser.get(f"/ui/runs/{failed}/stderr", headers={"Range": "bytes=-10"})
    assert part.text == whole[-10:]
    assert "ValueError" in browser.get(f"/ui/runs/{failed}/logs?q=valueerror").text


def test_details_have_the_inputs_and_the_command(browser, failed):
    text = browser.get(f"/ui/runs/{failed}/details").text
    assert "Pippin" in text
    assert "--sample=Pippin" in text


@pytest.mark.parametrize("action", ["cancel", "labels", "archive", "delete"])
def test_forms_of_other_sites_change_nothing(browser, failed, action):
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        assert browser.post(f"/ui/runs/{failed}/{action}", origin, archived="yes", labels="x").status_code == 403
    plain = requests.post(f"{browser.url}/ui/runs/{failed}/{action}", data={"archived": "yes"}, timeout=30)
    assert plain.status_code == 403
    assert failed in listed(browser)


def test_users_log_in_by_their_token(start, tmp_path):
    secrets = {name: token(tmp_path / "place", "add", name).stdout.strip() for name in ("ann", "ben")}
    boss = token(tmp_path / "place", "add", "boss", "--operator").stdout.strip()
    server = start()
    client = Client(server.url, headers={"Authorization": f"Bearer {secrets['ann']}"})
    server.client = lambda: client
    run = client.script()
    client.wait(run)
    ann, ben, chief = (Browser(server) for _ in range(3))
    answer = ann.get(f"/ui/runs/{run}?from=1", allow_redirects=False)
    assert answer.status_code == 303
    login = ann.get(f"/ui/runs/{run}?from=1")
    assert f'name="next" value="/ui/runs/{run}?from=1"' in login.text
    assert ann.post("/ui/login", token="wrong", next="/ui").status_code == 401
    assert ann.post("/ui/login", "http://evil.example", token=secrets["ann"]).status_code == 403
    assert ann.post("/ui/login", token=secrets["ann"], next="//evil.example").headers["location"] == "/ui"
    answer = ann.post("/ui/login", token=secrets["ann"], next=f"/ui/runs/{run}")
    assert answer.headers["location"] == f"/ui/runs/{run}"
    cookie = answer.headers["set-cookie"]
    assert secrets["ann"] not in cookie
    assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
    assert listed(ann) == [run]
    ben.post("/ui/login", token=secrets["ben"])
    assert listed(ben) == []
    assert ben.get(f"/ui/runs/{run}").status_code == 404
    assert ben.post(f"/ui/runs/{run}/delete").status_code == 404
    chief.post("/ui/login", token=boss)
    assert listed(chief) == [run]
    # A browser sends its cookie by itself: the service takes it for reading, and for changes of our own pages only.
    wes = f"{server.url}/ga4gh/wes/v1/runs/{run}"
    assert ann.session.get(wes, timeout=30).status_code == 200
    assert ann.session.post(f"{wes}/cancel", timeout=30).status_code == 403
    ann.post("/ui/logout")
    assert ann.get("/ui", allow_redirects=False).status_code == 303
    assert ann.session.get(wes, timeout=30).status_code == 401
    token(tmp_path / "place", "remove", "boss")
    wait_until(lambda: chief.get("/ui", allow_redirects=False).status_code == 303)
    assert not any(secret in server.log.read_text() for secret in [*secrets.values(), boss])


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_news_continue_where_a_page_was_made(browser, client):
    """A page that was made before a change, and listens after it, is told."""
    mark = re.search(r"/ui/events\?after=([^\"]+)", browser.get("/ui").text)[1]
    client.wait(client.script())
    with browser.get(f"/ui/events?after={mark}", stream=True) as events:
        lines = iter(events.iter_lines(decode_unicode=True))
        assert next(line for line in lines if line.startswith("event:")) == "event: news"
