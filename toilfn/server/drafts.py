"""The pages for a new run: the user chooses a document, fills in a form with its inputs, and submits the form.

Until then, the run is a *draft*: a run's folder with ``draft.json`` and ``files``, but without a record. A draft that
was not submitted is removed after a day.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from toilfn.errors import InputError
from toilfn.pages.routes import answering, html
from toilfn.server import uploads
from toilfn.server.access import Principal
from toilfn.server.app import PAGES, Service
from toilfn.server.fields import (
    Described,
    Field,
    describe,
    pairs_of,
    script_params,
    text_of,
    text_of_pairs,
    text_of_script_params,
    value_of,
)
from toilfn.server.forms import fields_of, user_of
from toilfn.server.needs import kind_by_name, version_of
from toilfn.server.records import Run
from toilfn.server.submission import FETCHED, INPUTS, KINDS, document_of, kind_of, read_object
from toilfn.server.uploads import Form, file_name, read_form
from toilfn.stores import MissingObjectError

__all__ = ["draft_routes"]

_GIVEN = "given"
"""The folder for files that the user has chosen as inputs."""


class Draft(NamedTuple):
    """A run that is being prepared."""

    owner: str
    url: str = ""
    """The URL of the document, or the name of an attachment."""
    kind: str = ""
    values: dict[str, str] = {}  # noqa: RUF012 - is never changed
    """The text of each input."""
    more: str = ""
    """Inputs without a field in the form: a JSON object, or the options of a script."""
    options: str = ""
    tags: str = ""
    params: dict[str, Any] | None = None
    """For a run that is run again: its inputs, with which the form is filled when it is first shown."""
    keeps: str = ""
    """The id of the run whose finished tasks are reused; empty if there is none."""

    @classmethod
    def read(cls, run: Run, principal: Principal) -> Draft:
        """Read a draft.

        Raises
        ------
        MissingObjectError
            If the user has no draft with this id.
        """
        try:
            draft = cls(**json.loads((run.folder / "draft.json").read_bytes()))
        except (OSError, ValueError):
            draft = cls("")
        if draft.owner != principal.name:
            raise MissingObjectError(f"there is no draft {run.id!r}; drafts are kept for a day")
        return draft

    def write(self, run: Run) -> None:
        """Save the draft in the run's folder."""
        (run.folder / "draft.json").write_text(json.dumps(self._asdict()))


class _DocumentForm(Form):
    """The form that chooses a document."""

    def is_known(self, field: str) -> bool:
        return field in ("url", "kind")

    def target(self, field: str, given: bytes) -> str | None:
        return file_name(given) if given else None  # if no file was chosen, browsers send the field without a name


class _InputsForm(Form):
    """The form with the values of inputs: texts, and files that the user has chosen."""

    def __init__(self, *arguments: Any) -> None:
        self.chosen: dict[str, list[str]] = {}
        super().__init__(*arguments)

    def is_file(self, field: str) -> bool:
        return field.startswith("file:")

    def is_known(self, field: str) -> bool:
        return field in ("more", "options", "tags", "keeps") or field.startswith("value:")

    def target(self, field: str, given: bytes) -> str | None:
        if not given:
            return None
        base = file_name(given).replace("\\", "/").rpartition("/")[2]
        name = field.removeprefix("file:")
        place = f"{_GIVEN}/{re.sub(r'[^A-Za-z0-9_.-]', '_', name).strip('.') or '_'}/{base}"
        self.chosen.setdefault(name, []).append(place)
        return place


