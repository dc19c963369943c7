"""Markup in reviews becomes plain text; what only looks like markup stays."""

import json
import time

import pytest

from datamodules.build import BuildOptions, build_corpus
from datamodules.importers import amazon, nlg4rs_jsonl, recbole, table, tripadvisor, xrec, yelp
from datamodules.importers.markup import plain, tokenised_review


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Great mug.<br /><br />The handle is really comfortable.", "Great mug. The handle is really comfortable."),
        ("It broke<br>I sent it back", "It broke . I sent it back"),
        ("<p>One</p>\n<p>Two!</p><p>Three</p>", "One . Two! Three"),
        ("Pros:<ul><li>light</li><li>cheap</li></ul>", "Pros: light . cheap"),
        ("<BR CLEAR=all>loud<Br/>clear<hr>", "loud . clear"),
        ('A <a href="http://x.org/?a=1&b=2" target="_blank">link</a> here', "A link here"),
        ("<b>bold</b>ness and <span style='color: red'>red</span>", "boldness and red"),
        ("<img src='x.png' alt=\"it's > that\"/>nice", " nice"),
        ("[[VIDEOID:f57ee2f3ca4a]]Nice one", "Nice one"),
        ("See the [[ASIN:B000LU8A7E Great Guitar]] too", "See the Great Guitar too"),
        ("&quot;good&quot; &#34;x&#34; &#x22;y&#x22;", '"good" "x" "y"'),
        ("twice &amp;quot;escaped&amp;quot; R&amp;B", 'twice "escaped" R&B'),
        ("&lt;br /&gt;yes&lt;br&gt;no", "yes . no"),
        ("5&nbsp;stars &quot", '5\xa0stars "'),
        ("<!-- a comment --> hi <script>var a = 1 < 2;</script>there <style>p {}</style>", " hi there "),
        ("He said &ldquo;ok&rdquo;<br>Then left", "He said “ok” . Then left"),
        ("<o:p></o:p>from an office", "from an office"),
        ("[b]Bold[/b] [url=http://x.org]there[/url] [i]alone", "Bold there [i]alone"),
        ("cut to a length<br /><br", "cut to a length"),
        ('cut in a <a href="http://exam', "cut in a "),
        ("<br>", ""),
        ("<![CDATA[fine & loud]]> too", "fine & loud too"),
        ("Good.<script>var a = 1;", "Good."),
        ("<nobr>a b</nobr><svg><path d='M0'/></svg>", "a b"),
        ("[color=red]x[/color] y [size=3]z[/size]", "x y z"),
        ("[list][*]good sound[*]bad cable[/list]", "good sound . bad cable"),
        ("[img]http://x.org/y.png[/img]nice", " nice"),
    ],
)
def test_markup_is_taken_out(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "I <3 it",
        "</3 sad",
        "a < b and c > d",
        "x <b and c> d",
        "5 < 6, 7 > 2 & 1 <2",
        "<grin> what a hotel <sarcasm>",
        "AT&T, R&D; black&notebook &c.",
        "mail <john@example.org> or <http://example.org>",
        "[sic] and [b] and [[1]]",
        "it costs <$5",
        "two\nlines\n",
    ],
)
def test_what_is_no_markup_stays(text):
    assert plain(text) == text
    assert tokenised_review(text)[1] is False


REVIEW = "Great mug.<br /><br />The handle is really comfortable &amp; big"
EXPECTED = "great mug . the handle is really comfortable & big"


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def imported(tmp_path):
    row = {
        "user_id": "A1",
        "parent_asin": "B1",
        "asin": "B1",
        "rating": 5.0,
        "text": REVIEW,
        "timestamp": 1580000000000,
    }
    yield "amazon 2023", amazon.read(lines(tmp_path / "a.jsonl", row))
    row = {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "reviewText": REVIEW, "unixReviewTime": 1580000000}
    yield "amazon 2014", amazon.read(lines(tmp_path / "b.jsonl", row))
    row = {"user_id": "A1", "business_id": "B1", "stars": 5, "text": REVIEW, "date": "2018-07-07"}
    yield "yelp", yelp.read(lines(tmp_path / "y.json", row))
    row = {"author": "A1", "hotel_url": "h", "rating": 5, "text": REVIEW, "date": "2018-07-07"}
    yield "tripadvisor", tripadvisor.read(lines(tmp_path / "t.json", row))
    (tmp_path / "r.inter").write_text(
        f"user_id:token\titem_id:token\trating:float\treview:token_seq\nu\ti\t5\t{REVIEW}\n"
    )
    yield "recbole", recbole.read(tmp_path / "r.inter")
    (tmp_path / "t.csv").write_text(f'user,item,rating,text\nu,i,5,"{REVIEW}"\n')
    yield "table", table.read(tmp_path / "t.csv", table.Columns(), 3.0)
    yield "xrec", xrec.read(lines(tmp_path / "tst.jsonl", {"uid": 1, "iid": 2, "explanation": REVIEW}), 5.0)


