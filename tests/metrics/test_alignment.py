import pytest

from metrics.alignment import align as align_columns
from metrics.columns import Predictions
from metrics.errors import InputError


def line(reference, **more):
    return {"reference": reference, "explanation": "x"} | more


def align(files):
    """The lines of each file in the order of the first."""
    aligned = align_columns({name: Predictions.of(lines) for name, lines in files.items()})
    return [[lines[place] for place in found.line_N] for lines, found in zip(files.values(), aligned, strict=True)]


def test_records_are_matched_by_their_ids():
    first = [line("a", record=1), line("b", record=2)]
    second = [line("b", record="2"), line("a", record="1")]
    assert align({"A": first, "B": second}) == [first, second[::-1]]


def test_without_ids_records_are_matched_by_user_and_item_and_else_by_line():
    first = [line("a", user="u", item=1), line("b", user="u", item=2)]
    second = [line("b", user="u", item="2"), line("a", user="u", item="1")]
    assert align({"A": first, "B": second})[1] == second[::-1]
    bare = [line("a"), line("b")]
    assert align({"A": first, "B": bare})[1] == bare


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([line("a", record=1)], r"B lacks 1 of the records of A, such as '2'"),
        (
            [line("a", record=1), line("b", record=2), line("c", record=3)],
            r"A lacks 1 of the records of B, such as '3'",
        ),
        ([line("a", record=1), line("c", record=2)], r"A and B have other references for record '2': 'b' and 'c'"),
        ([line("a")], r"A has 2 predictions and B has 1, and they have no common ids"),
        ([line("a"), line("z" * 50)], r"other references for line 2: 'b' and 'z{40}...'"),
    ],
)
def test_files_of_other_records_are_refused(second, message):
    with pytest.raises(InputError, match=message):
        align({"A": [line("a", record=1), line("b", record=2)], "B": second})
