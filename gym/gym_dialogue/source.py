"""Texts in the Python source of another project: read by `ast`, never imported or executed."""

from __future__ import annotations

import ast
import operator
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gym_dialogue.errors import InputError

_FIRST = ("prompt_lib", "utils_rl.py")  # where texts stand; others may hold older ones
_MAX_FILES = 2000
_MAX_BYTES = 1_000_000


_COMPARISONS = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}


@dataclass(frozen=True)
class Field:
    """What an expression, or a field of a format string, puts into a text."""

    name: str


@dataclass(frozen=True)
class Choice:
    """One of two texts, by a condition (its source)."""

    condition: str
    then: tuple[Part, ...]
    otherwise: tuple[Part, ...]


SimplePart = str | Field
Part = SimplePart | Choice
Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Found:
    """A text with what surrounds it: its file, its function, the tests of the `if` statements that
    it is under (with `not` where it is in the other branch), and the loops.
    """

    parts: Parts
    file: Path
    function: str = ""
    conditions: tuple[str, ...] = ()
    in_loop: bool = False
    target: str = ""
    """What it is assigned, appended or added to, as source."""
    label: str = ""
    """The constant key that it is stored under, or that stands beside it in a call."""


@dataclass
class Source:
    """The texts of a directory of Python files."""

    root: Path
    constants: dict[str, str] = field(default_factory=dict)
    """Module-level string constants by name."""
    varying: set[str] = field(default_factory=set)
    """Names at module level that are assigned something else than one constant text."""
    texts: list[Found] = field(default_factory=list)
    """Texts that are assigned, appended, added, stored in a dict, passed in a call or returned."""

    def labelled(self, label: str) -> list[Found]:
        """Return the texts stored under a key, or in a variable, of that name."""
        return [t for t in self.texts if label in (t.label, t.target)]


def read_source(root: str | Path) -> Source:
    """Raises InputError for a directory without Python files that can be read."""
    source = Source(Path(root))
    count = 0
    for path in _python_files(source.root):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            continue  # notebooks' leftovers and files of other Pythons say nothing of the wording
        count += 1
        _Reader(source, path.relative_to(source.root)).read(tree)
    if not count:
        raise InputError(f"{root}: holds no Python file that can be read")
    return source


def format_parts(text: str, where: str) -> tuple[SimplePart, ...]:
    """Return a format string (`{name}`, `{{`) as parts. Raises InputError for one that is none."""
    parts: list[SimplePart] = []
    try:
        for literal, name, _, _ in string.Formatter().parse(text):
            parts += [literal] if literal else []
            parts += [] if name is None else [Field(name)]
    except ValueError as error:
        raise InputError(f"{where}: is no format string: {error}") from error
    return tuple(parts)


def fields_of(parts: Parts) -> list[str]:
    """Return the names of the fields in a text, in order."""
    return [part.name for part in parts if isinstance(part, Field)]


def plain(parts: Parts) -> str | None:
    """Return a text without fields and choices; None for others."""
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else None


def find_constant(source: Source, name: str | None, usual: str) -> str | None:
    """Return the name of a constant: the one that is asked for, else the usual one; None if neither
    asked for nor there. Raises InputError for one that is asked for and not there, and for a usual
    one that is not one text.
    """
    if name is not None and name not in source.constants:
        raise InputError(f"{source.root}: no constant named {name} is in its files")
    if name is None and usual not in source.constants and usual in source.varying:
        raise InputError(
            f"{source.root}: {usual} is not one constant text in its files: write it as one, or "
            "name another constant with --prompt or --image_prompt"
        )
    return name or (usual if usual in source.constants else None)


def holds_at(condition: str, index: int) -> bool | None:
    """Return whether a test of one variable holds where that is `index`; None where it is no such
    test.
    """
    node = ast.parse(condition, mode="eval").body
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = holds_at(ast.unparse(node.operand), index)
        return None if inner is None else not inner
    if isinstance(node, ast.Name):
        return bool(index)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        sides = (node.left, node.comparators[0])
        values: list[Any] = [
            index if isinstance(side, ast.Name) else getattr(side, "value", None) for side in sides
        ]
        compare = _COMPARISONS.get(type(node.ops[0]))
        if compare and all(type(value) is int for value in values):
            return compare(*values)
    return None


def choose_at(parts: Parts, index: int) -> Parts | None:
    """Return the parts as they are where the variable of every choice is `index`; None if that
    cannot be told.
    """
    chosen: list[Part] = []
    for part in parts:
        if isinstance(part, Choice):
            holds = holds_at(part.condition, index)
            inner = None if holds is None else part.then if holds else part.otherwise
            inner = inner and choose_at(inner, index)
            if inner is None:
                return None
            chosen += inner
        else:
            chosen.append(part)
    return _joined(chosen)


def choose(parts: Parts, otherwise: bool) -> tuple[SimplePart, ...]:
    """Return the parts with one branch of every choice in its place."""
    chosen: list[SimplePart] = []
    for part in parts:
        if isinstance(part, Choice):
            chosen += choose(part.otherwise if otherwise else part.then, otherwise)
        else:
            chosen.append(part)
    return tuple(chosen)


