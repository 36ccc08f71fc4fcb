"""What a chapter's outputs depend on: its code, the parts of the library that its names lead to, its records."""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tools.chapters import ROOT

PACKAGE = "pruning_lib"
LOAD = re.compile(r"\brecords\.(?P<how>load|measured|about)\(\s*(?P<argument>[^,)\s]*)")


def digest(code: list[str], root: Path = ROOT) -> str:
    """Return a hash over a chapter's code cells, the library's modules that they use, and the records they load."""
    total = hashlib.sha256()
    for cell in code:
        total.update(cell.encode() + b"\0")
    for module in sorted(modules("\n".join(code), root)):
        total.update(module.encode() + b"\0" + essence(path_of(module, root)).encode() + b"\0")
    for path in records("\n".join(code), root):
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def records(code: str, root: Path = ROOT) -> list[Path]:
    """Return the records that the code loads: a suite's runs, else their summary in the package, or a measurement.

    Raises
    ------
    ValueError
        If a suite is not named by a string literal: then nobody could tell which records the outputs depend on.
    """
    found: list[Path] = []
    for match in LOAD.finditer(code):
        argument = match["argument"]
        if argument[:1] not in ("'", '"'):
            raise ValueError(
                f"records.{match['how']}({argument}…): write the name as a string, as in load('mnist-lenet300')."
            )
        suite = argument.strip("'\"")
        shipped = root / PACKAGE / "companion" / "_records"
        if match["how"] == "measured":
            found += sorted(shipped.glob(f"measured-{suite}.json"))
            continue
        runs = sorted((root / "experiments" / "records" / suite).glob("*.json")) if match["how"] == "load" else []
        found += runs or sorted(shipped.glob(f"{suite}.json"))
    return found


def modules(code: str, root: Path = ROOT) -> set[str]:
    """Return the library's modules that the names in `code` lead to, and those that these import, and so on."""
    reached: set[str] = set()
    waiting = {home for module, name in uses(ast.parse(code)) for home in homes(module, name, root)}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        tree = parsed(path_of(module, root))
        imported = {home for source, name in imports(tree, module, root) for home in homes(source, name, root)}
        waiting |= imported - reached - {PACKAGE}
    return reached


def uses(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for every name of the library that a chapter uses, as in `prl.fit`."""
    aliases = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.split(".")[0] == PACKAGE
    }
    yield from imports(tree, "", ROOT)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node.value)
            for alias, module in aliases.items():
                if dotted == alias:
                    yield module, node.attr
                elif dotted.startswith(alias + "."):
                    yield module + dotted.removeprefix(alias), node.attr


def imports(tree: ast.Module, module: str, root: Path) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for each name that a file imports from the library."""
    is_package = bool(module) and path_of(module, root).name == "__init__.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith(PACKAGE + "."))
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                base = module.split(".")
                base = base[: len(base) - node.level + is_package]
                source = ".".join([*base, *filter(None, [node.module])])
            if source.split(".")[0] == PACKAGE:
                yield from ((source, alias.name) for alias in node.names)


def homes(module: str, name: str, root: Path) -> set[str]:
    """Return the module that defines `module.name`, past all re-exports; none where the library has no such module."""
    path = path_of(module, root)
    if not path.exists():
        return set()
    for source, imported in imports(parsed(path), module, root):
        if imported == name and source != module:
            return homes(source, imported, root)
    if name and path_of(f"{module}.{name}", root).exists():
        return {f"{module}.{name}"}
    return {module}


def path_of(module: str, root: Path) -> Path:
    """Return the file of a module, which need not exist."""
    folder = root.joinpath(*module.split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def essence(path: Path) -> str:
    """Return a file's code without comments, docstrings and blank lines; the same under every version of Python."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in docstrings(parsed(path)):
        lines[node.lineno - 1] = lines[node.lineno - 1][: node.col_offset]
        for number in range(node.lineno, node.end_lineno or node.lineno):
            lines[number] = ""
    return "\n".join(filter(None, (line.rstrip() for line in lines)))


def docstrings(tree: ast.AST) -> Iterator[ast.Expr]:
    """Yield every string that stands as a statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node
