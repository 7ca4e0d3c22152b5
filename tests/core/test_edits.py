"""Code and values that a function reaches through data: every edit of them counts, and what cannot be seen is named."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toilfn.graph.identity import Identity, function_identity

Identify = Callable[..., Identity]

TEXT = """
### a constant with underscores | __version__ | '1' | '2'
__version__ = '1'
### a docstring that is read | g.__doc__ | 'one' | 'two'
def g():
    'one'
### the docstring of the script, read | __doc__ | 'one' | 'two'
__doc__ = 'one'
### a module imported by a call | importlib.import_module('deep').f(1) | deep.py: x * 1 | x * 5
import importlib
### a module imported by the function behind the statement | __import__('deep').f(1) | deep.py: x * 1 | x * 5
### names of match arguments | g(P()) | ('a', 'b') | ('b', 'a')
class P:
    __match_args__ = ('a', 'b')
    a, b = 1, 2
def g(p):
    match p:
        case P(x, y): return x - y
### slots | A.__slots__ | 'n' | 'm'
class A:
    __slots__ = ('n',)
### a special method that is a partial one | A()() | (f, 1) | (f, 2)
import functools
class A:
    def f(self, x): return x
    __call__ = functools.partialmethod(f, 1)
### a special method with a cache | A()() | return 1 | return 2
import functools
class A:
    @functools.lru_cache
    def __call__(self): return 1
### a class that is no longer hashable | A.__hash__ | object.__hash__ | None
class A:
    __hash__ = object.__hash__
### types of a class's attributes | A.__annotations__ | x: int | x: str
class A:
    x: int
### a type named before it exists | A.__annotations__ | 'B' | 'C'
from typing import Optional
class A:
    x: Optional['B']
### a typed dictionary | sorted(D.__annotations__) | x: int | y: int
import typing
class D(typing.TypedDict):
    x: int
### metadata of a field | dataclasses.fields(A)[0].metadata | 'u': 1 | 'u': 2
import dataclasses
@dataclasses.dataclass
class A:
    x: int = dataclasses.field(metadata={'u': 1})
### a converter of attrs | A(1).x | v * 3 | v * 4
import attrs
@attrs.define
class A:
    x: int = attrs.field(converter=lambda v: v * 3)
### a default of pydantic | A().x | = 1 | = 2
import pydantic
class A(pydantic.BaseModel):
    x: int = 1
### a type of pydantic | A(x=1).x | x: int | x: float
import pydantic
class A(pydantic.BaseModel):
    x: int
### a constraint of pydantic | A(x='aB').x | to_lower | to_upper
import typing
import pydantic
class A(pydantic.BaseModel):
    x: typing.Annotated[str, pydantic.StringConstraints(to_lower=True)]
### a private default of pydantic | A()._x | = 1 | = 2
import pydantic
class A(pydantic.BaseModel):
    _x: int = 1
### hints that an installed decorator reads | g(1) | x: int | x: float
import pydantic
@pydantic.validate_call
def g(x: int): return x
### a function behind a decorator of wrapt | g() | return 1 | return 2
import wrapt
@wrapt.decorator
def d(wrapped, instance, args, kwargs): return wrapped(*args, **kwargs)
@d
def g(): return 1
### a decorator of wrapt | g() | + 1 | + 2
import wrapt
@wrapt.decorator
def d(wrapped, instance, args, kwargs): return wrapped(*args, **kwargs) + 1
@d
def g(): return 1
### a function in a dict | T['g'](1) | x * 1 | x * 5
def g(x): return x * 1
T = {'g': g}
### a function in a list | T[1][0](1) | x * 1 | x * 5
def g(x): return x * 1
T = [1, [g]]
### a lambda in a list | T[1](1) | x + 2 | x + 3
T = [lambda x: x + 1, lambda x: x + 2]
### lambdas that are swapped | T | x + 1, lambda x: x * 9 | x * 9, lambda x: x + 1
T = [lambda x: x + 1, lambda x: x * 9]
### a registry filled by a decorator | R['one'](1) | x * 1 | x * 5
R = {}
def register(f):
    R[f.__name__] = f
    return f
