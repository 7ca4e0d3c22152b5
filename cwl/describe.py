"""``python -m toilfn.cwl.describe DOCUMENT``: the inputs of a CWL document as JSON, for programs that build forms."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from cwltool.context import LoadingContext
from cwltool.errors import WorkflowException
from cwltool.load_tool import load_tool
from cwltool.process import shortname
from schema_salad.exceptions import ValidationException

from toilfn.cwl.adapters import make_tool, patch_cwltool
from toilfn.cwl.schemas import use_schemas

__all__ = ["describe", "main"]

_NAMES = {"long": "int", "double": "float"}


def describe(document: str) -> dict[str, Any]:
    """Return a document's name, its description (``doc``) and its inputs.

    Parameters
    ----------
    document : path or URL

    Raises
    ------
    ValidationException, WorkflowException, OSError
        If the document is invalid or cannot be read.
    """
    patch_cwltool()
    use_schemas(extended=True)
    process = load_tool(document, LoadingContext({"construct_tool_object": make_tool, "enable_dev": True}))
    tool = process.tool
    inputs = [_input(entry) for entry in tool["inputs"]]
    inputs.sort(key=lambda each: each["optional"] or each["default"] is not None)
    return {
        "name": tool.get("label") or shortname(tool["id"]),
        "doc": _text(tool.get("doc")),
        "inputs": inputs,
    }


def _input(entry: Mapping[str, Any]) -> dict[str, Any]:
    given = entry["type"]
    alternatives = [each for each in (given if isinstance(given, list) else [given]) if each != "null"]
    single = alternatives[0] if len(alternatives) == 1 else None
    is_array = isinstance(single, Mapping) and single.get("type") == "array"
    inner = single["items"] if is_array else single  # type: ignore[index]
    has_default = "default" in entry
    return {
        "name": shortname(entry["id"]),
        "type": _shown(alternatives),
        "base": _base(inner),
        "array": is_array,
        "optional": isinstance(given, list) and "null" in given,
        "default": json.dumps(entry["default"], default=str) if has_default else None,
        "choices": [shortname(each) for each in _symbols(inner)],
        "doc": _text(entry.get("label")) or _text(entry.get("doc")),
    }


def _symbols(given: Any) -> list[str]:
    return list(given["symbols"]) if isinstance(given, Mapping) and given.get("type") == "enum" else []


def _base(given: Any) -> str:
    """Return the name of a type, or of the type of an array's items, for a form.

    It is ``other`` for types, such as records, for which the form takes JSON.
    """
    if _symbols(given):
        return "enum"
    name = _NAMES.get(given, given) if isinstance(given, str) else ""
    return name if name in ("string", "int", "float", "boolean", "File", "Directory") else "other"


def _shown(given: Any) -> str:
    if isinstance(given, list):
        return " or ".join(map(_shown, given))
    if isinstance(given, Mapping):
        if given.get("type") == "array":
            return f"{_shown(given['items'])}[]"
        return str(given.get("type", "record"))
    return shortname(str(given)) if "#" in str(given) else str(given)


def _text(given: Any) -> str:
    return "\n".join(map(str, given)) if isinstance(given, list) else str(given or "")


def main() -> int:
    """Print the inputs of a CWL document as JSON; the exit status is 1 if the document cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m toilfn.cwl.describe", description=main.__doc__)
    parser.add_argument("document")
    try:
        print(json.dumps(describe(parser.parse_args().document)))
    except (ValidationException, WorkflowException, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
