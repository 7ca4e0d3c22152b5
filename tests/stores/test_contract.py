"""Every kind of place that holds a store keeps the same contract."""

from __future__ import annotations

import uuid
from typing import ClassVar

import pytest

from toilfn.stores.testing import StoreContract


class TestFiles(StoreContract):
    options: ClassVar = {"sync": False}

    @pytest.fixture
    def url(self, tmp_path_factory):
        return str(tmp_path_factory.mktemp("place") / 'it\'s a\n"störe" %20#1')


class TestMemory(StoreContract):
    @pytest.fixture
    def url(self):
        return f"memory://tests/{uuid.uuid4().hex}"
