"""Reads the configuration's sources: YAML text with line numbers, or what JSON or a kubeconfig held.

An unknown key is a warning that names the nearest known one; a wrong value is an error. Either way the
rest of the file is read, so that all problems can be shown at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from inroad.core.config import KEYS, UNUSED, Key, Layer, Problem, Source

Lines = Mapping[str, int]
"""Line (from 1) of each dotted key."""

_BY_NAME: dict[str, Key] = {name: key for key in KEYS for name in (key.name, *key.old)}
_SECTIONS = {name.partition(".")[0] for name in (*_BY_NAME, *UNUSED)}

EXTENSION = "inroad"
FOREIGN_EXTENSION = "telepresence.io"
_FOREIGN_ROUTING = {
    "also-proxy": "alsoProxySubnets",
    "alsoProxy": "alsoProxySubnets",
    "never-proxy": "neverProxySubnets",
    "neverProxy": "neverProxySubnets",
}


def read_yaml(text: str, file: str, source: Source = Source.FILE) -> Layer:
    """Read a configuration file's text; `file` is its name in problems."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or "is not YAML"
        return Layer(source, {}, (Problem(file, mark.line + 1 if mark else 0, "", str(what), fatal=True),))
    lines = dict(_lines(node, ""))
    if data is None:
        return Layer(source)
    return read_mapping(data, file, source, lines)


def _lines(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the line of every key of the first two levels."""
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in node.value:
        dotted = f"{prefix}{name.value}"
        yield dotted, name.start_mark.line + 1
        if not prefix:
            yield from _lines(value, f"{dotted}.")


def read_mapping(data: Any, file: str, source: Source, lines: Lines | None = None) -> Layer:
    """Read what a file held once parsed."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, raw in _flatten(data):
        line = (lines or {}).get(name, 0)
        key = _BY_NAME.get(name)
        if key is None:
            if name not in UNUSED:
                problems.append(Problem(file, line, name, _unknown(name), fatal=_is_section(name)))
            continue
        try:
            values[key.field] = key.read(raw)
        except ValueError as error:
            problems.append(Problem(file, line, name, str(error), fatal=True))
    return Layer(source, values, tuple(problems))


def _flatten(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for sections; a section that is none is yielded under its own name."""
    if not isinstance(data, Mapping):
        yield "", data
        return
    for section, content in data.items():
        if isinstance(content, Mapping):
            yield from ((f"{section}.{name}", value) for name, value in content.items())
        elif content is not None:
            yield str(section), content


def _is_section(name: str) -> bool:
    return not name or name in _SECTIONS


def _unknown(name: str) -> str:
    if _is_section(name):
        return "must be a section with keys of its own"
    section, _, rest = name.partition(".")
    near = difflib.get_close_matches(name, list(_BY_NAME), 1, 0.6)
    if not near and rest:
        near = [known for known in _BY_NAME if known.partition(".")[2] == rest][:1]
    if not near and not rest:
        near = difflib.get_close_matches(section, sorted(_SECTIONS), 1, 0.6)
    return f"unknown; is {near[0]} meant?" if near else "unknown"


def read_extensions(extensions: Any, file: str) -> Layer:
    """Read the `extensions` of a kubeconfig's cluster.

    From the one named `telepresence.io` only names and routing are taken, old spellings included: its
    manager is not ours. What the one named `inroad` says wins.
    """
    layers = []
    for entry in extensions if isinstance(extensions, list) else []:
        if isinstance(entry, Mapping) and isinstance(entry.get("extension"), Mapping):
            content = entry["extension"]
            if entry.get("name") == EXTENSION:
                layers.append(
                    (1, read_mapping(content, f"{file} (extension {EXTENSION})", Source.KUBECONFIG))
                )
            elif entry.get("name") == FOREIGN_EXTENSION:
                layers.append((0, _read_foreign(content, file)))
    layers.sort(key=lambda pair: pair[0])
    values = {name: value for _, layer in layers for name, value in layer.values.items()}
    problems = tuple(problem for _, layer in layers for problem in layer.problems)
    return Layer(Source.KUBECONFIG, values, problems)


def _read_foreign(content: Mapping[str, Any], file: str) -> Layer:
    dns, routing = content.get("dns"), content.get("routing")
    routed = (
        {_FOREIGN_ROUTING.get(name, name): value for name, value in routing.items()}
        if isinstance(routing, Mapping)
        else {}
    )
    routed |= {_FOREIGN_ROUTING[name]: value for name, value in content.items() if name in _FOREIGN_ROUTING}
    data = {"dns": dns if isinstance(dns, Mapping) else {}, "routing": routed}
    layer = read_mapping(data, f"{file} (extension {FOREIGN_EXTENSION})", Source.KUBECONFIG)
    return Layer(layer.source, layer.values, tuple(problem for problem in layer.problems if problem.fatal))
