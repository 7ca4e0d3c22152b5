"""Pass loaded documents to workers in one object of the store, with their secret inputs encrypted.

The documents of a run form one bundle: the loaded process with everything it refers to, and the options for running
tools. A task refers to a `Part`: the bundle, and a path of steps in it. The identity of a part depends only on that
part of the document: after an edit of one tool, only that tool and the steps that depend on it run again.

`EncryptedSecrets` encrypts secret inputs (`cwltool:Secrets`), so that tasks, the store and logs contain them only in
encrypted form.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cwltool.context import RuntimeContext
from cwltool.errors import UnsupportedRequirement, WorkflowException
from cwltool.mutation import MutationManager
from cwltool.process import Process, shortname
from cwltool.secrets import SecretStore
from cwltool.workflow import Workflow, WorkflowStep

from toilfn.files.file import File, open_write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

__all__ = [
    "VARIABLE",
    "Document",
    "EncryptedSecrets",
    "Part",
    "ToolOptions",
    "bundle",
    "in_store",
    "refuse_unsupported",
    "secret_inputs",
    "updates_in_place",
]  # fmt: skip

_CARRIED = (
    "use_container", "default_container", "find_default_container", "singularity", "podman", "user_space_docker_cmd",
    "force_docker_pull", "pull_image", "rm_container", "no_read_only", "custom_net", "no_match_user",
    "preserve_environment", "preserve_entire_environment", "image_base_path", "docker_outdir", "docker_tmpdir",
    "docker_stagedir", "strict_memory_limit", "strict_cpu_limit", "compute_checksum", "streaming_allowed",
    "mpi_config", "job_script_provider", "debug", "js_console", "eval_timeout", "cachedir", "log_dir", "rm_tmpdir",
    "cidfile_dir", "cidfile_prefix",
)  # fmt: skip
"""Attributes of the `RuntimeContext` of cwltool that have the same meaning on every machine."""

_RESULTS = (
    "use_container", "default_container", "singularity", "podman", "user_space_docker_cmd", "no_read_only",
    "preserve_environment", "preserve_entire_environment", "docker_outdir", "docker_tmpdir", "docker_stagedir",
)  # fmt: skip
"""The attributes in `_CARRIED` that can affect the outputs of a tool."""


@dataclass(frozen=True)
class ToolOptions:
    """Options for running tools.

    Attributes
    ----------
    attributes : mapping
        Attributes of the `RuntimeContext` of cwltool.
    shared : str
        A directory shared by all machines, in which outputs stay instead of being moved into the store; empty to use
        the store.
    """

    attributes: Mapping[str, Any]
    shared: str = ""

    @classmethod
    def of(cls, context: RuntimeContext, shared: str = "") -> ToolOptions:
        """Build the options for running tools from those of the command line."""
        return cls({name: getattr(context, name) for name in _CARRIED}, shared)

    @property
    def identity(self) -> tuple[object, ...]:
        """The options that can affect the outputs of a tool."""
        return tuple(str(self.attributes[name]) for name in _RESULTS)

    def context(self, directory: Path) -> RuntimeContext:
        """Build the context for running a tool with all temporary files below a directory."""
        context = RuntimeContext(dict(self.attributes))
        context.basedir = str(directory)
        context.tmpdir_prefix = f"{directory}{os.sep}tmp-"
        context.tmp_outdir_prefix = f"{self.shared or directory}{os.sep}out-"
        context.mutation_manager = MutationManager()
        context.secret_store = EncryptedSecrets()
        # cwltool needs this lock for tools that run in parallel in one process; here, each task has its own context.
        context.workflow_eval_lock = threading.Condition(threading.RLock())
        return context


StepPath = tuple[str, ...]

_RANDOM = re.compile("_:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The random names that cwltool generates for objects without names in the document."""


@dataclass(frozen=True)
class Document:
    """The content of a bundle.

    Attributes
    ----------
    process : Process
        The process to run.
    tool_options : ToolOptions
        The options for running tools.
    digests : mapping
        The digest of each process and step, by path.
    nonces : mapping
        For each process and step, by path: a text unique to the run if it must not be reused, else an empty text.
    reuse : bool
        Whether the run may reuse results.
    """

    process: Process
    tool_options: ToolOptions
    digests: Mapping[StepPath, str]
    nonces: Mapping[StepPath, str]
    reuse: bool

    def at(self, path: StepPath) -> Process:
        """Return the process at a path of steps."""
        found = self.process
        for name in path:
            found = step_of(found, name).embedded_tool
        return found


