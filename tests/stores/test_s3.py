"""Stores in S3: the whole contract, on a real server and on moto."""

from __future__ import annotations

import uuid
from typing import ClassVar

import pytest

from tests.servers.fixtures import moto_server, radosgw_server
from tests.servers.moto import Moto
from tests.servers.radosgw import RadosGateway
from toilfn.stores.testing import StoreContract

__all__ = ["moto_server", "radosgw_server"]


class TestRadosGateway(StoreContract):
    options: ClassVar = {"endpoint_url": RadosGateway().url, "create_bucket": True}
    damages = 41

    @pytest.fixture
    def url(self, radosgw_server):
        return f's3://contract/{uuid.uuid4().hex}/it\'s a "störe" %20#1'


class TestMoto(StoreContract):
    options: ClassVar = {"endpoint_url": Moto().url, "create_bucket": True}
    damages = 41

    @pytest.fixture
    def url(self, moto_server):
        return f"s3://contract/{uuid.uuid4().hex}"
