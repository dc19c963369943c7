"""The `standard` suite: what sacreBLEU and rouge-score print, with signatures that say how.

The libraries count, per record; sums of their counts give back their own corpus scores, which is what the bootstrap
and the paired tests draw from. Imported only when this suite is asked for.
"""

# N records · S statistics of sacreBLEU's metrics

from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from metrics.families import Sums, means
from metrics.measures import Measures

ROUGE_KINDS = {"1": "rouge1", "2": "rouge2", "l": "rougeL"}


def library_rows(hypotheses: Sequence[str], references: Sequence[str], stem: bool) -> np.ndarray:
    """rows_NC: sacreBLEU's statistics of BLEU, of chrF, and rouge-score's F, recall and precision in percent."""
    if not hypotheses:
        return np.zeros((0, sum(_widths()) + 3 * len(ROUGE_KINDS)))
    counted = [metric._extract_corpus_statistics(list(hypotheses), [list(references)]) for metric in _metrics()]
    scorer = RougeScorer(list(ROUGE_KINDS.values()), use_stemmer=stem)
    rouge = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        scores = scorer.score(reference, hypothesis)
        rouge.append([100 * part for kind in ROUGE_KINDS.values() for part in _parts(scores[kind])])
    return np.concatenate([np.array(part, dtype=np.float64) for part in (*counted, rouge)], axis=1)


def measure_library(rows_NC: np.ndarray, stem: bool) -> Measures:
    """Corpus BLEU and chrF by sacreBLEU, mean ROUGE by rouge-score, from their rows."""
    bleu, chrf = _metrics()
    widths, names = _widths(), ("sacrebleu", "chrf")
    families, start = [], 0
    for name, metric, width in zip(names, (bleu, chrf), widths, strict=True):
        families.append(Sums([name], "record", rows_NC[:, start : start + width], _score_of(metric)))
        start += width
    keys = [f"rouge_score_{kind}_{part}" for kind in ROUGE_KINDS for part in "frp"]
    families.append(means(dict(zip(keys, rows_NC[:, start:].T, strict=True)), "record"))
    for metric in (bleu, chrf):
        metric.num_refs = 1  # said by the signature; sacreBLEU sets it when it counts
    return Measures(
        len(rows_NC),
        [*families],
        signatures={
            "sacrebleu_signature": str(bleu.get_signature()),
            "chrf_signature": str(chrf.get_signature()),
            "rouge_score_signature": f"rouge-score:{version('rouge-score')}|stem:{'yes' if stem else 'no'}",
        },
    )


def _metrics() -> tuple[BLEU, CHRF]:
    return BLEU(force=True), CHRF()  # force: no warning about text that looks tokenized


def _widths() -> tuple[int, int]:
    bleu, chrf = _metrics()
    return 2 + 2 * bleu.max_ngram_order, 3 * chrf.order


def _score_of(metric: Metric) -> Callable[[np.ndarray], np.ndarray]:
    def finish(sums_RS: np.ndarray) -> np.ndarray:
        rows = np.rint(np.atleast_2d(sums_RS)).astype(int).tolist()
        return np.array([[metric._compute_score_from_stats(row).score] for row in rows])

    return finish


def _parts(score: object) -> tuple[float, float, float]:
    return score.fmeasure, score.recall, score.precision  # type: ignore[attr-defined]
