"""The `standard` suite: what sacreBLEU and rouge-score print, and self-BLEU, with signatures that say how.

The libraries count, per record; sums of their counts give back their own corpus scores, which is what the bootstrap
and the paired tests draw from. Imported only when this suite is asked for.
"""

# N records · S statistics of sacreBLEU's metrics · T types of n-grams · P pairs of a type and a record that has it

from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from metrics.diversity import corpus_words
from metrics.families import Sums, means
from metrics.measures import Measures
from metrics.words import ngrams_up_to

ROUGE_KINDS = {"1": "rouge1", "2": "rouge2", "l": "rougeL"}
SELF_BLEU_ORDERS = 4
NLTK_EPSILON = 0.1  # of NLTK's smoothing method1, which Texygen's self-BLEU uses


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


def self_bleu(texts: Sequence[str]) -> np.ndarray:
    """values_N: BLEU-4 of each text against all the others, in percent (Texygen; NLTK's sentence BLEU, method1).

    An n-gram is clipped to its highest count in any other text, which follows from its two highest counts; the closest
    length among the others follows from the counts of lengths. So time is linear in the texts, and all are used.
    """
    n, words = len(texts), corpus_words(texts)
    if n < 2:
        return np.full(n, np.nan)
    length_N, log_N = words.lengths_T, np.zeros(n)
    for order, grams in enumerate(ngrams_up_to(SELF_BLEU_ORDERS, words), start=1):
        matches_N = _clipped_by_others(grams.types_G.astype(np.int64), grams.texts_G, n)
        if order == 1:
            none_N = matches_N == 0
        share_N = np.where(matches_N == 0, NLTK_EPSILON, matches_N) / np.maximum(length_N - order + 1, 1)
        log_N += np.log(share_N) / SELF_BLEU_ORDERS
    closest_N = _closest_other_length(length_N)
    brevity_N = np.minimum(0.0, 1 - closest_N / np.maximum(length_N, 1))
    return np.where(none_N, 0.0, 100 * np.exp(log_N + brevity_N))


def _clipped_by_others(type_G: np.ndarray, record_G: np.ndarray, n: int) -> np.ndarray:
    pairs, count_P = np.unique(type_G * n + record_G, return_counts=True)
    type_P, record_P = pairs // n, pairs % n
    order = np.lexsort((-count_P, type_P))
    sorted_type, sorted_count = type_P[order], count_P[order]
    first = np.flatnonzero(np.diff(sorted_type, prepend=-1))
    second = np.minimum(first + 1, len(sorted_count) - 1)
    highest_T, second_T = np.zeros((2, int(type_P.max(initial=-1)) + 1), dtype=np.int64)
    highest_T[sorted_type[first]] = sorted_count[first]
    alike = (second > first) & (sorted_type[second] == sorted_type[first])
    second_T[sorted_type[first]] = np.where(alike, sorted_count[second], 0)
    # the one text that alone has the highest count sees the second; with a tie the second equals the highest
    others_P = np.where(count_P == highest_T[type_P], second_T[type_P], highest_T[type_P])
    return np.bincount(record_P, np.minimum(count_P, others_P), n)


def _closest_other_length(length_N: np.ndarray) -> np.ndarray:
    """Of all other texts, the length closest to a text's own; of two equally close the smaller."""
    lengths, count = np.unique(length_N, return_counts=True)
    closest = {}
    for place, length in enumerate(lengths.tolist()):
        near = [length] if count[place] > 1 else lengths[max(place - 1, 0) : place + 2].tolist()
        closest[length] = min((abs(other - length), other) for other in near if count[place] > 1 or other != length)[1]
    return np.array([closest[length] for length in length_N.tolist()])
