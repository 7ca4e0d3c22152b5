"""Pickle arguments, values and functions, with promises by reference.

A promise inside a payload becomes a persistent id, its task's id or ``(id, path)``, so a payload says
exactly which tasks' values it needs, and loading it puts those values in place.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import io
import linecache
import os
import pickle
import re
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import cloudpickle

from toilfn.errors import SerializationError, StoreError, ToilfnError
from toilfn.graph.identity.modules import is_singledispatch, take_modules_by_value
from toilfn.graph.reducers import reduced_exception, validated, validation_of
from toilfn.graph.running import keep_main, payload_store
from toilfn.graph.structure import ATOMS, LAZY, is_collection, items_of
from toilfn.ids import TaskId
from toilfn.model.records import BlobRef
from toilfn.moved import MOVED_VARIABLE, relocated

if TYPE_CHECKING:
    from toilfn.graph.promise import Promise

__all__ = [
    "Main",
    "dumps",
    "dumps_function",
    "load_function",
    "loads",
    "loads_function",
    "only_reference",
    "resolve",
]

PROTOCOL = 5
"""Fixed, so that every supported Python reads every other's payloads."""


def dumps(
    value: Any,
    ids: Callable[[Promise], TaskId] | None = None,
    *,
    absolute_paths: bool = False,
    keep: Callable[[memoryview], BlobRef] | None = None,
) -> tuple[bytes, tuple[TaskId, ...]]:
    """Pickle a value.

    Parameters
    ----------
    value : object
        What to pickle; it may hold promises anywhere.
    ids : callable, optional
        Gives the id of the task behind a promise. Without it the value may hold no promises.
    absolute_paths : bool
        Whether a relative `pathlib.Path` becomes the absolute one that it stands for here.
    keep : callable, optional
        Stores a large buffer of the value, of an array for instance, apart from the payload. Without it, all is in
        the payload.

    Returns
    -------
    bytes
        The payload.
    tuple of TaskId
        The tasks whose values `loads` will need, each once.

    Raises
    ------
    SerializationError
        If something in the value cannot be pickled; names its type.
    """
    kind = type(value)
    if (kind in ATOMS and not is_large(value)) or (kind in (list, tuple) and _PLAIN.issuperset(map(type, value))):
        return pickle.dumps(value, PROTOCOL), ()
    buffer = io.BytesIO()
    refs: dict[TaskId, None] = {}
    pickler = _Pickler(buffer, ids, refs, absolute_paths=absolute_paths, keep=keep)
    try:
        pickler.dump(value)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"a {type(value).__name__} cannot be stored: {error}") from error
    return buffer.getvalue(), tuple(refs)


LEAST_BUFFER = 2**20
"""Bytes: larger buffers and byte strings of a value are stored apart from its payload."""

_PLAIN = ATOMS - {bytes}

_BUFFER = "buffer"
"""The first item of the persistent id of a buffer that is stored apart."""


def is_large(value: Any) -> bool:
    """Return whether a value is a byte string that is stored apart from its payload."""
    return type(value) is bytes and len(value) >= LEAST_BUFFER


_SPAWNED_MAIN = "toilfn.graph.spawned"
"""The module that such a process runs: it is never imported here."""


class Main(ModuleType):
    """The module ``__main__`` while a task of the script runs; it contains what the task uses of the script.

    So names that Python looks up there are found as in the plain script, by `pickle` and so by pools of processes, by
    `typing.get_type_hints` and by `inspect`.
    """

    __slots__ = ("_new_dir", "_payload")

    def __init__(self, payload: bytes = b"", new_dir: Callable[[], Path] | None = None) -> None:
        super().__init__("__main__")
        self._payload = payload
        self._new_dir = new_dir

    @property
    def __spec__(self) -> ModuleSpec | None:  # type: ignore[override]
        """The specification from which a process that `multiprocessing` spawns gets its main module.

        Such a process would run the script's file. Where that is not, because the script was typed in or this is
        another machine, the process loads what the task uses of the script instead (`toilfn.graph.spawned`).
        """
        if not self._payload or self._new_dir is None or os.path.isfile(vars(self).get("__file__", "")):
            return None
        return ModuleSpec(_SPAWNED_MAIN, None) if keep_main(self._payload, self._new_dir) else None