@dataclass(frozen=True, slots=True)
class Part:
    """A process of a bundle, or with `step` one of its steps, as an argument of tasks.

    `files` maps the locations of files that the documents refer to, to the files in the store.
    """

    __toilfn_lineage__: ClassVar[bool] = False  # a workflow's steps have names and parts of their own

    bundle: File | bytes
    path: StepPath
    digest: str
    step: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)

    def __toilfn_identity__(self) -> tuple[object, ...]:
        """Return the values that identify this argument: the digest of that part of the document, and its files."""
        return self.digest, self.step, self.files

    def __repr__(self) -> str:
        return f"<{'/'.join(filter(None, [*self.path, self.step])) or 'document'}>"

    @property
    def document(self) -> Document:
        """The content of the bundle."""
        return _opened(self.bundle)

    @property
    def process(self) -> Process:
        """The process."""
        return self.document.at(self.path)

    @property
    def nonce(self) -> str:
        """A text unique to the run if the part must not be reused, else an empty text."""
        return self.document.nonces[(*self.path, self.step) if self.step else self.path]

    def step_process(self) -> WorkflowStep:
        """Return the step of this part."""
        return step_of(self.process, self.step)

    def at_step(self, step: WorkflowStep) -> Part:
        """Return the part for a step of this one."""
        path = (*self.path, shortname(step.id))
        return replace(self, step=path[-1], digest=self.document.digests[path])

    def inside(self) -> Part:
        """Return the part for the process that the step runs."""
        path = (*self.path, self.step)
        return replace(self, path=path, step="", digest=self.document.digests[path])


def step_of(process: Process, name: str) -> WorkflowStep:
    """Find a workflow's step by its short name."""
    assert isinstance(process, Workflow)
    return next(step for step in process.steps if shortname(step.id) == name)


def bundle(process: Process, tool_options: ToolOptions, files: Mapping[str, Any], nonce: str, *, reuse: bool) -> Part:
    """Pack a loaded process for tasks.

    Parameters
    ----------
    process : Process
        The process from `cwltool.load_tool`. Attributes that only loading needs are removed from it.
    tool_options : ToolOptions
        The options for running tools.
    files : mapping
        Files in the store, or promises of them, by the locations in the documents.
    nonce : str
        A text unique to the run, for processes that must not be reused.
    reuse : bool
        Whether results of earlier runs on the store may be reused, unless the documents forbid it.

    Returns
    -------
    Part
        The whole bundle.
    """
    digests: dict[StepPath, str] = {}
    nonces: dict[StepPath, str] = {}
    for path, one in _walk(process, ()):
        one.doc_loader = None  # holds open connections and the whole schema
        one.doc_schema = None
        digests.setdefault(path, _digest(one, tool_options))
        nonces.setdefault(path, "" if reuse and _may_reuse(one) else nonce)
    document = Document(process, tool_options, digests, nonces, reuse)
    content = pickle.dumps(document, 5)
    _documents[_key(content)] = document
    return Part(content, (), digests[()], files=files)


def in_store(part: Part) -> Part:
    """Return the same part with the bundle as a file in the store, which many tasks can share."""
    if isinstance(part.bundle, File):
        return part
    with open_write("documents") as stream:
        stream.write(part.bundle)
    return replace(part, bundle=stream.file)


_documents: dict[str, Document] = {}
"""The bundles of this process and the process it was forked from, by their digests."""


def _opened(content: File | bytes) -> Document:
    key = content.checksum if isinstance(content, File) else _key(content)
    if key not in _documents:
        data = content.read_bytes() if isinstance(content, File) else content
        _documents[key] = pickle.loads(data)
    return _documents[key]