class _Drafts:
    """The handlers of the pages for new runs."""

    def __init__(self, service: Service, around: Callable[..., dict[str, Any]]) -> None:
        self._service = service
        self._site = around

    def around(self, request: Any) -> dict[str, Any]:
        """Return the values that each template needs."""
        return self._site(request, "submit")

    def choose(self, request: Any) -> Any:
        """Answer with the form that chooses a document."""
        return self._chooser(request, "", {})

    def _chooser(self, request: Any, refused: str, fields: dict[str, str]) -> Any:
        return html("submit.html", 400 if refused else 200, **self.around(request), refused=refused, fields=fields,
                    kinds=self._service.policy.kinds)  # fmt: skip

    async def begin(self, request: Any) -> Any:
        """Create a draft of the document that was chosen."""
        run = self._service.place.run(self._service.place.new_id())
        form = None
        try:
            await asyncio.to_thread(run.files.mkdir, parents=True, mode=0o700)
            form = _DocumentForm(request.headers.get("content-type", ""), run.files, self._service.policy.limits)
            await read_form(form, request.stream())
            draft = await asyncio.to_thread(self._drafted, run, form, user_of(request))
            await asyncio.to_thread(draft.write, run)
        except BaseException as error:
            await asyncio.to_thread(shutil.rmtree, run.folder, ignore_errors=True)
            if isinstance(error, InputError):
                return await asyncio.to_thread(self._chooser, request, str(error), form.fields if form else {})
            raise
        return _to(f"submit/{run.id}")

    def _drafted(self, run: Run, form: Form, principal: Principal) -> Draft:
        url, kind = form.fields.get("url", "").strip(), form.fields.get("kind", "")
        if bool(url) == bool(form.attachments):
            raise InputError("choose the files of a workflow, or give a URL" + ("; not both" if url else ""))
        names, params, options = form.attachments, dict[str, Any](), dict[str, Any]()
        if not url and len(names) == 1 and names[0].endswith(".zip"):
            suffix = KINDS[kind].suffix if kind else ""
            found = uploads.unpack(run.files / names[0], run.files, suffix or _suffix(run.files / names[0]),
                                    self._service.policy.limits)  # fmt: skip
            names, params, options = [found.document], found.params, found.options
        candidates = _documents(names, kind)
        name = url or (candidates or names)[0]
        kind = kind or kind_by_name(urlsplit(url).path if url else name) or ""
        if kind not in self._service.policy.kinds:
            raise InputError(f"{name}: the name does not end with .cwl, .wdl or .py", hint="choose its kind")
        url = url or quote(name)
        document_of(url, run.files, KINDS[kind], self._service.policy)
        return Draft(principal.name, url, kind, options=text_of_pairs(options), params=params or None)

    def _draft(self, request: Any) -> tuple[Run, Draft]:
        run = self._service.place.run(request.path_params["draft"])
        return run, Draft.read(run, user_of(request))

    def show(self, request: Any) -> Any:
        """Answer with the form of a document's inputs."""
        if self._service.place.run(request.path_params["draft"]).objects.exists("request"):
            return _to(f"runs/{request.path_params['draft']}")  # it was submitted; the user went back in the browser
        run, draft = self._draft(request)
        wanted = request.query_params.get("document")
        if wanted and wanted in _documents(_names(run.files), draft.kind):
            draft = draft._replace(url=quote(wanted), values={}, params=None)
            draft.write(run)
        described = self._described(run, draft)
        if draft.params is not None:
            draft = _filled(draft, described)
        return self._form(request, run, draft, described, "")

    def _described(self, run: Run, draft: Draft) -> Described:
        document = document_of(draft.url, run.files, KINDS[draft.kind], self._service.policy)
        kept = run.folder / "fields.json"
        try:
            url, name, doc, fields = json.loads(kept.read_bytes())
            if url == draft.url:
                return Described(name, doc, [Field(*each) for each in fields], "")
        except (OSError, ValueError):
            pass  # the document was not read before
        if document.partition("://")[0] in FETCHED:
            return Described(document.rpartition("/")[2], "", [], "")
        path = document if "://" in document or document.startswith("/") else str(run.files / document)
        found = describe(path, draft.kind, run.files)
        if not found.problem:
            kept.write_text(json.dumps([draft.url, found.name, found.doc, found.fields]))
        return found

    def _form(self, request: Any, run: Run, draft: Draft, described: Described, refused: str) -> Any:
        documents = [] if "://" in draft.url else _documents(_names(run.files), draft.kind)
        return html(
            "inputs.html", 400 if refused else 200, **self.around(request), draft=draft, run=run, described=described,
            refused=refused, documents=documents, quoted=quote,
            allowed=sorted(KINDS[draft.kind].values | KINDS[draft.kind].flags),
            needed=[field for field in described.fields if field.is_needed],
            others=[field for field in described.fields if not field.is_needed],
        )  # fmt: skip

    async def submit(self, request: Any) -> Any:
        """Submit a draft, or show its form again with the errors."""
        run, draft = await asyncio.to_thread(self._draft, request)
        form = _InputsForm(request.headers.get("content-type", ""), run.files, self._service.policy.limits)
        await read_form(form, request.stream())

        def make() -> Any:
            filled = _merged(draft, form)
            filled.write(run)
            described = self._described(run, filled)
            try:
                self._accept(run, filled, described, user_of(request))
            except InputError as error:
                return self._form(request, run, filled, described, str(error))
            request.state.audit = {"run": run.id}
            return _to(f"runs/{run.id}")

        return await asyncio.to_thread(make)

    def _accept(self, run: Run, draft: Draft, described: Described, principal: Principal) -> None:
        kind = kind_of(draft.kind, KINDS[draft.kind].versions[-1], self._service.policy.kinds)
        path = run.files / document_of(draft.url, run.files, kind, self._service.policy).partition("#")[0]
        text = path.read_text(errors="replace") if path.is_file() else ""
        fields = {
            "workflow_type": draft.kind, "workflow_type_version": version_of(text, draft.kind),
            "workflow_url": draft.url, "workflow_params": json.dumps(_params(draft, described)),
            "workflow_engine_parameters": json.dumps(pairs_of(draft.options, "options")),
            "tags": json.dumps(pairs_of(draft.tags, "tags")),
        }  # fmt: skip
        try:
            if draft.keeps:
                self._keep_tasks(run, self._service.run(draft.keeps, principal))
            self._service.submit(run, fields, principal)
        except InputError:
            (run.files / INPUTS).unlink(missing_ok=True)
            shutil.rmtree(run.folder / "store", ignore_errors=True)
            raise
        for name in ("draft.json", "fields.json"):
            (run.folder / name).unlink(missing_ok=True)

    def _keep_tasks(self, run: Run, old: Run) -> None:
        """Copy the job store of another run, so that its finished tasks are not run again."""
        store = old.folder / "store"
        if self._can_keep(old):
            shutil.copytree(store, run.folder / "store", symlinks=True, copy_function=_linked)
            shutil.rmtree(run.folder / "store" / "flags", ignore_errors=True)

    def _can_keep(self, old: Run) -> bool:
        is_here = not old.request.get("store") and not self._service.policy.store_base
        return is_here and self._service.state(old).is_final and (old.folder / "store").is_dir()

    async def again(self, request: Any) -> Any:
        """Create a draft from an earlier run, to run it again with changes."""
        fields = await fields_of(request)

        def make() -> Any:
            old = self._service.run(request.path_params["run_id"], user_of(request))
            run = self._service.place.run(self._service.place.new_id())
            old.bring_files()
            if old.files.is_dir():
                shutil.copytree(old.files, run.files, symlinks=True, ignore=shutil.ignore_patterns(INPUTS))
            run.files.mkdir(parents=True, exist_ok=True)
            keeps = old.id if fields.get("keep") and self._can_keep(old) else ""
            _again(old, user_of(request), keeps).write(run)
            return _to(f"submit/{run.id}")

        return await asyncio.to_thread(make)


