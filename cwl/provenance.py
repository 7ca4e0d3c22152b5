"""Write a run as a research object: a Workflow Run RO-Crate (``--provenance DIR``).

The crate follows the profile Provenance Run Crate 0.5, https://w3id.org/ro/wfrun/provenance/0.5; for a single tool,
it follows Process Run Crate 0.5, https://w3id.org/ro/wfrun/process/0.5.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from cwltool.context import LoadingContext
from cwltool.pack import pack
from cwltool.process import Process, compute_checksums, shortname
from cwltool.stdfsaccess import StdFsAccess
from cwltool.update import ORIGINAL_CWLVERSION
from cwltool.workflow import Workflow, WorkflowStep
from rocrate.model import ContextEntity, Person, SoftwareApplication
from rocrate.model.entity import Entity
from rocrate.rocrate import ROCrate
from schema_salad.ref_resolver import file_uri

from toilfn.cwl import links
from toilfn.cwl.documents import Part, StepPath, step_of
from toilfn.cwl.reuse import RunNonce
from toilfn.cwl.steps import runs_here
from toilfn.cwl.values import local_path, objects
from toilfn.files.file import File, held_by
from toilfn.graph.serialize import loads, resolve
from toilfn.graph.values import Values
from toilfn.ids import TaskId
from toilfn.inspect.view import State, View
from toilfn.model.index import Index
from toilfn.model.records import BlobRef
from toilfn.stores import Store

__all__ = ["Agent", "Data", "Record", "ToolRun", "packed", "tool_runs", "write"]

_PROFILES = "https://w3id.org/ro/wfrun"
_DOCUMENT = "packed.cwl"
_TERMS = {"sha1": "https://w3id.org/ro/terms/workflow-run#sha1"}
_TYPES = {
    "File": "File", "Directory": "Dataset", "string": "Text", "int": "Integer", "long": "Integer", "float": "Float",
    "double": "Float", "boolean": "Boolean",
}  # fmt: skip
"""The names that crates use for CWL types (Workflow Run Crate, "Representing parameters")."""


@dataclass(frozen=True)
class Agent:
    """The person who ran the workflow, according to the command line.

    Attributes
    ----------
    name, orcid : str
        Name and ORCID; empty if not given.
    hosts : bool
        Whether to record the machines on which tools ran.
    """

    name: str = ""
    orcid: str = ""
    hosts: bool = False


@dataclass(frozen=True)
class Record:
    """The content of a crate that is not in the store.

    Attributes
    ----------
    process : Process
        The process that was run.
    document : str
        The packed document.
    inputs, outputs : mapping
        The input object and the result object, by short name, with URLs as locations.
    agent : Agent
        The person who ran it.
    """

    process: Process
    document: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    agent: Agent


def packed(process: Process) -> str:
    """Return a loaded document packed as one text; must be called before `bundle`, which removes the loader."""
    return json.dumps(pack(LoadingContext(), process.tool["id"], loader=process.doc_loader), indent=2, default=str)


def write(directory: str, record: Record, store: Store) -> None:
    """Write the crate of a store's newest run.

    Parameters
    ----------
    directory : str
        The directory to create. It gets copies of all input, output and intermediate files, named by their checksums.
    record : Record
        The content that is not in the store.
    store : Store
        The store of the run, which has ended.
    """
    temporary = tempfile.mkdtemp(prefix="toilfn-crate-")
    try:
        _Crate(record, store, Path(temporary)).write(directory)
    finally:
        shutil.rmtree(temporary)


class _Crate:
    def __init__(self, record: Record, store: Store, temporary: Path) -> None:
        self._record = record
        self._view = View(store)
        self._runs = list(tool_runs(store, record.process, self._view))
        self._crate = ROCrate(version="1.1")
        self._crate.metadata.extra_terms.update(_TERMS)
        self._data = Data(self._crate, store, temporary)
        self._agent = self._person(record.agent)

    def write(self, directory: str) -> None:
        name = shortname(self._record.process.tool["id"]) or _DOCUMENT
        root = self._crate.root_dataset
        root["name"] = f"Run of {name}"
        root["description"] = f"The CWL document {name} with the inputs and outputs of a run."
        root["license"] = "None was given: the rights in the document and the data stay with their authors."
        main = self._document(name)
        whole = self._run_action(main, name)
        if isinstance(self._record.process, Workflow):
            self._steps(main, whole)
        self._conform()
        self._crate.write(directory)

    def _document(self, name: str) -> Entity:
        is_workflow = isinstance(self._record.process, Workflow)
        kinds = ["ComputationalWorkflow"] * is_workflow + ["HowTo"] * (is_workflow and bool(self._runs))
        return self._crate.add_workflow(
            StringIO(self._record.document), _DOCUMENT, main=is_workflow, lang="cwl",
            lang_version=str(self._record.process.metadata[ORIGINAL_CWLVERSION]),
            properties={"@type": ["File", "SoftwareSourceCode", *kinds], "name": name},
        )  # fmt: skip

    def _run_action(self, main: Entity, name: str) -> Entity:
        """Describe the whole run with its inputs and outputs."""
        run, record = self._view.runs[-1], self._record
        end = self._view.ends[run.number].time
        taken, given = (self._parameters(main, kind) for kind in ("input", "output"))
        action = self._action("#run", f"Run of {name}", main, run.time, end)
        action["object"] = self._data.of(record.inputs, taken, "run/input")
        action["result"] = self._data.of(record.outputs, given, "run/output")
        return action

    def _parameters(self, main: Entity, kind: str) -> dict[str, Entity]:
        made = {}
        for entry in self._record.process.tool[f"{kind}s"]:
            name = shortname(entry["id"])
            word, optional = _type(entry["type"])
            made[name] = self._crate.add_formal_parameter(
                name, word, f"#{kind}/{name}", valueRequired=str(not optional and "default" not in entry)
            )
        if made and isinstance(self._record.process, Workflow):
            main[kind] = list(made.values())
        return made

    def _steps(self, main: Entity, whole: Entity) -> None:
        """Describe the steps that ran tools, the tools, and each of their runs."""
        runs: dict[StepPath, list[ToolRun]] = {}
        for run in self._runs:
            runs.setdefault(run.path, []).append(run)
        tools, steps, controls = [], [], []
        for position, (path, step) in enumerate(_leaves(self._record.process), start=1):
            if path in runs:
                tools.append(self._tool(path, step))
                steps.append(self._step(path, tools[-1], position))
                controls += [self._control(steps[-1], tools[-1], run, n) for n, run in enumerate(runs[path], start=1)]
        if tools:
            main["hasPart"], main["step"] = tools, steps
            self._organize(whole, controls)

    def _tool(self, path: StepPath, step: WorkflowStep) -> Entity:
        tool = step.embedded_tool.tool
        properties = {"name": tool.get("label") or "/".join(path)}
        if "doc" in tool:
            properties["description"] = str(tool["doc"])
        return self._crate.add(SoftwareApplication(self._crate, f"#tool/{'/'.join(path)}", properties=properties))

    def _step(self, path: StepPath, tool: Entity, position: int) -> Entity:
        name = "/".join(path)
        made = self._add(f"#step/{name}", "HowToStep", name=name, position=str(position))
        made["workExample"] = tool
        return made

    def _control(self, step: Entity, tool: Entity, run: ToolRun, number: int) -> Entity:
        name = f"{'/'.join(run.path)}/{number}"
        action = self._action(f"#run/{name}", f"Run of {name}", tool, run.start, run.end)
        if self._record.agent.hosts:
            action["description"] = f"on {run.host}"
        action["object"] = self._data.of(_short(run.inputs), {}, f"{name}/input")
        action["result"] = self._data.of(run.outputs, {}, f"{name}/output")
        control = self._add(f"#control/{name}", "ControlAction", name=f"Start of {name}")
        control["instrument"], control["object"] = step, action
        return control

    def _organize(self, whole: Entity, controls: Sequence[Entity]) -> None:
        properties = {"name": "toilfn", "softwareVersion": f"{version('toilfn')}, cwltool {version('cwltool')}"}
        engine = self._crate.add(SoftwareApplication(self._crate, "#toilfn", properties=properties))
        organize = self._add("#organize", "OrganizeAction", name="Run of toilfn")
        organize["instrument"], organize["result"], organize["object"] = engine, whole, list(controls)
        organize["startTime"], organize["endTime"] = whole["startTime"], whole["endTime"]
        self._by_agent(organize)

    def _action(self, id_: str, name: str, instrument: Entity, start: float, end: float) -> Entity:
        action = self._add(id_, "CreateAction", name=name, startTime=_time(start), endTime=_time(end))
        action["instrument"] = instrument
        action["actionStatus"] = "http://schema.org/CompletedActionStatus"
        self._crate.root_dataset.append_to("mentions", action)
        self._by_agent(action)
        return action

    def _by_agent(self, action: Entity) -> None:
        if self._agent is not None:
            action["agent"] = self._agent

    def _person(self, agent: Agent) -> Entity | None:
        if not (agent.name or agent.orcid):
            return None
        properties = {"name": agent.name or agent.orcid}
        return self._crate.add(Person(self._crate, agent.orcid or "#agent", properties=properties))

    def _conform(self) -> None:
        """Record the profiles that the crate follows; a workflow that ran no tools has no steps."""
        is_workflow = isinstance(self._record.process, Workflow)
        names = ["process"] + ["workflow"] * is_workflow + ["provenance"] * (is_workflow and bool(self._runs))
        for name in names:
            title = f"{name.capitalize()} Run Crate"
            profile = self._add(f"{_PROFILES}/{name}/0.5", "CreativeWork", name=title, version="0.5")
            self._crate.root_dataset.append_to("conformsTo", profile)

    def _add(self, id_: str, kind: str, **properties: str) -> Entity:
        return self._crate.add(ContextEntity(self._crate, id_, properties={"@type": kind, **properties}))


def _leaves(workflow: Process, path: StepPath = ()) -> Iterator[tuple[StepPath, WorkflowStep]]:
    """Iterate over the steps that run tools, including those of subworkflows."""
    assert isinstance(workflow, Workflow)
    for step in links.in_order(workflow.steps):
        here = (*path, shortname(step.id))
        if isinstance(step.embedded_tool, Workflow):
            yield from _leaves(step.embedded_tool, here)
        else:
            yield here, step


def _short(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step's inputs by short name, instead of by the ids of their sources."""
    return {id_.partition("#")[2].replace("main/", "", 1) or id_: value for id_, value in inputs.items()}


