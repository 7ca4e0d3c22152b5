"""What holds for every test: the user's own settings have no influence."""

from __future__ import annotations

import os
import tempfile

# dask reads its configuration when it is imported, here and in every worker.
for _name in [name for name in os.environ if name.startswith("DASK_")]:
    del os.environ[_name]
os.environ["DASK_CONFIG"] = os.path.join(tempfile.gettempdir(), "toilfn-tests-have-no-dask-configuration")