def _key(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()  # the same digest as the store's checksum of files


def _walk(process: Process, path: StepPath) -> Iterator[tuple[StepPath, Process]]:
    """Iterate over a process, its steps, and their steps in turn, with their paths."""
    yield path, process
    steps = process.steps if isinstance(process, Workflow) else []
    for step in sorted(steps, key=lambda step: str(step.id)):  # cwltool shuffles the steps
        yield (*path, shortname(step.id)), step
        yield from _walk(step.embedded_tool, (*path, shortname(step.id)))


def updates_in_place(process: Process) -> bool:
    """Return whether any part of a process changes files in place (CWL v1.2, InplaceUpdateRequirement)."""
    wishes = [one.get_requirement("InplaceUpdateRequirement")[0] for _, one in _walk(process, ())]
    return any(wish is not None and wish["inplaceUpdate"] for wish in wishes)


def refuse_unsupported(process: Process) -> None:
    """Refuse a process that cannot be run correctly.

    Raises
    ------
    UnsupportedRequirement
        If a step has secret inputs but the process has none: the store would contain them unencrypted.
    """
    if secret_inputs(process):
        return
    for path, one in _walk(process, ()):
        if secret_inputs(one):
            raise UnsupportedRequirement(
                f"step {'/'.join(path)} has cwltool:Secrets, but the workflow does not list these inputs in its own"
                " cwltool:Secrets"
            )


def _may_reuse(process: Process) -> bool:
    """Return whether nothing in a process forbids reuse; an expression may still forbid it (`toilfn.cwl.reuse`)."""
    inner = process.embedded_tool if isinstance(process, WorkflowStep) else process
    wishes = [one.get_requirement("WorkReuse")[0] for _, one in _walk(inner, ())]
    return all(wish is None or wish.get("enableReuse", True) is True for wish in wishes)


def _digest(process: Process, tool_options: ToolOptions) -> str:
    inner = process.embedded_tool if isinstance(process, WorkflowStep) else process
    parts = [process.tool, *(one.tool for _, one in _walk(inner, ()))]
    content = [parts, process.requirements, process.hints, process.metadata.get("cwlVersion"), tool_options.identity]
    text = _RANDOM.sub("_:", json.dumps(content, sort_keys=True, default=str))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


VARIABLE = "TOILFN_CWL_SECRETS_KEY"
"""The environment variable with the key: 32 bytes in base64."""

_KEY_SIZE = 32

_REQUIREMENT = "http://commonwl.org/cwltool#Secrets"
_SEALED = re.compile(r"\(secret-([A-Za-z0-9_-]+=*)\)")
_PURPOSE = [b"toilfn cwl secret"]


def secret_inputs(process: Process) -> list[str]:
    """Return the names of a process's secret inputs."""
    wish: Any = process.get_requirement(_REQUIREMENT)[0]
    return [shortname(name) for name in wish["secrets"]] if wish else []


class EncryptedSecrets(SecretStore):
    """The store that cwltool uses to hide secrets and to look them up."""

    def add(self, value: Any) -> Any:
        """Encrypt a secret, unless it is None or already encrypted.

        Raises
        ------
        cwltool.errors.UnsupportedRequirement
            If the secret is not text.
        """
        if value is None or (isinstance(value, str) and _SEALED.fullmatch(value)):
            return value
        if not isinstance(value, str):
            raise UnsupportedRequirement(f"cwltool:Secrets supports only text, not {type(value).__name__}")
        sealed = _cipher(_secret_key(make=True)).encrypt(value.encode(), _PURPOSE)
        return f"(secret-{base64.urlsafe_b64encode(sealed).decode()})"

    def has_secret(self, value: Any) -> bool:
        """Return whether a value contains an encrypted secret."""
        if isinstance(value, str):
            return _SEALED.search(value) is not None
        if isinstance(value, Mapping):
            return any(map(self.has_secret, value.values()))
        return isinstance(value, (list, tuple)) and any(map(self.has_secret, value))

    def retrieve(self, value: Any) -> Any:
        """Return a value with decrypted secrets.

        Raises
        ------
        cwltool.errors.WorkflowException
            If this machine has no key, or a different one.
        """
        if isinstance(value, str):
            return _SEALED.sub(_decrypted, value)
        if isinstance(value, Mapping):
            return {name: self.retrieve(item) for name, item in value.items()}
        return [self.retrieve(item) for item in value] if isinstance(value, (list, tuple)) else value


def _decrypted(match: re.Match[str]) -> str:
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(_secret_key()).decrypt(base64.urlsafe_b64decode(match[1]), _PURPOSE).decode()
    except (InvalidTag, ValueError):
        raise WorkflowException(
            f"a secret was encrypted with a different key than this machine has; set {VARIABLE}"
        ) from None


def _cipher(key: bytes) -> AESSIV:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # slow to import

    return AESSIV(key)


def _secret_key(*, make: bool = False) -> bytes:
    """Return the key; with `make`, create one if necessary."""
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "toilfn" / "cwl-secrets.key"
    given = os.environ.get(VARIABLE)
    if given is None and make and not path.exists():
        _make_secret_key(path)
    try:
        key = base64.b64decode(path.read_text() if given is None else given)
    except OSError:
        raise WorkflowException(f"the key for secrets is not on this machine; set {VARIABLE}, or copy {path}") from None
    except ValueError:
        key = b""
    if len(key) != _KEY_SIZE:
        raise WorkflowException(f"{(path if given is None else VARIABLE)} must contain a key of 32 bytes in base64")
    return key


def _make_secret_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(base64.b64encode(os.urandom(_KEY_SIZE)).decode())
    with suppress(FileExistsError):  # another process has just created a key, which is used
        os.link(draft, path)  # a link appears with its whole content, so no process reads half a key
    draft.unlink()
