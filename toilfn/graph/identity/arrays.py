"""How the identity of numpy's and pandas' values is made: by content, not by layout in memory."""

from __future__ import annotations

import sys
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from toilfn.graph.identity.canonical import DIGEST_SIZE, Node

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["describe"]


def describe(value: Any) -> Node | None:
    """Describe a value of numpy or pandas; None when it has no memory layout and can be described by its pickle."""
    import numpy as np

    if type(value) in (np.ndarray, np.memmap):
        return _array(value)
    if isinstance(value, np.generic):
        return Node("scalar", (_array(np.asarray(value)),))
    return _describe_pandas(value) if "pandas" in sys.modules else None


def _array(array: np.ndarray[Any, Any]) -> Node:
    if array.dtype.names is not None:  # between the fields there may be bytes that mean nothing
        return Node("structured", (array.dtype, *(_array(array[name]) for name in array.dtype.names)))
    if array.dtype.kind in "OT":
        return Node("objects", (array.dtype, array.shape, Node("items", array.ravel().tolist())))
    return Node("ndarray", (array.dtype.str, array.shape, _content(array)))


def _content(array: np.ndarray[Any, Any]) -> bytes:
    import numpy as np

    content = blake2b(digest_size=DIGEST_SIZE)
    if array.size and array.dtype.itemsize:
        content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return content.digest()


def _describe_pandas(value: Any) -> Node | None:
    import pandas as pd

    if type(value) is pd.DataFrame:
        columns = [value.iloc[:, i].array for i in range(value.shape[1])]
        return Node("DataFrame", (value.columns, value.index, value.attrs, *columns))
    if type(value) is pd.Series:
        return Node("Series", (value.name, value.index, value.attrs, value.array))
    if isinstance(value, pd.Index):
        return _index(value)
    if isinstance(value, pd.api.extensions.ExtensionArray):
        return _extension_array(value)
    return None


def _index(index: pd.Index[Any]) -> Node:
    import pandas as pd

    if isinstance(index, pd.RangeIndex):
        return Node("RangeIndex", (list(index.names), index.start, index.stop, index.step))
    names = list(index.names)
    if isinstance(index, pd.MultiIndex):
        return Node("MultiIndex", (names, *(index.get_level_values(i) for i in range(index.nlevels))))
    return Node("Index", (type(index).__name__, names, getattr(index, "freqstr", None), index.array))


def _extension_array(array: Any) -> Node:
    import pandas as pd

    kind = str(array.dtype)
    if isinstance(array, pd.Categorical):
        return Node("Categorical", (array.codes, array.categories, array.ordered))
    if isinstance(array, pd.arrays.NumpyExtensionArray):
        return Node("Numpy", (array.to_numpy(),))
    if hasattr(array, "asi8"):
        return Node("Times", (kind, array.asi8))
    return Node("Extension", (kind, array.astype(object).tolist()))
