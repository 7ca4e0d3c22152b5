"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

from tests.house.rooms import modules

WITH_EXAMPLES = [name for name, module in modules().items() if ">>> " in module.path.read_text()]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    results = doctest.testmod(import_module(name))
    assert results.attempted
    assert not results.failed, "see the captured output"