@register
def one(x): return x * 1
### a single-dispatch function | s(1) | x * 1 | x * 5
import functools
@functools.singledispatch
def s(x): return 0
@s.register
def _(x: int): return x * 1
### a single-dispatch method | a.s(1) | x * 1 | x * 5
import functools
class A:
    @functools.singledispatchmethod
    def s(self, x): return 0
    @s.register
    def _(self, x: int): return x * 1
a = A()
### a method of a global object | a.f(1) | x * 1 | x * 5
class A:
    def f(self, x): return x * 1
a = A()
### a method of an object in an object | b.a[0].f(1) | x * 1 | x * 5
class A:
    def f(self, x): return x * 1
class B: pass
b = B()
b.a = [A()]
### what a method of a global object calls | a.f(1) | x * 1 | x * 5
def g(x): return x * 1
class A:
    def f(self, x): return g(x)
a = A()
### an attribute of a global object | a.n | a.n = 3 | a.n = 4
class A: pass
a = A()
a.n = 3
### an object with a lock | a.n | self.n = 3 | self.n = 4
import threading
class A:
    def __init__(self):
        self.lock = threading.Lock()
        self.n = 3
a = A()
### an object with slots | a.n | a.n = 3 | a.n = 4
class A:
    __slots__ = ('n',)
a = A()
a.n = 3
### an object that can be called | a(1) | x * 1 | x * 5
class A:
    def __call__(self, x): return x * 1
a = A()
### a class attribute | A.table | 'a': 1 | 'a': 2
class A:
    table = {'a': 1}
### a list of a class | A().items | [1] | [2]
class A:
    items = [1]
### a function in a class attribute | A.steps[0](1) | x * 1 | x * 5
def g(x): return x * 1
class A:
    steps = [g]
### a static method | A.f(1) | x * 1 | x * 5
class A:
    @staticmethod
    def f(x): return x * 1
### a class method | A.f(1) | x * 1 | x * 5
class A:
    @classmethod
    def f(cls, x): return x * 1
### a property | a.f | return 3 | return 4
class A:
    @property
    def f(self): return 3
a = A()
### a cached property | a.f | return 3 | return 4
import functools
class A:
    @functools.cached_property
    def f(self): return 3
a = A()
### a metaclass | A.f() | return 3 | return 4
class M(type):
    def f(cls): return 3
class A(metaclass=M): pass
### a partial | p(2) | x * 1 | x * 5
import functools
def g(n, x): return x * 1
p = functools.partial(g, 1)
### an argument of a partial | p(2) | pow, 2 | pow, 3
import functools
p = functools.partial(pow, 2)
### a cached function | g(2) | x * 1 | x * 5
import functools
@functools.lru_cache
def g(x): return x * 1
### a bound method | m(2) | x * 1 | x * 5
class A:
    def f(self, x): return x * 1
m = A().f
### a function in a field of a dataclass | s.run(1) | x * 1 | x * 5
import dataclasses
def g(x): return x * 1
@dataclasses.dataclass
class S:
    run: object = g
s = S()
### the default factory of a field | S().n | [1] | [2]
import dataclasses
@dataclasses.dataclass
class S:
    n: list = dataclasses.field(default_factory=lambda: [1])
### a member of an enum | E.A.value | A = 1 | A = 2
import enum
class E(enum.Enum):
    A = 1
### a function in an enum | E.B.value[0](1) | x * 1 | x * 5
import enum, functools
def g(x): return x * 1
class E(enum.Enum):
    A = functools.partial(g)
    B = (g,)
### a closure over a list | h(1) | x * 1 | x * 5
def make(steps):
    def inner(x): return [s(x) for s in steps]
    return inner
def g(x): return x * 1
h = make([g])
### a closure over a dict | h(1) | 'one' | 'two'
def make(table):
    def inner(x): return table[x]
    return inner
h = make({1: 'one'})
### a default that is a dict | h(1) | 'one' | 'two'
def h(x, table={1: 'one'}): return table[x]
### an attribute of a function | h.table[1] | 'one' | 'two'
def h(x): return x
h.table = {1: 'one'}
### nested decorators | h(1) | deco(3) | deco(4)
import functools
def deco(n):
    def outer(f):
        @functools.wraps(f)
        def inner(x): return n * f(x)
        return inner
    return outer
