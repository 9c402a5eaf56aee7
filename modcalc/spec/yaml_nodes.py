"""YAML text -> plain data and the line of every key. Nothing is constructed and no code is run.

The parser's events are read one by one into nodes, so that size, depth and aliases are bounded before anything unfolds.
Scalars follow the core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3): 1e-5 and 6e18 are numbers, 1:30, yes and
on are text.
"""

import re
from typing import Any

import yaml
from msgspec import Struct

from modcalc.errors import SpecError
from modcalc.spec.yaml_syntax import syntax

Path = tuple[str | int, ...]

MAX_DEPTH = 16
_TOO_DEEP = f"found more than {MAX_DEPTH} levels of nesting; a spec needs 4"
MAX_VALUES = 50_000  # a list of 10,000 layers fits; an alias counts with all that it stands for

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_KINDS = {f"{_TAG}int": int, f"{_TAG}float": float, f"{_TAG}bool": bool, f"{_TAG}null": type(None)}
_WORDS = {
    word: value for words, value in (("null Null NULL ~", None), ("true True TRUE", True), ("false False FALSE", False)) for word in words.split()
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
# What YAML 1.2 does not call printable, section 5.1, and three that pyyaml, as YAML 1.1, takes for ends of lines: U+0085, U+2028, U+2029.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Unusable(Struct, frozen=True):
    """What no field takes, kept so that its key and line can be named: .nan, 1e400, an empty value."""

    found: str


class Node(Struct, frozen=True):
    """value: a scalar, a list of nodes, or a dict of (line of the key, node). size: values below, aliases unfolded."""

    value: Any
    line: int
    size: int = 1

    def plain(self) -> Any:
        """As dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, (_, node) in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value


def printable(text: str) -> str:
    """A user's text within a message: what could steer a terminal is escaped."""
    return text if text.isprintable() else repr(text)[1:-1]


class Lines:
    """Key path -> line, from 1: lines["budget", "params"]. A path that is not written has the line of what would hold it."""

    def __init__(self, root: Node | None = None) -> None:
        self._root = root

    def _walk(self, path: Path) -> tuple[int, bool]:
        node, line = self._root, 1
        for step in path:
            value = node.value if node else None
            if isinstance(value, dict) and step in value:
                line, node = value[step]
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                node = value[step]
                line = node.line
            else:
                return line, False
        return line, True

    def __getitem__(self, path: Path | str) -> int:
        return self._walk((path,) if isinstance(path, str) else path)[0]

    def __contains__(self, path: object) -> bool:
        """Whether the path is written in the file."""
        return isinstance(path, tuple) and self._walk(path)[1]


def scalar(text: str) -> Any:
    """A plain scalar by the core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > 100:
            return Unusable(f"a number of {len(text)} digits")
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        return value if abs(value) != float("inf") else Unusable(text[:60])
    return Unusable(text) if _NOT_FINITE.fullmatch(text) else text


def read_yaml(text: str, file: str) -> tuple[Node, list[tuple[int, str]]]:
    """The document's root, a mapping, and the problems that leave the rest readable (duplicate keys), each with its line.

    Raises SpecError, with file and line, for what cannot be read at all.
    """
    if odd := _NOT_TEXT.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise SpecError([f"{file}:{line}: found the character U+{ord(odd[0]):04X}; allowed plain text; is this a spec?"])
    reader = _Reader(text, file)
    try:
        return reader.document(), reader.problems
    except yaml.MarkedYAMLError as wrong:
        raise SpecError([syntax(wrong, text, file, _TOO_DEEP)]) from None


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.problems: list[tuple[int, str]] = []
        self._anchors: dict[str, Node | None] = {}
        self._values = 0
        self._events = yaml.parse(text, Loader=_Loader)

    def _stop(self, line: int, what: str) -> SpecError:
        return SpecError([f"{self.file}:{at}: {problem}" for at, problem in [*self.problems[:50], (line, what)]])

    def _next(self) -> yaml.Event:
        return next(self._events)

    def document(self) -> Node:
        self._next()  # stream start
        if isinstance(self._next(), yaml.StreamEndEvent):
            raise self._stop(1, "found nothing; a spec is a mapping that starts like `name: my-model`")
        root = self._node(self._next(), 0)
        self._next()  # document end
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._stop(after.start_mark.line + 1, "found a second document; allowed one spec a file; remove the `---`")
        if not isinstance(root.value, dict):
            kind = "a list" if isinstance(root.value, list) else "a single value"
            raise self._stop(root.line, f"found {kind}; a spec is a mapping that starts like `name: my-model`")
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            node = self._anchors.get(event.anchor)
            if node is None:
                what = "inside what it stands for" if event.anchor in self._anchors else "before any &" + event.anchor
                raise self._stop(line, f"found the alias *{event.anchor} {what}; allowed after its anchor is complete")
            self._count(node.size, line)
            return node
        self._count(1, line)
        if depth > MAX_DEPTH:
            raise self._stop(line, _TOO_DEEP)
        if event.anchor:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self._scalar(event, line), line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._tag(event.tag, line, "seq")
            node = self._list(line, depth)
        else:
            self._tag(event.tag, line, "map")
            node = self._mapping(line, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _count(self, n: int, line: int) -> None:
        self._values += n
        if self._values > MAX_VALUES:
            raise self._stop(line, f"found more than {MAX_VALUES:,} values, aliases unfolded; a spec holds far fewer")

    def _tag(self, tag: str | None, line: int, *allowed: str) -> None:
        if tag is not None and tag not in ("!", *(_TAG + name for name in allowed)):
            shown = tag.replace(_TAG, "!!")
            raise self._stop(line, f"found the tag {printable(shown[:60])}; allowed plain values without tags; nothing was run; remove it")

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        self._tag(event.tag, line, "str", "int", "float", "bool", "null")
        plain = not event.style and event.implicit[0]
        if event.tag in _KINDS:
            value = scalar(event.value)
            if type(value) is not _KINDS[event.tag] and not (event.tag == f"{_TAG}float" and type(value) is int):
                raise self._stop(
                    line, f"found {event.value[:60]!r} with the tag {event.tag.replace(_TAG, '!!')}, which it does not fit; remove the tag"
                )
            return float(value) if event.tag == f"{_TAG}float" else value
        if not plain:
            return event.value
        return scalar(event.value) if event.value else Unusable("nothing")

    def _list(self, line: int, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node(items, line, 1 + sum(item.size for item in items))

    def _mapping(self, line: int, depth: int) -> Node:
        entries: dict[str, tuple[int, Node]] = {}
        size = 1
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            at = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise self._stop(at, "found a list, mapping or alias as a key; allowed plain words")
            self._tag(event.tag, at, "str")
            self._count(1, at)
            key, node = event.value, self._node(self._next(), depth + 1)
            if key in entries:
                first = entries[key][0]
                self.problems.append((at, f"{printable(key[:60])}: found a second time; allowed once; the first is in line {first}; remove one"))
            else:
                entries[key] = (at, node)
            size += node.size
        return Node(entries, line, size)
