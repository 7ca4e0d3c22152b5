"""``python -m toilfn.wdl.describe DOCUMENT``: the inputs of a WDL document as JSON, for programs that build forms."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from WDL import Type

from toilfn.errors import ToilfnError
from toilfn.wdl import document

__all__ = ["describe", "main"]

_BASES = {
    Type.String: "string",
    Type.Int: "int",
    Type.Float: "float",
    Type.Boolean: "boolean",
    Type.File: "File",
    Type.Directory: "Directory",
}


def describe(place: str) -> dict[str, Any]:
    """Return a document's name, its description and its inputs.

    Parameters
    ----------
    place : path or URL

    Raises
    ------
    WDLError, InputError
        If the document is invalid or cannot be read.
    """
    node = document.entrypoint(document.load_document(place, strict=False))
    meta, texts = node.meta, node.parameter_meta
    required = {each.name for each in node.required_inputs}
    inputs = [each for each in node.available_inputs if not each.name.rpartition(".")[2].startswith("_")]
    inputs.sort(key=lambda each: each.name not in required)
    return {
        "name": node.name,
        "doc": str(meta.get("description", "")),
        "inputs": [_input(node.name, each.name, each.value, texts.get(each.name), required) for each in inputs],
    }


def _input(owner: str, name: str, decl: Any, text: Any, required: set[str]) -> dict[str, Any]:
    given = decl.type
    is_array = isinstance(given, Type.Array)
    inner = given.item_type if is_array else given
    return {
        "name": f"{owner}.{name}",
        "type": str(given),
        "base": _BASES.get(type(inner), "other"),
        "array": is_array,
        "optional": name not in required,
        "default": str(decl.expr) if decl.expr else None,
        "choices": [],
        "doc": str(text.get("description") or text.get("help") or "") if isinstance(text, dict) else str(text or ""),
    }


def main() -> int:
    """Print the inputs of a WDL document as JSON; the exit status is 1 if the document cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m toilfn.wdl.describe", description=main.__doc__)
    parser.add_argument("document")
    try:
        print(json.dumps(describe(parser.parse_args().document)))
    except ToilfnError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