def _type(kind: Any) -> tuple[str, bool]:
    """Return the name of a type in crates, and whether it allows null."""
    kinds = kind if isinstance(kind, list) else [kind]
    others = [one for one in kinds if one != "null"]
    first = others[0] if others else "Any"
    while isinstance(first, Mapping) and first.get("type") == "array":
        first = first["items"]
    word = _TYPES.get(first, "PropertyValue") if isinstance(first, str) else "PropertyValue"
    return word, len(others) < len(kinds)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class ToolRun:
    """One run of a tool.

    Attributes
    ----------
    path : tuple of str
        The path of steps to the tool; empty if the document is just the tool.
    start, end : float
        Times in seconds since the epoch.
    host : str
        The machine on which the tool ran.
    inputs, outputs : dict
        Values in the form used between tasks: the inputs of the step, by the ids of their sources or by short name,
        and its outputs.
    """

    path: StepPath
    start: float
    end: float
    host: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def tool_runs(store: Store, process: Process, view: View) -> Iterator[ToolRun]:
    """Iterate over the tools that the newest run of a store needed, in the order in which they were recorded."""
    reader = _Reader(store)
    for info in view.current():
        if info.state is not State.DONE or info.children:
            continue
        match reader.arguments(info.id):
            case (Part() as part, dict() as inputs, RunNonce()) if _is_tool(process, part):
                outputs = reader.value(info.id)
                if not (part.step and _was_skipped(_step(process, part), outputs)):
                    path = (*part.path, part.step) if part.step else part.path
                    yield ToolRun(path, info.start, info.start + info.wall, info.host, inputs, outputs)


