"""Reads a page as a browser's parser would, for what tests ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

VOID = {"meta", "link", "img", "input", "br", "rect", "circle", "line"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def find(self, tag: str = "", **attributes: str) -> Iterator[Element]:
        """Return all elements below with that tag and attributes; `class_` asks for one of the classes."""
        for child in self.children:
            if isinstance(child, Element):
                matches = not tag or child.tag == tag
                for key, value in attributes.items():
                    own = child.attributes.get(key.rstrip("_"), "")
                    matches &= value in own.split() if key == "class_" else own == value
                if matches:
                    yield child
                yield from child.find(tag, **attributes)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def read(path: Path) -> Element:
    """Return the page's tree; every element must be closed in order."""
    builder = _Builder()
    builder.feed(path.read_text(encoding="utf-8"))
    builder.close()
    assert len(builder._open) == 1, "an element was left open"
    return builder.root


def addresses(page: Element) -> Iterator[str]:
    for element in page.find():
        for name in ("href", "src", "data-plain"):
            if name in element.attributes:
                yield element.attributes[name]


def check(path: Path) -> Element:
    """Return the page after making sure of what holds for every page of the report."""
    page = read(path)
    policy = next(page.find("meta", **{"http-equiv": "Content-Security-Policy"})).attributes["content"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not list(page.find("style"))
    ids = [element.attributes["id"] for element in page.find() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in page.find():
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"]
        if element.tag == "script":
            assert element.attributes["src"]
            assert not element.text.strip()
        if element.tag == "img":
            decoration = element.attributes.get("class") == "mask"
            assert decoration != bool(element.attributes["alt"].strip())
            assert element.attributes["loading"] == "lazy"
    for address in addresses(page):
        parts = urlsplit(address)
        assert not parts.scheme, address
        assert not parts.netloc, address
        if parts.path and Path(parts.path).name not in ("index.html", "units.js"):
            assert (path.parent / unquote(parts.path)).is_file(), address
        if parts.fragment and not parts.path:
            assert unquote(parts.fragment) in ids, address
    return page