@deco(2)
@deco(3)
def h(x): return x
### a plain dict | T['factor'] | 'factor': 1 | 'factor': 7
T = {'factor': 1}
### a list | T[0] | [1, 2] | [1, 3]
T = [1, 2]
### a set | 'a' in T | 'b' | 'c'
T = {'a', 'b'}
### nested tables | T['a'] | {2} | {3}
T = {'a': [{'b': (1, {2})}]}
### a default dict | T['a'] | lambda: 1 | lambda: 2
import collections
T = collections.defaultdict(lambda: 1)
### an ordered dict | T['a'] | a=1 | a=2
import collections
T = collections.OrderedDict(a=1)
### a counter | T['a'] | 'aab' | 'abb'
import collections
T = collections.Counter('aab')
### a deque | T[0] | [1] | [2]
import collections
T = collections.deque([1])
### a chain map | T['a'] | 'a': 1 | 'a': 2
import collections
T = collections.ChainMap({'a': 1})
### a mapping proxy | T['a'] | 'a': 1 | 'a': 2
import types
T = types.MappingProxyType({'a': 1})
### a simple namespace | T.a | a=1 | a=2
import types
T = types.SimpleNamespace(a=1)
### a named tuple | T.a | [1] | [2]
import collections
P = collections.namedtuple('P', 'a')
T = P([1])
### a bytearray | T[0] | b'a' | b'b'
T = bytearray(b'a')
### a compiled expression | T.match('a') | a+ | a*
import re
T = re.compile('a+')
### an array of numpy | T[0] | [1, 2] | [1, 3]
import numpy
T = numpy.array([1, 2])
### a frame of pandas | T.a | [1] | [2]
import pandas
T = pandas.DataFrame({'a': [1]})
### a fraction | T | 1, 2 | 1, 3
import fractions
T = fractions.Fraction(1, 2)
### a table that holds itself | T[0] | [1] | [2]
T = [1]
T.append(T)
### functions that call each other | a(1) | else 1 | else 2
def a(x): return b(x) if x else 1
def b(x): return T['a'](x - 1)
T = {'a': a}
### a module in a table | T['m'].f(1) | deep.py: x * 1 | x * 5
import deep
T = {'m': deep}
### a module under another name | d.f(1) | deep.py: x * 1 | x * 5
import deep as d
### a module of a package without __init__ | space.inner.f(1) | space/inner.py: x * 1 | x * 5
import space.inner
### a module's own dictionary | deep.__dict__['f'](1) | deep.py: x * 1 | x * 5
import deep
### a function of another module in a table | T['f'](1) | deep.py: x * 1 | x * 5
from deep import f
T = {'f': f}
### a context manager's function | h() | yield 3 | yield 4
import contextlib
@contextlib.contextmanager
def c():
    yield 3
