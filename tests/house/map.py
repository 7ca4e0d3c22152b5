"""The map of packages in docs/architecture.md: ``make map`` writes it from the code.

Each package has a row with its purpose, its size, and the packages that it imports.
"""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.house.rooms import ROOMS, ROOT, Module, modules

PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- map: made by `make map` -->\n", "<!-- end of map -->"


def package_of(name: str) -> str:
    """Return the package that a module is counted under: a room, or a folder of the core."""
    room = max((room for room in ROOMS if name == room or name.startswith(f"{room}.")), key=len)
    if room != "toilfn":
        return room
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and f"toilfn.{parts[1]}" in _packages() else "toilfn"


def _packages() -> set[str]:
    return {module.name for module in modules().values() if module.is_package}


def imports(module: Module) -> set[str]:
    """Return the packages that a module imports, without its own."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("toilfn"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {package_of(name if name in modules() else str(node.module)) for name in names}
    return found - {package_of(module.name)}


def purpose(package: str) -> str:
    """Return the first line of a package's docstring."""
    docstring = ast.get_docstring(modules()[package].tree) or ""
    return docstring.partition("\n")[0].replace("|", "\\|")


def table() -> str:
    """Return the map as a Markdown table."""
    members: dict[str, list[Module]] = defaultdict(list)
    for module in modules().values():
        members[package_of(module.name)].append(module)
    lines = ["| package | folder | modules | purpose | imports |", "| --- | --- | --- | --- | --- |"]
    for package in sorted(members):
        folder = ROOMS.get(package, package.replace(".", "/"))
        used = sorted(set().union(*map(imports, members[package])) - {"toilfn"})
        short = ", ".join(name.removeprefix("toilfn.") for name in used)
        lines.append(f"| `{package}` | `{folder}/` | {len(members[package])} | {purpose(package)} | {short} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the map into its page."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
