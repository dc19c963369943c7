from metrics.table import format_table

ROWS = {
    "ours": {"n": 10, "bleu_1": 14.8138, "bleu_1_ci": [14.0, 15.5], "usr": 0.25, "words": 9.5},
    "a longer name": {"n": 7, "bleu_1": 3.0, "cor": 0.125},
}


def test_values_stand_under_their_names_and_intervals_under_the_values():
    lines = format_table(ROWS).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["system", "bleu_1", "n"],
        ["ours", "14.81", "10"],
        ["[14.00,", "15.50]"],
        ["a", "longer", "name", "3.00", "7"],
    ]


def test_columns_are_aligned():
    header, *rows = format_table(ROWS).splitlines()[:4]
    end = header.index("bleu_1") + len("bleu_1")
    assert [row[:end].rstrip()[-1:] for row in rows] == ["1", "]", "0"]
    assert all(len(row.rstrip()) <= len(header) for row in rows)


def test_a_metric_that_one_system_lacks_is_a_dash():
    cor_block = format_table(ROWS).split("\n\n")[1].splitlines()
    assert [line.split()[-1] for line in cor_block] == ["cor", "-", "0.1250"]


def test_a_metric_that_all_systems_lack_has_no_column():
    assert "rmse" not in format_table(ROWS).split("\n\n")[2]


def test_the_suite_is_named():
    assert "suite paper" in format_table(ROWS)
