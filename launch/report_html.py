"""HTML that cannot be injected into: text is escaped unless a function of this file made it."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

VOID = {"meta", "input"}


class Html(str):
    """Markup, which goes into a page as it is; any other text is escaped on its way."""


def join(parts: Iterable[str]) -> Html:
    """The parts one after the other, texts escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: object) -> Html:
    """`<name attributes>children</name>`; an attribute that is None is left out, `class_` means class."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{escape(str(value))}"' for key, value in given.items())
    return Html(f"<{name}{opening}>") if name in VOID else Html(f"<{name}{opening}>{join(children)}</{name}>")


def unseen(text: str) -> Html:
    """Words for screen readers, where sighted readers see a sign."""
    return tag("span", text, class_="unseen")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], class_: str) -> Html:
    """A table that scrolls sideways where it is too wide; the first cell of each row is its header."""
    columns = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = (tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)) for first, *rest in rows)
    content = tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", *body), class_=class_)
    return tag("div", content, class_="scroll", role="region", tabindex="0", aria_label=caption)


def pairs(caption: str, head: tuple[str, str], values: Mapping[str, object]) -> Html:
    """A table of names and values."""
    return table(caption, head, ((name, str(value)) for name, value in values.items()), "pairs")