def test_every_importer_cleans_and_says_so(tmp_path):
    for name, records in imported(tmp_path):
        (record,) = records
        assert (record.explanation, record.cleaned) == (EXPECTED, True), name


def test_sentences_that_are_tokenised_already_stay_unless_they_hold_markup(tmp_path):
    row = {"user": "u", "item": "i", "rating": 5, "feature": "mug", "opinion": "great", "sentiment": 1}
    path = lines(tmp_path / "n.jsonl", row | {"sentence": "a great mug , & cheap"}, row | {"sentence": "a mug<br />"})
    assert [(r.explanation, r.cleaned) for r in nlg4rs_jsonl.read(path)] == [
        ("a great mug , & cheap", False),
        ("a mug", True),
    ]


@pytest.mark.parametrize("unit", ["[[AB:", "[[AB: ", "<script>", "<a ", "&", "[b=[/"])
def test_what_is_opened_and_never_closed_takes_no_minutes(unit):
    started = time.process_time()
    plain(unit * 4000)
    assert time.process_time() - started < 5


def test_what_a_tokenised_sentence_holds_in_entities_is_parted_from_words_and_its_feature_is_cleaned_too(tmp_path):
    row = {"user": "u", "item": "i", "rating": 5, "feature": "salt &amp; pepper", "opinion": "great", "sentiment": 1}
    (record,) = nlg4rs_jsonl.read(lines(tmp_path / "n.jsonl", row | {"sentence": "the &quot;salt &amp; pepper&quot;"}))
    assert record.explanation == 'the " salt & pepper "'
    assert record.mentions == [("salt & pepper", "great", 1)]


def test_titles_of_side_files_are_cleaned(tmp_path):
    (business,) = yelp.read_items(lines(tmp_path / "b.json", {"business_id": "b", "name": "Ben &amp; Jerry&#39;s"}))
    (hotel,) = tripadvisor.read_items(lines(tmp_path / "h.json", {"id": 5, "name": "Bed &amp; Breakfast"}))
    (tmp_path / "r.item").write_text("item_id:token\ttitle:token_seq\n1\tTom &amp; Jerry\n")
    (film,) = recbole.read_items(tmp_path / "r.item")
    assert (business.title, hotel.title, film.title) == ("Ben & Jerry's", "Bed & Breakfast", "Tom & Jerry")


def test_the_semicolon_of_an_entity_parts_no_concepts(tmp_path):
    (tmp_path / "t.csv").write_text(
        "user,item,rating,text,concepts\nu,i,4,the salt &amp; pepper set,salt &amp; pepper; set\n"
    )
    (record,) = table.read(tmp_path / "t.csv", table.Columns(), 3.0)
    assert record.mentions == [("salt & pepper", "", 1), ("set", "", 1)]


def test_concepts_and_titles_are_cleaned_like_the_text(tmp_path):
    path = lines(
        tmp_path / "t.jsonl",
        {"user": "u", "item": "i", "rating": 5, "text": "the salt &amp; pepper set", "concepts": ["salt &amp; pepper"],
         "title": "Salt &amp; Pepper"},
    )  # fmt: skip
    (record,) = table.read(path, table.Columns(), 3.0)
    assert record.mentions == [("salt & pepper", "", 1)]
    assert (record.explanation, record.item_title) == ("the salt & pepper set", "Salt & Pepper")


def test_the_corpus_counts_the_texts_that_were_cleaned_and_br_is_no_concept(tmp_path):
    rows = [
        {"user": f"u{n % 30}", "item": f"i{n // 30}", "rating": 5,
         "text": "A great handle.<br /><br />The lid is fine." if n % 7 == 0 else "A great handle. The lid is fine."}
        for n in range(900)
    ]  # fmt: skip
    path = lines(tmp_path / "t.jsonl", *rows)
    records = table.read(path, table.Columns(), 3.0)
    corpus = build_corpus(records, tmp_path / "out", BuildOptions(explanation="whole"), {"file": str(path)})
    assert corpus.manifest["cleaned_of_markup"] == 129  # of 0, 7, ..., 896
    assert "br" not in corpus.concepts
    assert set(corpus.explanations) == {"a great handle . the lid is fine ."}
