"""What stages read, where it is not the corpus."""

from types import SimpleNamespace

import pytest

from datamodules.quality import HighQualityConfig
from launch.stages import high_quality_texts


@pytest.mark.parametrize(
    ("layout", "expected"),
    [("table", "the breakfast , really , is great !"), ("nlg4rs", "The breakfast, really, is great!")],
)
def test_a_users_high_quality_texts_take_the_form_of_the_corpus(tmp_path, layout, expected):
    file = tmp_path / "gold.jsonl"
    file.write_text('{"explanation": "The breakfast, really, is great!"}\n')
    config = SimpleNamespace(hqar=SimpleNamespace(high_quality=HighQualityConfig(file=str(file))))
    corpus = SimpleNamespace(manifest={"source": {"format": layout}})
    assert high_quality_texts(SimpleNamespace(config=config, corpus=corpus)) == [expected]