def verdict_joint(source: Source) -> tuple[str, str] | None:
    """Return (what joins the verifier's messages, what ends them): `SEPARATOR.join(messages) + END`
    that a function returns; None where there is none.
    """
    for text in source.texts:
        first = text.parts[0] if text.target == "return" else None
        if isinstance(first, Field) and ".join(" in first.name:
            node = ast.parse(first.name, mode="eval").body
            joint = _constant(getattr(getattr(node, "func", None), "value", node))
            end = plain(text.parts[1:])
            if joint and end is not None:
                return joint, end
    return None


def verdict_frame(source: Source) -> tuple[str, str] | None:
    """Return what the dialogue puts before and after the verifier's message in the next user turn;
    None where it is not found.
    """
    for text in source.texts:
        is_log = re.search(r"print|log|debug|warn", text.target)
        for at, part in enumerate(text.parts):
            if isinstance(part, Field) and re.search(r"verify.?info", part.name, re.I):
                before, after = plain(text.parts[:at]), plain(text.parts[at + 1 :])
                if not is_log and before is not None and after is not None and before + after:
                    return before, after
    return None


def _python_files(root: Path) -> Iterator[Path]:
    paths = sorted(root.rglob("*.py"))
    hidden = (
        any(part.startswith(".") or part == "site-packages" for part in p.relative_to(root).parts)
        for p in paths
    )
    shown = [path for path, skip in zip(paths, hidden, strict=True) if not skip]
    shown.sort(key=lambda path: (*(name not in path.parts for name in _FIRST), path))
    for path in shown[:_MAX_FILES]:
        if path.is_file() and path.stat().st_size <= _MAX_BYTES:
            yield path


class _Reader:
    """Collects the texts of one file."""

    def __init__(self, source: Source, file: Path):
        self.source, self.file = source, file

    def read(self, tree: ast.Module) -> None:
        names = _assigned_texts(tree.body)
        for name, parts in names.items():
            text = plain(parts)
            if text is not None and name not in self.source.varying:
                self.source.constants.setdefault(name, text)
        assigned = {
            target.id
            for node in tree.body
            for target in getattr(node, "targets", [getattr(node, "target", None)])
            if isinstance(target, ast.Name)
        }
        self.source.varying |= assigned - set(names) - set(self.source.constants)
        self._walk(tree.body, names, "", (), False)

    def _walk(
        self,
        body: list[ast.stmt],
        names: Mapping[str, Parts],
        function: str,
        conditions: tuple[str, ...],
        in_loop: bool,
    ) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = {**names, **_assigned_texts(list(_statements(node.body)))}
                self._walk(node.body, inner, node.name, (), False)
            elif isinstance(node, ast.If):
                test = ast.unparse(node.test)
                self._walk(node.body, names, function, (*conditions, test), in_loop)
                self._walk(node.orelse, names, function, (*conditions, f"not ({test})"), in_loop)
            elif isinstance(node, ast.For | ast.While):
                self._walk(node.body, names, function, conditions, True)
                self._walk(node.orelse, names, function, conditions, in_loop)
            elif isinstance(node, ast.Try):
                handlers = [s for handler in node.handlers for s in handler.body]
                for part in (node.body, handlers, node.orelse, node.finalbody):
                    self._walk(part, names, function, conditions, in_loop)
            elif isinstance(node, ast.With | ast.ClassDef):
                self._walk(node.body, names, function, conditions, in_loop)
            else:
                for target, label, parts in self._texts(node, names):
                    self.source.texts.append(
                        Found(parts, self.file, function, conditions, in_loop, target, label)
                    )

    def _texts(
        self, node: ast.stmt, names: Mapping[str, Parts]
    ) -> Iterator[tuple[str, str, Parts]]:
        """Yield (target, label, parts) of the texts of a simple statement."""
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            label = ""
            if isinstance(target, ast.Subscript):
                label = _constant(target.slice)
            parts = parts_of(node.value, names)
            if parts is not None:
                yield ast.unparse(target), label, parts
        if isinstance(node, ast.Return) and node.value is not None:
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            label = next((_key_in(v) for v in values if _key_in(v)), "")
            for value in values:
                parts = parts_of(value, names)
                if parts is not None:
                    yield "return", label, parts
        for inner in ast.walk(node):
            if isinstance(inner, ast.Dict):
                for key, value in zip(inner.keys, inner.values, strict=True):
                    parts = parts_of(value, names)
                    if key is not None and parts is not None:
                        yield "dict", _constant(key), parts
            elif isinstance(inner, ast.Call):
                label = next((_key_in(a) for a in inner.args if _key_in(a)), "")
                for argument in inner.args:
                    parts = parts_of(argument, names)
                    if parts is not None:
                        yield ast.unparse(inner.func), label, parts
                for keyword in inner.keywords:
                    parts = parts_of(keyword.value, names)
                    if parts is not None:
                        yield ast.unparse(inner.func), keyword.arg or "", parts