def _is_tool(process: Process, part: Part) -> bool:
    """Return whether the task for a part ran a tool itself; such tasks have no other arguments."""
    if part.step:
        return runs_here(_step(process, part))
    return not isinstance(_inside(process, part.path), Workflow)


def _step(process: Process, part: Part) -> WorkflowStep:
    return step_of(_inside(process, part.path), part.step)


def _inside(process: Process, path: StepPath) -> Process:
    for name in path:
        process = step_of(process, name).embedded_tool
    return process


def _was_skipped(step: WorkflowStep, outputs: dict[str, Any]) -> bool:
    """Return whether a step was skipped, so that its outputs are null (CWL v1.2, "Conditional execution")."""
    return "when" in step.tool and all(value is None for value in outputs.values())


class _Reader:
    """Reads the arguments and values of tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = Index.load(store.log)
        self._values = Values(self._index.value)

    def arguments(self, id_: TaskId) -> tuple[Any, ...]:
        task = self._index.task(id_)
        with held_by(self._store):
            args, _ = loads(self._bytes(task.args), self._load(task.needs))
        return tuple(args)

    def value(self, id_: TaskId) -> Any:
        with held_by(self._store):
            return self._load([id_])[id_]

    def _load(self, ids: Sequence[TaskId]) -> dict[TaskId, Any]:
        entries = self._values.closure(ids)
        return resolve(ids, {id_: (self._bytes(value), refs) for id_, (value, refs) in entries.items()})

    def _bytes(self, value: bytes | BlobRef) -> bytes:
        return self._store.payload(value)


class Data:
    """The data of a crate.

    Parameters
    ----------
    crate : ROCrate
        The crate, which gets one entity per file, even if several tools use it.
    store : Store
        The store with the files between tasks.
    temporary : Path
        A directory that exists until the crate is written.
    """

    def __init__(self, crate: ROCrate, store: Store, temporary: Path) -> None:
        self._crate = crate
        self._store = store
        self._temporary = temporary
        self._known: dict[Any, Entity] = {}

    def of(self, values: Mapping[str, Any], parameters: Mapping[str, Entity], owner: str) -> list[Entity]:
        """Return the entities of some values, marked as examples of their parameters if these are known.

        Parameters
        ----------
        values : mapping
            The values by name.
        parameters : mapping
            The parameters, by the same names.
        owner : str
            The owner of the values, which is part of the ids of values that are not files.
        """
        made: dict[str, Entity] = {}
        for name, value in values.items():
            for entity in self._entities(name, value, owner):
                made[entity.id] = entity
                if name in parameters:
                    _refer(entity, "exampleOfWork", parameters[name])
        return list(made.values())

    def _entities(self, name: str, value: Any, owner: str) -> Iterator[Entity]:
        """Iterate over the entities of a value's files, or, without files, yield one entity for the value."""
        found = list(objects(value))
        if not found:
            if value is not None:
                yield self._plain(name, value, owner)
            return
        for one in filter(_is_there, found):
            yield self._entity_of(one)

    def _plain(self, name: str, value: Any, owner: str) -> Entity:
        text = value if isinstance(value, (str, int, float)) else json.dumps(value, default=str)
        properties = {"@type": "PropertyValue", "name": name, "value": str(text)}
        return self._crate.add(ContextEntity(self._crate, f"#value/{owner}/{name}", properties=properties))

    def _entity_of(self, found: Mapping[str, Any]) -> Entity:
        key = found.get("location") or found.get("contents")
        if key not in self._known:
            self._known[key] = self._file(found) if found["class"] == "File" else self._directory(found)
        return self._known[key]

    def _file(self, found: Mapping[str, Any]) -> Entity:
        path = self._local(found)
        if path is None:
            return self._crate.add_file(found["location"], properties={"name": found.get("basename", "")})
        hashed: Any = {"class": "File", "location": file_uri(str(path))}
        compute_checksums(StdFsAccess(""), hashed)
        digest = hashed["checksum"].removeprefix("sha1$")
        place = f"data/{digest[:2]}/{digest}"
        known: Entity | None = self._crate.get(place)
        if known is not None:
            return known
        name = found.get("basename") or path.name
        properties = {"name": name, "alternateName": name, "sha1": digest, "contentSize": str(hashed["size"])}
        return self._crate.add_file(path, place, properties=properties)

    def _local(self, found: Mapping[str, Any]) -> Path | None:
        """Return a local file with the content; None if the file is not accessible locally."""
        location, new = found.get("location"), self._temporary / str(len(self._known))
        if isinstance(location, File):
            self._store.fetch_blob(location.ref, new)
            return new
        if "contents" in found and (location is None or location.startswith("_:")):
            new.write_text(found["contents"])
            return new
        return local_path(location)

    def _directory(self, found: Mapping[str, Any]) -> Entity:
        path, name = local_path(found["location"]), found.get("basename", "")
        properties = {"name": name or found["location"]}
        if path is None:
            return self._crate.add_dataset(found["location"], properties=properties)
        return self._crate.add_tree(path, f"data/{len(self._known)}-{path.name}", properties=properties)


def _is_there(found: Mapping[str, Any]) -> bool:
    """Return whether an object's content can be copied: it cannot for directories between steps, and moved outputs."""
    location = found.get("location")
    if found["class"] == "File" and (isinstance(location, File) or "contents" in found):
        return True
    path = local_path(location)
    return path.exists() if path is not None else isinstance(location, str) and not location.startswith("_:")


def _refer(entity: Entity, name: str, other: Entity) -> None:
    """Add a reference from an entity to another, unless it exists."""
    known = entity.get(name) or []
    if other not in (known if isinstance(known, list) else [known]):
        entity.append_to(name, other)
