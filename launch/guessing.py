"""What a stage reaches that has learned nothing, and the sentence that tells a stage which is no better.

A reward model that guesses pays PPO by noise, and nothing else in a run would show it.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import nn

from datamodules.corpus import Corpus
from lightning_modules.collectives import trainable_and_total

NO_BETTER = 0.99  # a loss above this share of the guessing one
DEVIATIONS = 3  # standard deviations of guessing within which a share of right answers is no better
LITTLE = 0.01  # share of a network that trains where nothing says that the rest is frozen


def guessing_loss(smoothing: float, real: float = 0.5) -> float:
    """HQAR's loss of the best answer that is the same for every token; `real` is the share of high-quality texts.

    The entropy of the mean target: ln 2 for as many real as sampled texts without label smoothing.
    """
    target = real * (1 - smoothing)
    return -sum(share * math.log(share) for share in (target, 1 - target) if share > 0)


def chance_accuracy(pairs: int, batch_size: int) -> float:
    """CCR's share of texts that find their own list by lot: one in each batch of validation."""
    return math.ceil(pairs / batch_size) / max(pairs, 1)


def mean_rmse(corpus: Corpus) -> float:
    """RMSE on validation of the mean rating of train."""
    train, valid = (corpus.rating_R[corpus.rows(split)].astype(np.float64) for split in ("train", "valid"))
    return float(np.sqrt(np.square(valid - train.mean()).mean()))


def unigram_loss(train: Sequence[Sequence[int]], valid: Sequence[Sequence[int]], vocabulary: int) -> float:
    """Mean over validation texts of their mean -log P(token), P by add-one counts of tokens in train texts."""
    counts = Counter(token for text in train for token in text)
    total = sum(counts.values()) + vocabulary
    means = [sum(math.log(total / (counts[token] + 1)) for token in text) / len(text) for text in valid if text]
    return sum(means) / max(len(means), 1)


def weak_rating(rmse: float, mean: float) -> list[str]:
    """What there is to say of the rating stage's validation."""
    if rmse <= NO_BETTER * mean:
        return []
    return [
        f"the rating model is no better than the mean rating: RMSE {rmse:.4g} on validation, that of the train mean "
        f"{mean:.4g}; the ratings and sentiments that prompts are told say little of a pair; give more records, or "
        "another rating.fit.lr, rating.fit.epochs or rating.model.width"
    ]


def weak_explanation(loss: float, unigram: float) -> list[str]:
    """What there is to say of the explanation stage's validation."""
    if loss <= NO_BETTER * unigram:
        return []
    return [
        f"the language model is no better than word frequencies: loss {loss:.4g} on validation, that of the train "
        f"tokens' frequencies {unigram:.4g}; train longer (explanation.fit.epochs) or at another explanation.fit.lr; "
        "adapters on a model with random weights cannot learn (explanation.model names a trained one, "
        "explanation.lora.rank=0 trains all weights)"
    ]


def weak_ccr(accuracy: float, pairs: int, batch_size: int) -> list[str]:
    """What there is to say of the ccr stage's validation."""
    chance = chance_accuracy(pairs, batch_size)
    spread = math.sqrt(chance * (1 - chance) / max(pairs, 1))
    if accuracy > chance + DEVIATIONS * spread:
        return []
    return [
        f"the encoder of CCR is no better than guessing: {accuracy:.3g} of {pairs} validation texts find their own "
        f"concept list, by lot {chance:.3g} do; its reward is noise; train longer (ccr.fit.epochs), at another "
        "ccr.fit.lr, from another ccr.model, or leave it out by ppo.lambda_ccr=0"
    ]


def weak_hqar(loss: float, smoothing: float) -> list[str]:
    """What there is to say of the hqar stage's validation, in which real and sampled texts are as many."""
    guessing = guessing_loss(smoothing)
    if loss <= NO_BETTER * guessing:
        return []
    return [
        f"the discriminator of HQAR is no better than guessing: loss {loss:.4g} on validation, guessing "
        f"{guessing:.4g}; its reward is noise; train longer (hqar.fit.epochs), at another hqar.fit.lr, with more "
        "hqar.layers, give texts that differ from the model's own (hqar.high_quality.file), or leave it out by "
        "ppo.lambda_hqar=0"
    ]


def little_trained(module: nn.Module) -> list[str]:
    """What there is to say of a network of which next to nothing learns, and that has no adapters to learn instead."""
    learning, total = trainable_and_total(module)
    adapters = any(parameter.requires_grad and "lora_" in name for name, parameter in module.named_parameters())
    if adapters or learning >= LITTLE * total:
        return []
    return [
        f"trains only {learning:,} of {total:,} parameters ({100 * learning / max(total, 1):.2g} %), and no adapters "
        "are set; the rest stays as it is read"
    ]
