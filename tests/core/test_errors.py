"""An error's message and its advice."""

from __future__ import annotations

import io
import pickle

import pytest

from toilfn import errors
from toilfn.cli import main
from toilfn.errors import ContainerError, FailedTasksError, InputError, PermanentError, ToilfnError
from toilfn.stdio import report_error


def test_the_text_of_an_error_ends_with_its_advice() -> None:
    error = InputError("cluster 'x' is not available", hint="install it")
    assert (error.message, error.hint) == ("cluster 'x' is not available", "install it")
    assert str(error) == "cluster 'x' is not available; install it"
    assert str(InputError("two\nlines", hint="install it")) == "two\nlines\ninstall it"
    assert (str(InputError("no advice")), InputError("no advice").hint) == ("no advice", None)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_keeps_its_advice_in_another_process(name: str) -> None:
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream)
    pickler.dispatch_table = {}  # that of the process may hold dask's own way to pickle errors
    pickler.dump(getattr(errors, name)("lost", hint="look again"))
    error = pickle.loads(stream.getvalue())
    assert (type(error).__name__, str(error), error.hint) == (name, "lost; look again", "look again")


def test_an_error_of_a_user_may_have_a_constructor_of_its_own() -> None:
    class MineError(PermanentError):
        def __init__(self, sample: str) -> None:
            self.sample = sample

    assert str(MineError("s1")) == "s1"
    assert str(PermanentError("s1", 3)) == "('s1', 3)"
    assert str(FailedTasksError("1 task failed", store="x")) == "1 task failed"
    assert ContainerError("x", 3, "words", hint="y").exit_code == 3


def test_commands_print_advice_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statsu"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "toilfn: unknown command 'statsu'; did you mean 'stats'?",
        "hint: toilfn --help lists the commands",
    ]
    report_error("toilfn", ToilfnError("a\x1b[0m", hint="b\x1b[0m"))
    assert "\x1b" not in capsys.readouterr().err