@c()
def h(): return 1
### a task in a table | T['t'](1) | x * 1 | x * 5
import toilfn
@toilfn.task
def t(x): return x * 1
T = {'t': t}
"""


def cases() -> dict[str, tuple[str, str, str, str]]:
    """Read the cases: a name, an expression, what is edited (in which file, if not in the source), and the source."""
    found = {}
    for part in TEXT.split("### ")[1:]:
        head, _, source = part.partition("\n")
        name, expression, old, new = head.split(" | ")
        found[name] = source.rstrip(), expression, old, new
    return found


CASES = cases()
LIBRARIES = {"attrs", "pydantic", "wrapt"}
OTHERS = {"deep.py": "def f(x): return x * 1\n", "space/inner.py": "def f(x): return x * 1\n"}


@pytest.fixture
def identify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identify]:
    """Write a module that holds a source and a function with an expression, and identify the function."""
    count = 0

    def run(source: str, expression: str, others: dict[str, str] = OTHERS) -> Identity:
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        write(folder, {"flow.py": f"{source}\n\ndef f():\n    return {expression}\n", **others})
        forget()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            return function_identity(importlib.import_module("flow").f)

    yield run
    forget()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def forget() -> None:
    for module in ("flow", "deep", "space", "space.inner"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("case", CASES)
def test_an_edit_counts_wherever_the_function_reaches(identify: Identify, case: str) -> None:
    source, expression, old, new = CASES[case]
    for library in LIBRARIES.intersection(source.split()):
        pytest.importorskip(library)
    file, _, text = old.rpartition(": ") if old.partition(": ")[0].endswith(".py") else ("", "", old)
    before = identify(source, expression)
    assert before == identify(f"# a comment\n{source}\nUNUSED = 1", expression)
    if file:
        after = identify(source, expression, {**OTHERS, file: OTHERS[file].replace(text, new)})
    else:
        assert text in source
        after = identify(source.replace(text, new), expression)
    assert before.digest != after.digest


def test_identities_are_the_same_in_every_process(tmp_path: Path) -> None:
    sets = {
        "a set of functions": ("def g(x): return x\ndef h(x): return x + 1\nT = {g, h, len}", "T"),
        "a set of lambdas": ("T = {lambda x: x + 1, lambda x: x + 2, lambda x: x + 3}", "T"),
        "a set of closures": ("def make(n): return lambda x: x * n\nT = {make(1), make(2), make(3)}", "T"),
        "a set of classes": ("class A: pass\nclass B: pass\nT = frozenset({A, B, int})", "T"),
        "a mixed set": ("T = {1, 'a', ('b', 2), None, frozenset({'x', 'y'})}", "T"),
    }
    plain = {name: case[:2] for name, case in CASES.items() if not LIBRARIES.intersection(case[0].split())}
    cases = {**plain, **sets}
    program = "import sys\nsys.path.insert(0, '.')\nfrom toilfn.graph.identity import function_identity\n"
    files = dict(OTHERS)
    for number, (source, expression) in enumerate(cases.values()):
        files[f"flow{number}.py"] = f"{source}\n\ndef f():\n    return {expression}\n"
        program += f"import flow{number}\nprint(function_identity(flow{number}.f).digest.hex())\n"
    write(tmp_path, files)
    found = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("source", "expression", "place"),
    [
        ("import threading\nL = threading.Lock()", "L.locked()", "flow.L"),
        ("import threading\nclass A:\n    pass\na = A()\na.lock = threading.RLock()", "a", "flow.a.lock"),
        ("T = [1, (i for i in [])]", "T", "flow.T[1]"),
        ("F = open(__file__)\nF.close()", "F.read()", "flow.F"),
        ("import random\nR = random.Random(1)", "R.random()", "flow.R"),
        ("from os import environ", "environ['HOME']", "flow.environ"),
        ("class A:\n    pass\nimport socket\nA.s = socket.socket()\nA.s.close()", "A.s", "flow.A.s"),
        ("from pathlib import Path\nP = Path(__file__)", "P.read_text()", "flow.P"),
        ("T = [[i] for i in range(400_000)]", "T", "flow.T"),
        ("", "eval('N')", "eval in f"),
        ("", "globals()['N']", "globals in f"),
        ("import sys", "sys.modules['deep']", "sys.modules in f"),
        ("import importlib\nN = 'deep'", "importlib.import_module(N)", "import_module in f"),
        ("class A:\n    pass\nB = type('B', (A,), {})", "A.__subclasses__()", "__subclasses__ in f"),
    ],
)
def test_a_value_that_cannot_be_inspected_is_named(
    identify: Identify, source: str, expression: str, place: str
) -> None:
    found = identify(source, expression)
    assert [key for key in found.parts if key.startswith("not compared ")] == [f"not compared {place}"]
    assert found.digest != identify(source, f"1, {expression}").digest


def test_loggers_and_what_installed_decorators_keep_need_no_mention(identify: Identify) -> None:
    source = "import logging, tenacity\nL = logging.getLogger('x')\n@tenacity.retry\ndef h(): return L"
    pytest.importorskip("tenacity")
    assert not [key for key in identify(source, "h()").parts if key.startswith("not compared ")]
