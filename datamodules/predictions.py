"""Prediction records: what a run exchanges with the world (DESIGN section 4)."""

import numpy as np

from datamodules.corpus import Corpus
from datamodules.evidence import Evidence, describe


def predictions(corpus: Corpus, evidence: Evidence, texts: dict[int, str]) -> list[dict]:
    """Prediction records of explained records, in the order of their ids."""
    rows = []
    for record, text in sorted(texts.items()):
        user, item = int(corpus.user_R[record]), int(corpus.item_R[record])
        rows.append(
            {
                "record": record,
                "user": corpus.users[user],
                "item": corpus.items[item],
                "user_index": user,
                "item_index": item,
                "rating": _known(corpus.rating_R[record]),
                "predicted_rating": round(float(evidence.predicted_R[record]), 4),
                "explanation": text,
                "reference": corpus.explanations[record],
                "gold_concepts": [corpus.concepts[mention.concept] for mention in corpus.mentions[record]],
                "concepts": [describe(c, user, item, corpus) for c in evidence.candidates(record)],
            }
        )
    return rows


def _known(rating: float) -> float | None:
    return None if np.isnan(rating) else round(float(rating), 4)