class _LocatedPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is not typed
    """Cloudpickle, but code keeps the name of its file.

    Attributes
    ----------
    files : set of str
        These names.
    """

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.files: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is CodeType:
            name = os.path.abspath(obj.co_filename) if os.path.exists(obj.co_filename) else obj.co_filename
            self.files.add(name)
            _, fields = self.dispatch_table[CodeType](obj)[:2]
            return _located, (fields, name)
        return _with_slots(obj, super().reducer_override(obj))


def _with_slots(obj: Any, reduced: Any) -> Any:
    """Let a class that is pickled by value keep its ``__slots__``.

    Cloudpickle makes the class without them. Its instances then have a ``__dict__``, which those of the real class
    lack, so that they cannot be loaded in the script. Named tuples set their own.
    """
    if not isinstance(obj, type) or issubclass(obj, Enum | tuple):
        return reduced
    if isinstance(reduced, tuple) and "__slots__" in vars(obj):
        _kind, _name, _bases, namespace, *_ = reduced[1]
        namespace["__slots__"] = vars(obj)["__slots__"]
    return reduced


def _cached_property(function: Callable[[Any], Any], name: str | None) -> Any:
    made = functools.cached_property(function)
    if name is not None:
        made.__set_name__(object, name)
    return made


if sys.version_info < (3, 12):  # it holds a lock, so that classes of the script could not be pickled by value
    copyreg.pickle(functools.cached_property, lambda made: (_cached_property, (made.func, made.attrname)))


def _located(fields: tuple[Any, ...], name: str) -> CodeType:
    return CodeType(*fields).replace(co_filename=name)