def _to(page: str) -> Any:
    from starlette.responses import RedirectResponse

    return RedirectResponse(f"{PAGES}/{page}", 303)


def _again(old: Run, principal: Principal, keeps: str) -> Draft:
    asked = old.request["request"]
    url = str(asked["workflow_url"])
    if url.endswith(".zip") and "://" not in url:  # the archive was unpacked; the document is one of its files
        url = quote(old.request["document"])
    return Draft(
        principal.name, url, old.request["kind"], options=text_of_pairs(asked["workflow_engine_parameters"]),
        tags=text_of_pairs(asked["tags"]), params=old.request["params"], keeps=keeps,
    )  # fmt: skip


def _linked(source: str, target: str) -> None:
    """Create a hard link to a file of a store. This is safe, since these files are never changed."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _suffix(archive: Path) -> str:
    """Return the suffix of the documents in an archive, for the first kind of which it has any."""
    import zipfile

    try:
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
    except (zipfile.BadZipFile, OSError):
        return ""
    kinds = [kind for name in names if (kind := kind_by_name(name)) and name.endswith(f".{KINDS[kind].suffix}")]
    return KINDS[kinds[0]].suffix if kinds else ""


def _names(files: Path) -> list[str]:
    return sorted(os.fspath(path.relative_to(files)) for path in files.rglob("*") if path.is_file())


def _documents(names: list[str], kind: str) -> list[str]:
    """Return the names of files that may be the document, the likeliest first."""
    found = [name for name in names if not name.startswith(f"{_GIVEN}/") and (known := kind_by_name(name))
             and name.endswith(f".{KINDS[known].suffix}") and kind in ("", known)]  # fmt: skip
    return sorted(found, key=lambda name: (Path(name).stem != "main", name.count("/"), names.index(name)))


def _filled(draft: Draft, described: Described) -> Draft:
    """Return the draft with the inputs of the earlier run converted to texts of the form."""
    params = dict(draft.params or {})
    values = {field.name: text_of(field, params.pop(field.name)) for field in described.fields if field.name in params}
    if draft.kind == "PYTHON":
        more = text_of_script_params(params)
    else:
        more = json.dumps(params, ensure_ascii=False, indent=1) if params else ""
    return draft._replace(values=values, more=more)


def _merged(draft: Draft, form: _InputsForm) -> Draft:
    """Return the draft with the texts of the submitted form, and with the names of its files."""
    given = {name.partition(":"): _plain(text) for name, text in form.fields.items()}
    values = {name: text for (kind, _, name), text in given.items() if kind == "value"}
    values |= {name: "\n".join(places) for name, places in form.chosen.items()}
    plain = {name: _plain(form.fields.get(name, "")) for name in ("more", "options", "tags")}
    return draft._replace(values=values, params=None, keeps=draft.keeps if form.fields.get("keeps") else "", **plain)


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n")


def _params(draft: Draft, described: Described) -> dict[str, Any]:
    """Return the inputs of the run, converted from the texts of the form."""
    if draft.kind == "PYTHON":
        return script_params(draft.more.splitlines())
    params = read_object("further inputs", draft.more)
    for field in described.fields:
        text = draft.values.get(field.name, "")
        if text.strip():
            params[field.name] = value_of(field, text, draft.kind)
        elif field.is_needed and field.name not in params:
            raise InputError(f"{field.name}: needs a value")
    return params


def draft_routes(service: Service, around: Callable[..., dict[str, Any]]) -> list[Any]:
    """Return the routes of new runs.

    Parameters
    ----------
    service : Service
    around : callable
        Returns the values that each template needs, for a request and the name of a page.
    """
    from starlette.routing import Route

    drafts = _Drafts(service, around)
    return [
        Route(f"{PAGES}/submit", answering(drafts.choose, drafts.around), methods=["GET"]),
        Route(f"{PAGES}/submit", answering(drafts.begin, drafts.around), methods=["POST"]),
        Route(f"{PAGES}/submit/{{draft}}", answering(drafts.show, drafts.around), methods=["GET"]),
        Route(f"{PAGES}/submit/{{draft}}", answering(drafts.submit, drafts.around), methods=["POST"]),
        Route(f"{PAGES}/runs/{{run_id}}/again", answering(drafts.again, drafts.around), methods=["POST"]),
    ]
