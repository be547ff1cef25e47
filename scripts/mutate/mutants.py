"""A file's mutants: mutmut's operators and two of our own, wherever they may stand.

mutmut itself leaves out what is decorated and what stands outside functions, where tables of rights
and limits are, and changes every message: so its operators are used, and neither its runner nor its
choice of places. Left as they are: annotations, decorators, imports, docstrings, prose (text with a
blank in it), and what is raised; that something is raised at all is put to the test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import CodePosition, MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file.

    Attributes:
        where: Qualified name of the function or class that it is in; empty outside.
        function: Of the outermost function that it is in; empty outside of all.
        line: Of the change, from 1.
        before: The lines it changes, stripped and joined: with `where` and `after` its name, which
            outlives changes elsewhere.
        after: What it makes of them.
        source: The whole file.
    """

    where: str
    function: str
    line: int
    before: str
    after: str
    source: str

    @property
    def name(self) -> tuple[str, str, str]:
        """Where, before, after."""
        return self.where, self.before, self.after


def mutants(path: Path, within: Sequence[str] = ()) -> list[Mutant]:
    """All different mutants of a file in its order; only of the named definitions, if any are."""
    code = path.read_text()
    wrapper = MetadataWrapper(cst.parse_module(code))
    collector = _Collector(code)
    wrapper.visit(collector)
    found: dict[str, Mutant] = {}
    for place in collector.places:
        if within and not any(_inside(place.where, name) for name in within):
            continue
        for changed in _changes(place.node):
            mutant = _mutant(wrapper.module, code, place, changed)
            if mutant is not None:
                found.setdefault(mutant.source, mutant)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Place:
    node: cst.CSTNode
    where: str
    function: str
    span: tuple[int, int]


class _Collector(cst.CSTVisitor):
    """Nodes that may be changed, with the definitions around them."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, code: str) -> None:
        super().__init__()
        self.places: list[_Place] = []
        self._around: list[cst.FunctionDef | cst.ClassDef] = []
        self._lines = [0]
        for line in code.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._around.append(node)
        if _is_prose(node):
            return False
        self.places.append(self._place(node))
        return not isinstance(node, cst.Raise)

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._around.pop()

    def _place(self, node: cst.CSTNode) -> _Place:
        names = [around.name.value for around in self._around]
        functions = [isinstance(around, cst.FunctionDef) for around in self._around]
        outermost = functions.index(True) + 1 if any(functions) else 0
        found = self.get_metadata(PositionProvider, node, None)
        begin, end = (found.start, found.end) if found is not None else (None, None)
        span = (self._offset(begin), self._offset(end))
        return _Place(node, ".".join(names), ".".join(names[:outermost]), span)

    def _offset(self, position: CodePosition | None) -> int:
        return 0 if position is None else self._lines[position.line - 1] + position.column


def _is_prose(node: cst.CSTNode) -> bool:
    match node:
        case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString()):
            return True  # a docstring
        case cst.SimpleString():
            return isinstance(node.evaluated_value, str) and " " in node.evaluated_value
        case cst.FormattedString():
            texts = (part for part in node.parts if isinstance(part, cst.FormattedStringText))
            return any(" " in text.value for text in texts)
        case _:
            return False


def _inside(where: str, name: str) -> bool:
    return where == name or where.startswith(f"{name}.")


def _changes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from operator(node)
    match node:
        case cst.Raise() | cst.Expr(value=cst.Call() | cst.Await()):
            yield cst.Pass()  # a check, or the refusal, left out
        case cst.If():
            yield node.with_changes(test=_negated(node.test))


def _negated(test: cst.BaseExpression) -> cst.UnaryOperation:
    bracketed = test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return cst.UnaryOperation(cst.Not(), bracketed)


def _mutant(module: cst.Module, code: str, place: _Place, changed: cst.CSTNode) -> Mutant | None:
    """None for a change that is none, or that is not Python."""
    after = _replaced(module, code, place, changed)
    if after == code:
        return None
    try:
        compile(after, "<mutant>", "exec")
    except (SyntaxError, ValueError):
        return None
    line, old, new = _difference(code.splitlines(), after.splitlines())
    return Mutant(place.where, place.function, line, old, new, after)


def _replaced(module: cst.Module, code: str, place: _Place, changed: cst.CSTNode) -> str:
    """The file with another node there: spliced where that is exact, which is a lot quicker."""
    begin, end = place.span
    if code[begin:end] == module.code_for_node(place.node):
        return code[:begin] + module.code_for_node(changed) + code[end:]
    replaced = module.deep_replace(place.node, changed)
    return replaced.code if isinstance(replaced, cst.Module) else code


def _difference(old: list[str], new: list[str]) -> tuple[int, str, str]:
    """First line that differs, from 1, and the lines of both that do, each as one."""
    shorter = min(len(old), len(new))
    begin = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    end = next((at for at in range(shorter - begin) if old[-1 - at] != new[-1 - at]), 0)
    return begin + 1, _joined(old[begin : len(old) - end]), _joined(new[begin : len(new) - end])


def _joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)