class _ByValue(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is not typed
    """Cloudpickle, but classes of the script itself come back as the script's own where it is loaded.

    And an open file is refused, where cloudpickle would quietly take what it holds now.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and obj.__module__ == "__main__":
            buffer = io.BytesIO()
            _LocatedPickler(buffer, PROTOCOL).dump(obj)
            return _main_class, (obj.__qualname__, buffer.getvalue())
        if isinstance(obj, io.TextIOWrapper):
            raise TypeError("cannot pickle an open file (TextIOWrapper); return its path, or a toilfn.File")
        if isinstance(obj, BaseException) and (made := reduced_exception(obj)) is not NotImplemented:
            return made
        if type(obj) in LAZY:  # where it is read, what it calls would no longer be part of this graph
            return list, (items_of(obj),)
        return _with_slots(obj, super().reducer_override(obj))


class _Pickler(_ByValue):
    def __init__(
        self,
        file: io.BytesIO,
        ids: Callable[[Promise], TaskId] | None,
        refs: dict[TaskId, None],
        *,
        absolute_paths: bool = False,
        keep: Callable[[memoryview], BlobRef] | None = None,
    ) -> None:
        super().__init__(file, PROTOCOL)
        self._keep = keep
        self._absolute_paths = absolute_paths
        self._ids = ids
        self._refs = refs
        self._made: dict[int, tuple[Any, Promise]] = {}
        promises = sys.modules.get("toilfn.graph.promise")  # in a worker, it is seldom loaded
        self._promise = None if promises is None else promises.Promise

    def reducer_override(self, obj: Any) -> Any:
        if self._absolute_paths and isinstance(obj, Path) and not obj.is_absolute():
            return obj.absolute().__reduce__()
        return super().reducer_override(obj)

    def persistent_id(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in ATOMS:
            return self._kept(memoryview(obj), kind.__name__) if is_large(obj) else None
        if kind is pickle.PickleBuffer:
            return self._kept(obj.raw(), _kind_of(memoryview(obj)))
        is_promise = kind is self._promise
        if not (is_promise or (hasattr(kind, "__dask_graph__") and is_collection(obj))):
            return None
        if self._ids is None:
            raise SerializationError(f"{obj!r} cannot be stored here", hint="pass it to the task as an argument")
        promise = obj if is_promise else self._promise_of(obj)
        task = self._ids(promise)
        self._refs[task] = None
        return (task, promise._path) if promise._path else task

    def _kept(self, view: memoryview, kind: str) -> Any:
        """Store a large buffer apart, and return what stands for it in the payload; None if it belongs there."""
        if self._keep is None or view.nbytes < LEAST_BUFFER:
            return None
        return (_BUFFER, kind, *self._keep(view))

    def _promise_of(self, collection: Any) -> Promise:
        """Turn a dask collection into a promise, the same one wherever the collection is met."""
        from toilfn.graph.task import as_promise

        if id(collection) not in self._made:
            # Holds the collection too: an id is unique only as long as its object lives.
            self._made[id(collection)] = collection, as_promise(collection)
        return self._made[id(collection)][1]


def _kind_of(view: memoryview) -> str:
    return "readonly" if view.readonly else "writable"


def _main_class(name: str, data: bytes) -> Any:
    found: Any = sys.modules["__main__"]
    main = found
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type):
        return found
    made = pickle.loads(data)
    if isinstance(main, Main) and "." not in name:  # so that what the task pickles finds it there
        setattr(main, name, made)
    return made


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, values: Mapping[TaskId, Any]) -> None:
        super().__init__(file)
        self._values = values
        self._bytes: dict[str, bytes] = {}

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == _BUFFER:
            return self._buffer(*pid[1:])
        task, path = (pid, ()) if isinstance(pid, bytes) else pid
        value = self._values[task]
        for step in path:
            value = value[step]
        return value

    def _buffer(self, kind: str, name: str, size: int, digest: bytes) -> memoryview | bytes:
        """Return a buffer that is stored apart: mapped, or, for a byte string, a copy."""
        store, ref = payload_store.get(), BlobRef(name, size, digest)
        if store is None:
            raise StoreError(f"{name}: a large value can only be read with its store")
        if kind != bytes.__name__:
            return store.mapped(ref, writable=kind == "writable")
        if name not in self._bytes:
            self._bytes[name] = bytes(store.mapped(ref, writable=False))
        return self._bytes[name]


class _MovedUnpickler(_Unpickler):
    """Translates paths of a project that has moved: see `toilfn.moved`."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "PosixPath" and module.startswith("pathlib"):
            return lambda *parts: Path(relocated(str(Path(*parts))))
        return super().find_class(module, name)


_BINPERSID = pickle.BINPERSID
"""The operation that stands before each promise of a payload."""


def loads(payload: bytes, values: Mapping[TaskId, Any]) -> Any:
    """Load a payload.

    Parameters
    ----------
    payload : bytes
        What `dumps` made. It is code as much as data: load only from a store you trust. If it has buffers that are
        stored apart, the store must be entered with `toilfn.files.file.held_by`.
    values : mapping
        The value of each task that the payload refers to.

    Returns
    -------
    object
        The value, with promises replaced by values.

    Raises
    ------
    KeyError
        If a task's value is missing.
    """
    if not values and _BINPERSID not in payload and b"PosixPath" not in payload:
        return pickle.loads(payload)  # most are like this, and it is quicker
    unpickler = _MovedUnpickler if MOVED_VARIABLE in os.environ else _Unpickler
    return unpickler(io.BytesIO(payload), values).load()


def resolve(ids: Iterable[TaskId], entries: Mapping[TaskId, tuple[bytes, tuple[TaskId, ...]]]) -> dict[TaskId, Any]:
    """Load the values of tasks, and before them the values they refer to.

    Parameters
    ----------
    ids : iterable of TaskId
        The tasks wanted.
    entries : mapping
        Payload and references of these tasks and of all they refer to.

    Returns
    -------
    dict
        The value of every task that was loaded.
    """
    values: dict[TaskId, Any] = {}
    stack = list(ids)
    while stack:
        payload, refs = entries[stack[-1]]
        missing = [ref for ref in refs if ref not in values] if stack[-1] not in values else []
        if missing:
            stack.extend(missing)
            continue
        task = stack.pop()
        if task not in values:
            values[task] = _value(task, payload, values)
    return values


def _value(task: TaskId, payload: bytes, values: Mapping[TaskId, Any]) -> Any:
    try:
        return loads(payload, values)
    except (ToilfnError, ImportError, OSError, MemoryError):  # these say themselves what is missing
        raise
    except Exception as error:
        raise SerializationError(
            f"the value of task {task.hex()[:12]} was stored, but it cannot be loaded: {type(error).__name__}: {error}",
            hint="define __reduce__ in its class, or return lists, dicts, numbers and text",
        ) from error


def only_reference(payload: bytes, refs: tuple[TaskId, ...]) -> bool:
    """Return whether a value is just another task's whole value (a tail call)."""
    return len(refs) == 1 and payload == refs[0].join(_AROUND_REFERENCE)


def _around_reference() -> list[bytes]:
    """Return the bytes before and after the id in the payload of a lone promise."""

    class Lone(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return id_ if obj is Lone else None

    id_ = bytes(range(16))
    buffer = io.BytesIO()
    Lone(buffer, PROTOCOL).dump(Lone)
    return buffer.getvalue().split(id_)


_AROUND_REFERENCE = _around_reference()


def dumps_function(function: Any) -> bytes:
    """Pickle a task's function.

    An object that can be imported by name travels by name; everything else, such as a function of the
    script or of a notebook, by value.

    Raises
    ------
    SerializationError
        If it reaches something that cannot be pickled.
    """
    take_modules_by_value()
    buffer = io.BytesIO()
    pickler = _FunctionPickler(buffer, PROTOCOL)
    try:
        pickler.dump(function)
        if sources := _sources(pickler.files):  # after the function, for who wants it
            pickle.dump(sources, buffer, PROTOCOL)
        return buffer.getvalue()
    except Exception as error:
        name = getattr(function, "__qualname__", repr(function))
        hint = None if isinstance(error, ToilfnError) else "create such objects inside the task"
        raise SerializationError(f"task {name} cannot be stored: {error}", hint=hint) from error


_LARGEST_SOURCE = 1 << 20
"""Bytes: the text of a larger file does not travel with a function."""


def _sources(files: Iterable[str]) -> dict[str, bytes]:
    """Return the text of files, compressed, for tracebacks and debuggers on machines that do not have them."""
    texts = {name: "".join(linecache.getlines(name)) for name in sorted(files)}
    return {
        name: zlib.compress(text.encode(errors="backslashreplace"))
        for name, text in texts.items()
        if 0 < len(text) <= _LARGEST_SOURCE
    }


class _MainGlobals(dict[str, Any]):
    """Stands for the script's namespace in a payload."""


class _FunctionPickler(_LocatedPickler):
    """Pickles tasks' functions: all that is the script's comes back in one namespace.

    Wrappers from the standard library that cloudpickle cannot take apart are made anew where they are loaded.
    """

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self._main = vars(sys.modules["__main__"])
        kept = ("__name__", "__file__", "__package__", "__doc__")
        self._main_globals = _MainGlobals({name: self._main[name] for name in kept if name in self._main})
        self.globals_ref[id(self._main)] = self._main_globals

    def persistent_id(self, obj: Any) -> Any:
        return dict(obj) if obj is self._main_globals else None

    def reducer_override(self, obj: Any) -> Any:
        if (validation := validation_of(obj)) and not _is_found_by_name(obj):
            return validated, tuple(validation)
        if type(obj) is FunctionType and obj.__globals__ is self._main:
            return self._with_annotations(obj, super().reducer_override(obj))
        if isinstance(obj, type) and obj.__module__ == "__main__":
            return self._with_class_annotations(obj, super().reducer_override(obj))
        if isinstance(obj, contextlib._GeneratorContextManager):  # of a decorator that @contextmanager made
            return type(obj), (obj.func, obj.args, obj.kwds)  # as its _recreate_cm does
        if isinstance(obj, _CACHED) and not _is_found_by_name(obj):
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        if is_singledispatch(obj) and not _is_found_by_name(obj):
            return _dispatching, (dict(obj.registry),)
        if type(obj) in _LOCKS:  # of the script: another process has one of its own
            return _LOCKS[type(obj)], ()
        return super().reducer_override(obj)

    def _with_annotations(self, function: FunctionType, reduced: Any) -> Any:
        """Add the objects that string annotations name, since `typing.get_type_hints` looks them up."""
        named = self._named(function.__annotations__)
        if named and type(reduced) is tuple and len(reduced) > 2:
            globals_ = reduced[2][1]["__globals__"]
            globals_ |= {name: value for name, value in named.items() if name not in globals_}
        return reduced

    def _with_class_annotations(self, made: type, reduced: Any) -> Any:
        """Do the same for a class, which has no reference to the script's namespace itself."""
        named = self._named(vars(made).get("__annotations__", {}))
        if not named or type(reduced) is not tuple or len(reduced) < 6:
            return reduced
        create, args, state, items, pairs, fill = reduced
        return create, args, (fill, state, self._main_globals, named), items, pairs, _fill_class

    def _named(self, annotations: Mapping[str, Any]) -> dict[str, Any]:
        """Return the objects in the script's namespace that string annotations name."""
        text = " ".join(note for note in annotations.values() if isinstance(note, str))
        named = {name: self._main[name] for name in _WORD.findall(text) if name in self._main}
        return {name: value for name, value in named.items() if _is_at_hand(value)}


def _fill_class(made: type, state: tuple[Any, Any, dict[str, Any], dict[str, Any]]) -> None:
    """Fill a class, and add to the script's namespace the names in its annotations."""
    fill, content, namespace, named = state
    fill(made, content)
    for name, value in named.items():
        namespace.setdefault(name, value)


_WORD = re.compile(r"[^\W\d]\w*")


def _is_at_hand(value: Any) -> bool:
    """Return whether a value of the script's namespace can be loaded without any package."""
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or "builtins"
    return module == "__main__" or module.partition(".")[0] in sys.stdlib_module_names


_CACHED = type(functools.lru_cache(len))

_LOCKS = {type(make()): make for make in (threading.Lock, threading.RLock)}


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _dispatching(registry: dict[type, Callable[..., Any]]) -> Any:
    made = functools.singledispatch(registry[object])
    for kind, function in registry.items():
        made.register(kind, function)
    return made


def _is_found_by_name(value: Any) -> bool:
    """Return whether another process would find this very object by its module and name."""
    module = sys.modules.get(value.__module__)
    if module is None or module.__name__ in ("__main__", *cloudpickle.list_registry_pickle_by_value()):
        return False
    found: Any = module
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def loads_function(payload: bytes) -> Callable[..., Any]:
    """Load what `dumps_function` made; returns the plain function."""
    return load_function(payload)[0]


def load_function(payload: bytes, new_dir: Callable[[], Path] | None = None) -> tuple[Callable[..., Any], Main]:
    """Load what `dumps_function` made.

    Parameters
    ----------
    payload : bytes
    new_dir : callable, optional
        Makes a directory for what processes need that the function spawns.

    Returns
    -------
    callable
        The plain function.
    Main
        The module that is ``__main__`` while it runs.
    """
    from toilfn.graph.task import Task

    stream = io.BytesIO(payload)
    unpickler = _FunctionUnpickler(stream, payload, new_dir)
    function: Callable[..., Any] = unpickler.load()
    if stream.tell() < len(payload):
        for name, text in pickle.load(stream).items():
            lines = zlib.decompress(text).decode().splitlines(keepends=True)
            linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    # Only a task's: a decorator's ``__wrapped__`` is the function without what the decorator does.
    return (function.__wrapped__ if isinstance(function, Task) else function), unpickler.main


class _FunctionUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, payload: bytes, new_dir: Callable[[], Path] | None) -> None:
        super().__init__(file)
        self.main = Main(new_dir=new_dir)
        self._payload = payload

    def persistent_load(self, pid: Any) -> dict[str, Any]:
        self.main._payload = self._payload  # it has something of the script
        vars(self.main).update(pid)
        return vars(self.main)
