"""Reviews as web pages hold them -> plain text: entities read, tags taken out, ends of blocks as ends of sentences.

Only what is markup is touched. "I <3 it", "a < b and c > d", "AT&T" and "<grin>" stay as they were written.
"""

import html
import re

from datamodules.importers.tokenising import tokenised
from metrics.phrases import tokenize

_BLOCK = frozenset(
    tokenize("""
address article aside blockquote body br caption center dd details div dl dt fieldset figcaption figure footer form h1
h2 h3 h4 h5 h6 head header hr html legend li main nav ol option p pre section summary table tbody tfoot thead title
tr ul
""")
)
_CELL = frozenset(
    tokenize("audio button canvas embed iframe img input object picture select source td textarea th video")
)
_INLINE = frozenset(
    tokenize("""
a abbr acronym area b base bdi bdo big blink cite code col colgroup data del dfn em font i ins kbd label link map mark
marquee meta meter nobr noscript output param path progress q rp rt ruby s samp script small span strike strong style
sub sup svg time track tt u var wbr
""")
)
_BREAK = "\x1e"  # stands where a block begins or ends, until sentences are made of blocks
# A text that was cut to a length ends in half a tag.
_CUT = re.compile(
    r"<(?:/?(?:br|div|hr|img|li|ol|span|ul)\s*/?|(?:a|div|font|img|p|span)\s+[\w-]+=[^<>]*)$", re.IGNORECASE
)

# Numbers, and names that end with a semicolon; of those without one only the five that tables are full of. HTML reads
# more of them, and would make "¬ebook" of "&notebook".
_ENTITY = re.compile(r"&(?:#\d{1,7};?|#[xX][0-9a-fA-F]{1,6};?|[a-zA-Z][a-zA-Z0-9]{1,31};|(?:quot|amp|lt|gt|nbsp)\b)")
# A script that is never closed was cut, and is a script to the end.
_UNSEEN_BLOCK = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"""</?([a-zA-Z][\w:.-]*)((?:\s+|/)(?:"[^"]*"|'[^']*'|[^<>"'])*)?>""")
_ATTRIBUTE = re.compile(r"""[\w:.-]+\s*=|^\s*/?\s*$|\s/\s*$""")
_DECLARATION = re.compile(r"<(?:!doctype|\?xml)[^<>]*>", re.IGNORECASE)
_CDATA = re.compile(r"<!\[cdata\[|\]\]>", re.IGNORECASE)  # what stands between is the text itself
# Amazon's own marks: [[VIDEOID:0a1b]] stands for a film, [[ASIN:B0001 A Title]] for a link whose text is the title.
# Possessive: without, a text of many opening brackets takes minutes.
_BRACKETS = re.compile(r"\[\[([A-Z]{2,}+):[^\s\[\]]*+\s*+([^\[\]]*+)\]\]")
_BBCODE = re.compile(
    r"\[(/?)(b|i|u|s|strike|url|email|quote|spoiler|noparse|code|h[1-6]|list|olist|table|tr|td|th|colou?r|size|font"
    r"|center|left|right|indent)(=[^\[\]]*)?\]",
    re.IGNORECASE,
)
_BBCODE_FILE = re.compile(r"\[(img|youtube|video|media)(?:=[^\[\]]*)?\][^\[\]]*\[/\1\]", re.IGNORECASE)
_BBCODE_BLOCKS = re.compile(r"(?:quote|h\d|list|olist|table|tr|center|left|right|indent)", re.IGNORECASE)
_LISTS = frozenset(("list", "olist"))
_MARKED = re.compile(r"[<&]|\[\[|\[/")
# A block that ends so needs no full stop. Opening marks and dashes go on in the next block.
_ENDED = re.compile(r"[\W_]$")
_CLOSING = re.compile(r"[\"'”’»)\]%°]$")


def plain(text: str) -> str:
    """The text without markup; the very same text where there is none."""
    if not _MARKED.search(text):
        return text
    blocks = _without_bbcode(_without_tags(_unescaped(text))).split(_BREAK) if _has_markup(text) else [text]
    if len(blocks) == 1:
        return blocks[0]
    written = [block.strip() for block in blocks if block.strip()]
    return "".join(f"{block}{_between(block)}" for block in written[:-1]) + (written[-1] if written else "")


def tokenised_review(text: str) -> tuple[str, bool]:
    """(the text in the form that explanations have, whether markup was taken out of it)."""
    cleaned = plain(text)
    return tokenised(cleaned), cleaned != text


def _has_markup(text: str) -> bool:
    found = _ENTITY.search(text) or _BRACKETS.search(text) or _UNSEEN_BLOCK.search(text) or _DECLARATION.search(text)
    found = found or _CUT.search(text) or _CDATA.search(text) or _BBCODE_FILE.search(text)
    return bool(found or _BBCODE.search(text) or any(_is_tag(tag) for tag in _TAG.finditer(text)))


def _unescaped(text: str) -> str:
    """Entities as the characters they stand for; what was escaped twice or three times, too."""
    for _ in range(3):
        text, before = _ENTITY.sub(lambda entity: html.unescape(_closed(entity[0])), text), text
        if text == before:
            break
    return text


def _closed(entity: str) -> str:
    return entity if entity.endswith(";") else f"{entity};"


def _without_tags(text: str) -> str:
    """Block tags become `_BREAK`; cells and pictures a blank; all other tags nothing."""
    text = _DECLARATION.sub("", _UNSEEN_BLOCK.sub("", _CDATA.sub("", text)))
    text = _BRACKETS.sub(lambda mark: mark[2], text)
    return _CUT.sub("", _TAG.sub(lambda tag: _in_its_place(tag) if _is_tag(tag) else tag[0], text))


def _is_tag(tag: re.Match[str]) -> bool:
    """A known element, or one of a namespace ("o:p"); "<b and c>" is no tag, as no attribute of it has a value."""
    name, rest = tag[1].lower(), tag[2] or ""
    known = name in _BLOCK or name in _CELL or name in _INLINE or ":" in name.rstrip(":")
    return known and bool(_ATTRIBUTE.search(rest))


def _in_its_place(tag: re.Match[str]) -> str:
    name = tag[1].lower()
    return _BREAK if name in _BLOCK else " " if name in _CELL else ""


def _without_bbcode(text: str) -> str:
    """Marks in brackets that are opened and closed; one alone may be meant as it stands."""
    if "[/" not in text:
        return text
    text = _BBCODE_FILE.sub(" ", text)
    closed = {mark[2].lower() for mark in _BBCODE.finditer(text) if mark[1]}
    opened = {mark[2].lower() for mark in _BBCODE.finditer(text) if not mark[1]}

    def replaced(mark: re.Match[str]) -> str:
        if mark[2].lower() not in closed & opened:
            return mark[0]
        return _BREAK if _BBCODE_BLOCKS.fullmatch(mark[2]) else ""

    text = text.replace("[*]", _BREAK) if closed & opened & _LISTS else text
    return _BBCODE.sub(replaced, text)


def _between(block: str) -> str:
    """What parts a block from the next: a full stop, unless it ends with a mark already."""
    return " " if _ENDED.search(block) and not _CLOSING.search(block) else " . "