def parts_of(node: ast.expr, names: Mapping[str, Parts]) -> Parts | None:
    """Return an expression as a text; None where it holds no text at all. `names` are known
    variables.
    """
    parts = _flat(node, names)
    has_text = parts is not None and any(not isinstance(part, Field) for part in parts)
    is_join = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "join"
    return _joined(parts) if parts is not None and (has_text or is_join) else None


def _flat(node: ast.expr, names: Mapping[str, Parts]) -> list[Part] | None:
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts: list[Part] = []
        for value in node.values:
            parts += _value(value.value if isinstance(value, ast.FormattedValue) else value, names)
        return parts
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _flat(node.left, names), _flat(node.right, names)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.IfExp):
        then, otherwise = _flat(node.body, names), _flat(node.orelse, names)
        if then is None or otherwise is None:
            return None
        return [Choice(ast.unparse(node.test), _joined(then), _joined(otherwise))]
    if isinstance(node, ast.Name) and node.id in names:
        return list(names[node.id])
    filled = _filled(node, names)
    if filled is not None:
        return filled
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
        return [Field(ast.unparse(node))]
    return None


def _filled(node: ast.expr, names: Mapping[str, Parts]) -> list[Part] | None:
    """Return a constant text with `.format(...)` or `% ...`; None for another expression."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        text, pieces = _flat(node.left, names), None
        if text is not None and (whole := plain(tuple(text))) is not None:
            pieces = re.split(r"%[sd]", whole.replace("%%", "%"))
        values = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
        if pieces is None or len(pieces) != len(values) + 1:
            return None
        parts: list[Part] = [pieces[0]]
        for value, piece in zip(values, pieces[1:], strict=True):
            parts += [*_value(value, names), piece]
        return parts
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    text = _flat(node.func.value, names) if node.func.attr == "format" else None
    whole = None if text is None else plain(tuple(text))
    if whole is None:
        return None
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    try:
        fields = format_parts(whole, "")
    except InputError:
        return None
    parts, position = [], 0
    for part in fields:
        if not isinstance(part, Field):
            parts.append(part)
            continue
        key = part.name or str(position)
        position += not part.name
        if key.isdigit() and int(key) < len(node.args):
            parts += _value(node.args[int(key)], names)
        elif key in named:
            parts += _value(named[key], names)
        else:
            parts.append(part)
    return parts


def _value(node: ast.expr, names: Mapping[str, Parts]) -> list[Part]:
    return _flat(node, names) or [Field(ast.unparse(node))]


def _joined(parts: list[Part]) -> Parts:
    """Return the parts with texts that touch joined."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined or [""])


def _assigned_texts(body: list[ast.stmt]) -> dict[str, Parts]:
    """Return names that stand for a text, or for one of two: assigned once, in both branches of one
    `if`, or before an `if` that assigns another; and never added to.
    """
    names: dict[str, Parts] = {}
    varying = {ast.unparse(node.target) for node in body if isinstance(node, ast.AugAssign)}
    counts = Counter(
        node.targets[0].id
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    )
    for node in body:
        pair = _one_of_two(node, names)
        if pair is not None and counts[pair[0]] == 2 and pair[0] not in varying:
            names[pair[0]] = pair[1]
            varying.add(pair[0])
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name = node.targets[0].id
        if name in varying:
            continue
        parts = parts_of(node.value, names)
        is_default = counts[name] == 2 and name not in names
        if parts is None or not _is_simple(parts) or (counts[name] > 1 and not is_default):
            varying.add(name)
            names.pop(name, None)
        else:
            names[name] = parts
    settled = {name for name, count in counts.items() if count == 1} | varying
    return {name: parts for name, parts in names.items() if name in settled}


def _one_of_two(node: ast.stmt, names: Mapping[str, Parts]) -> tuple[str, Parts] | None:
    """Return (name, choice) of an `if` that assigns one of two texts to a name."""
    if not isinstance(node, ast.If):
        return None
    first, second = _assigned(node.body), _assigned(node.orelse)
    if first is None or (node.orelse and (second is None or second[0] != first[0])):
        return None
    name, then = first[0], parts_of(first[1], names)
    otherwise = names.get(name) if second is None else parts_of(second[1], names)
    if then is None or otherwise is None or plain(then + otherwise) is None:
        return None
    return name, (Choice(ast.unparse(node.test), then, otherwise),)


def _assigned(body: list[ast.stmt]) -> tuple[str, ast.expr] | None:
    """Return (name, value) where a branch is one assignment to a name."""
    if len(body) == 1 and isinstance(body[0], ast.Assign):
        target = body[0].targets[0]
        return (target.id, body[0].value) if isinstance(target, ast.Name) else None
    return None


def _is_simple(parts: Parts) -> bool:
    """Return whether a text has no field, and no choice within a choice."""
    return all(
        isinstance(part, str)
        or (isinstance(part, Choice) and plain(part.then + part.otherwise) is not None)
        for part in parts
    )


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, name, None) or [])


def _constant(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _key_in(node: ast.expr) -> str:
    """Return the constant key of `NAME["KEY"]`."""
    return _constant(node.slice) if isinstance(node, ast.Subscript) else ""
