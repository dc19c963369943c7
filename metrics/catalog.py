"""What each key of the results means: its name in tables, which way is better, how it is printed.

docs/metrics.md gives formulas and sources; a test holds the two together.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One key of the results."""

    key: str
    name: str
    better: str  # higher, lower, or empty where neither is
    digits: int
    definition: str


_FIELD = "the field's script"

TEXT = (
    Metric("bleu_1", "BLEU-1", "higher", 2, "Corpus BLEU of word order 1 against the one reference, unsmoothed, x100."),
    Metric("bleu_2", "BLEU-2", "higher", 2, "The same with orders 1 and 2."),
    Metric("bleu_3", "BLEU-3", "higher", 2, "The same with orders 1 to 3."),
    Metric("bleu_4", "BLEU-4", "higher", 2, "The same with orders 1 to 4."),
    Metric("rouge_1_f", "ROUGE-1", "higher", 2, f"F of shared words, counted as sets ({_FIELD}), x100."),
    Metric("rouge_1_r", "ROUGE-1 R", "higher", 2, f"Recall of shared words, counted as sets ({_FIELD}), x100."),
    Metric("rouge_1_p", "ROUGE-1 P", "higher", 2, f"Precision of shared words, counted as sets ({_FIELD}), x100."),
    Metric("rouge_2_f", "ROUGE-2", "higher", 2, f"F of shared word pairs, counted as sets ({_FIELD}), x100."),
    Metric("rouge_2_r", "ROUGE-2 R", "higher", 2, f"Recall of shared word pairs, as sets ({_FIELD}), x100."),
    Metric("rouge_2_p", "ROUGE-2 P", "higher", 2, f"Precision of shared word pairs, as sets ({_FIELD}), x100."),
    Metric(
        "rouge_l_f",
        "ROUGE-L",
        "higher",
        2,
        f"F of the longest common subsequence with beta = P/R ({_FIELD}: below the usual F1), x100.",
    ),
    Metric("rouge_l_r", "ROUGE-L R", "higher", 2, "Longest common subsequence over words of the reference, x100."),
    Metric("rouge_l_p", "ROUGE-L P", "higher", 2, "Longest common subsequence over words of the explanation, x100."),
)
DIVERSITY = (
    Metric("distinct_1", "Distinct-1", "higher", 2, "Different words by all words, over all explanations, x100."),
    Metric("distinct_2", "Distinct-2", "higher", 2, "Different word pairs by all word pairs, x100."),
    Metric("distinct_1_sentence", "Distinct-1 in a text", "higher", 2, "Distinct-1 within each text, mean, x100."),
    Metric("distinct_2_sentence", "Distinct-2 in a text", "higher", 2, "Distinct-2 within each text, mean, x100."),
    Metric("distinct_1_item", "Distinct-1 of an item", "higher", 2, "Distinct-1 over an item's texts, mean, x100."),
    Metric("distinct_2_item", "Distinct-2 of an item", "higher", 2, "Distinct-2 over an item's texts, mean, x100."),
    Metric("distinct_1_char_prag", "Distinct-1 (chars)", "higher", 2, "PRAG's: characters, by characters, x100."),
    Metric("distinct_2_char_prag", "Distinct-2 (chars)", "higher", 2, "PRAG's: character pairs by characters, x100."),
    Metric("entr", "ENTR", "higher", 3, "Mean entropy in bits of the corpus' word 1-, 2- and 3-grams."),
    Metric("usr", "USR", "higher", 4, "Number of different explanations by the number of explanations."),
    Metric("usn", "USN", "higher", 0, "Number of different explanations."),
    Metric("uusr", "uUSR", "higher", 4, "USR within each user's texts, mean over users."),
    Metric("iusr", "iUSR", "higher", 4, "USR within each item's texts, mean over items."),
    Metric("words", "Words", "", 2, "Words of an explanation, mean."),
    Metric("words_reference", "Words of reference", "", 2, "Words of a reference, mean."),
)
CONCEPTS = (
    Metric(
        "cmr",
        "CMR",
        "higher",
        4,
        "Share of an explanation's concepts that the user or the item has in train (variant: union of the two), mean "
        "over explanations that name a concept.",
    ),
    Metric("cmr_both", "CMR (both)", "higher", 4, "CMR with concepts that user and item both have in train."),
    Metric("cmr_candidates", "CMR (candidates)", "higher", 4, "CMR with the candidate concepts."),
    Metric("cmr_gold", "CMR (gold)", "higher", 4, "CMR with the concepts that the reference names."),
    Metric("candidate_recall", "Candidate recall", "higher", 4, "Share of the candidate concepts that are named."),
    Metric(
        "cor",
        "COR",
        "lower",
        4,
        "Overlap of the concepts of two explanations of one item (variant: Jaccard), mean over pairs, then items. "
        "Texts without concepts win it, hence the concept rate beside it.",
    ),
    Metric("cor_overlap", "COR (overlap)", "lower", 4, "COR with the overlap coefficient (by the smaller set)."),
    Metric("cor_count", "COR (count)", "lower", 4, "COR with the number of shared concepts."),
    Metric("cor_empty_share", "COR empty pairs", "", 4, "Share of COR's pairs in which no text names a concept."),
    Metric("concept_rate", "Concept rate", "", 4, "Share of explanations that name any concept."),
    Metric("fmr", "FMR", "higher", 4, "Share of explanations that name a concept of their record."),
    Metric("fmr_token", "FMR (token)", "higher", 4, "FMR as PETER's script has it: single words, letter case counts."),
    Metric("gt_fmr", "GT-FMR", "higher", 4, "MAPLE's: FMR by characters, so that `art` is found in `start`."),
    Metric("ifmr", "iFMR", "higher", 4, "MAPLE's: share of texts that contain a train concept of their item."),
    Metric("fcr", "FCR", "higher", 4, "Share of all train concepts that are named at least once."),
    Metric("fcr_token", "FCR (token)", "higher", 4, "PETER's: concepts of all splits, single words alone are found."),
    Metric("fcr_test", "FCR (test)", "higher", 4, "CIER's: share of the concepts of the records judged that is named."),
    Metric("ifcr", "iFCR", "higher", 4, "MAPLE's: share of an item's train concepts that its texts contain, mean."),
    Metric("div", "DIV", "lower", 4, "Mean number of concepts that two explanations share."),
    Metric("div_token", "DIV (token)", "lower", 4, "DIV as PETER's script has it: single words alone are found."),
)
EXPLOITS = (
    Metric("concepts_named", "Concepts a text", "", 3, "Concepts of an explanation, mean."),
    Metric("concept_words", "Concept words", "", 4, "Share of an explanation's words that are of concepts, mean."),
    Metric("list_rate", "Lists", "lower", 4, "Share of texts of whose words half or more are of concepts."),
    Metric("repeat_rate", "Repeats", "lower", 4, "Share of an explanation's words that came before in it, mean."),
)
RATINGS = (
    Metric("rmse", "RMSE", "lower", 4, "Root mean squared error of the predicted rating, clipped to the scale."),
    Metric("mae", "MAE", "lower", 4, "Mean absolute error of the predicted rating, clipped to the scale."),
    Metric("rmse_bias", "RMSE of bias", "", 4, "RMSE of mean + user bias + item bias of train: to be beaten."),
    Metric("mae_bias", "MAE of bias", "", 4, "MAE of the same."),
    Metric("rmse_constant", "RMSE of mean", "", 4, "RMSE of the mean rating of train: to be beaten."),
    Metric("mae_constant", "MAE of mean", "", 4, "MAE of the same."),
)
SENTIMENT = (
    Metric("sentiment_match", "Sentiment match", "higher", 4, "Share of texts as positive or negative as the rating."),
    Metric(
        "sentiment_match_balanced",
        "Sentiment match (balanced)",
        "higher",
        4,
        "Mean over liked and disliked.",
    ),
    Metric(
        "sentiment_match_predicted", "Sentiment match (predicted)", "higher", 4, "The same with the predicted rating."
    ),
    Metric("sentiment_reference", "Sentiment of references", "", 4, "How often the words tell it of the references."),
    Metric("sentiment_pos_pos", "Liked, says so", "", 4, "Share of records: rating above the middle, positive text."),
    Metric("sentiment_pos_neg", "Liked, says not", "", 4, "Rating above the middle, text negative."),
    Metric("sentiment_neg_pos", "Disliked, says not", "", 4, "Rating below the middle, text positive."),
    Metric("sentiment_neg_neg", "Disliked, says so", "", 4, "Rating below the middle, text negative."),
)
DRIVERS = (
    Metric(
        "driver_precision", "Precision", "higher", 4, "Of the concepts that are named, the share that drove the rating."
    ),
    Metric("driver_recall", "Recall", "higher", 4, "Of the concepts that drove the ratings, the share that is named."),
    Metric(
        "names_a_driver",
        "Names a driver",
        "higher",
        4,
        "Share of explanations that name a concept that drove the rating.",
    ),
    Metric(
        "polarity_agreement",
        "Polarity agreement",
        "higher",
        4,
        "Of the drivers that are named, the share that the text calls good or bad as the rating's truth does.",
    ),
)
REWARDS = (
    Metric("ccr", "CCR", "higher", 3, "Concept-consistent reward of the explanations, by its model as trained."),
    Metric("hqar", "HQAR", "higher", 3, "High-quality alignment reward, by the discriminator as it was before PPO."),
)
STANDARD = (
    Metric("sacrebleu", "sacreBLEU", "higher", 2, "Corpus BLEU-4 by sacreBLEU (see its signature)."),
    Metric("chrf", "chrF", "higher", 2, "Character n-gram F by sacreBLEU (see its signature)."),
    *(
        Metric(
            f"rouge_score_{kind}_{part}", f"ROUGE-{kind.upper()} {part.upper()}", "higher", 2, "By rouge-score, x100."
        )
        for kind in "12l"
        for part in "frp"
    ),
    Metric("self_bleu", "Self-BLEU", "lower", 2, "BLEU-4 of each text against all others (Texygen), mean, x100."),
    Metric("bert_score_f", "BERTScore", "higher", 4, "F1 of greedily matched contextual word vectors, mean."),
    Metric("bert_score_r", "BERTScore R", "higher", 4, "Recall of the same."),
    Metric("bert_score_p", "BERTScore P", "higher", 4, "Precision of the same."),
    Metric("sentence_cosine", "Sentence cosine", "higher", 4, "Cosine of mean vectors of text and reference, mean."),
    Metric("perplexity", "Perplexity", "lower", 2, "Of the explanations under the named language model, by token."),
    Metric("perplexity_reference", "Perplexity of references", "", 2, "Of the references under the same model."),
    Metric("bart_score", "BARTScore", "higher", 4, "Mean log-probability of the reference given the explanation."),
    Metric("bart_score_p", "BARTScore P", "higher", 4, "Of the explanation given the reference."),
    Metric("mauve", "MAUVE", "higher", 4, "Area under the divergence curve of generated and reference texts."),
)
ALL = {
    metric.key: metric
    for group in (TEXT, DIVERSITY, CONCEPTS, EXPLOITS, RATINGS, SENTIMENT, DRIVERS, REWARDS, STANDARD)
    for metric in group
}
# What tables show and paired tests compare unless asked for others.
MAIN = (
    *("bleu_1", "bleu_3", "bleu_4", "rouge_1_f", "rouge_2_f", "rouge_l_f"),
    *("distinct_1", "distinct_2", "usr"),
    *("fmr", "fcr", "div", "cor", "cmr", "concept_rate", "list_rate"),
    *("rmse", "mae", "sentiment_match_balanced"),
    *("sacrebleu", "chrf", "rouge_score_1_f", "rouge_score_2_f", "rouge_score_l_f", "self_bleu"),
    *("bert_score_f", "sentence_cosine", "perplexity", "bart_score", "mauve"),
)
