"""The stages of LLM2ER-EQR (methods A.2): each reads folders, trains one network, and writes one folder.

rating -> evidence -> explanation -> ccr, hqar -> ppo. What one stage hands to the next stands in the run folder and
nowhere else, so that any stage can be run alone, elsewhere, or taken from another run.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from callbacks.guards import PPOGuards, StopOnNonFinite
from callbacks.held_out import HeldOutEvaluation
from callbacks.throughput import Throughput
from datamodules.contrastive import ContrastiveData
from datamodules.explanation import ExplanationData
from datamodules.graph import fold_of_records
from datamodules.importers.tokenising import tokenised
from datamodules.prompts import PromptBuilder
from datamodules.quality import QualityData, read_high_quality, select_high_quality
from datamodules.rating import RatingData
from datamodules.rollout_prompts import RolloutPrompts
from datamodules.sampling import make_sampler
from launch.evaluate import train_knowledge
from launch.guessing import mean_rmse, unigram_loss, weak_ccr, weak_explanation, weak_hqar, weak_rating
from launch.plan import rating_batch_size
from launch.run import Run
from lightning_modules.ccr import CCRModule
from lightning_modules.collectives import barrier, world
from lightning_modules.explanation import ExplanationModule
from lightning_modules.hqar import HQARModule
from lightning_modules.ppo.adversary import Adversary
from lightning_modules.ppo.module import PPOModule
from lightning_modules.rating import RatingModule, infer_evidence, load_rating_model
from models.discriminator import begin_token, new_discriminator
from models.explainer import load_explainer, new_explainer
from models.language_model import IN_PLACE, check_context, commit_of, create_language_model, load_tokenizer
from models.text_encoder import create_encoder, load_encoder

log = logging.getLogger("llm2er")

COUNTED = 5000  # texts of a split whose words are counted
UNTOUCHED = ("nlg4rs", "nlg4rs_jsonl")  # formats whose sentences stay as they are; all others are tokenised


def rating(run: Run) -> dict:
    """Trains the HGT rating model, then reads evidence for every record."""
    config = run.config
    pl.seed_everything(config.seed, verbose=False)
    sampled = config.graph.sampling == "neighbor"
    module = RatingModule(config.rating, run.graph, run.corpus, config.graph.leave_one_out, sampled)
    fit = config.rating.fit
    sampler = make_sampler(run.graph, config.graph, config.rating.model.layers, config.seed)
    loo = config.graph.leave_one_out
    batch_size = rating_batch_size(config, len(run.corpus.rows("train")), world()[1])
    data = RatingData(run.corpus, batch_size, fit.accumulate, config.seed, sampler, loo)
    edges = sum(index.shape[1] for index in run.graph.edges().values())
    reads = f"{len(run.corpus.rows('train'))} train records and their graph of {edges} edges"
    rmse = run.fit("rating", module, data, "rating/valid/rmse", "min", reads)
    barrier()
    export = run.folder.export("rating")
    model = load_rating_model(export, run.graph).to(run.device)
    fold_R = fold_of_records(run.corpus, config.graph, config.seed)
    evidence = infer_evidence(model, run.graph, run.corpus, fold_R, config.graph, config.seed)
    run.stop_if_taken()
    if world()[0] == 0:
        evidence.save(export / "evidence.safetensors")
    return run.summary("rating", {"valid_rmse": rmse}, weak_rating(rmse, mean_rmse(run.corpus)))


def explanation(run: Run) -> dict:
    """Fine-tunes the language model on the prompts; then samples train prompts, the fakes of the HQAR stage."""
    config = run.config
    evidence = run.evidence("explanation")
    name = config.explanation.model or str(run.folder.path / IN_PLACE)
    if not config.explanation.model and world()[0] == 0:
        texts = [run.corpus.explanations[record] for record in run.corpus.rows("train").tolist()]
        texts += [config.prompt.instruction, *run.corpus.concepts]
        positions = config.prompt.max_prompt_tokens + config.prompt.max_new_tokens
        create_language_model(texts, config.explanation.new_model, positions, Path(name), config.seed)
    barrier()
    pl.seed_everything(config.seed, verbose=False)
    tokenizer = load_tokenizer(name)
    explainer = new_explainer(name, evidence.users_FND.shape[-1], config.explanation.lora)
    run.folder.note_revision("explanation", commit_of(name))
    check_context(explainer.lm, config.prompt.max_prompt_tokens, config.prompt.max_new_tokens)
    module = ExplanationModule(config.explanation, explainer, tokenizer)
    module.max_new_tokens = config.prompt.max_new_tokens
    fit = config.explanation.fit
    builder = run.builder("explanation", tokenizer)
    data = ExplanationData(builder, fit.batch_size, fit.accumulate, config.seed)
    reads = f"{name} and {run.folder.export('rating')}"
    loss = run.fit("explanation", module, data, "explanation/valid/loss", "min", reads)
    barrier()
    export, records = run.folder.export("explanation"), run.corpus.rows("train")
    if len(records) > config.explanation.samples:
        order = np.random.Generator(np.random.Philox(key=[config.seed, 6])).permutation(len(records))
        records = np.sort(records[order[: config.explanation.samples]])
    sampled = run.generate(export, records, "explanation", sample_seed=config.seed)
    run.stop_if_taken()
    if world()[0] == 0:
        write_jsonl(export / "samples.jsonl", [{"record": r, "explanation": text} for r, text in sampled.items()])
    weak = weak_explanation(loss, _unigram_loss(run, builder))
    return run.summary("explanation", {"valid_loss": loss}, weak)


def _unigram_loss(run: Run, builder: PromptBuilder) -> float:
    """The explanation stage's loss of word frequencies; counted in some thousand texts, which is enough to compare."""
    texts = {split: run.corpus.rows(split)[:COUNTED].tolist() for split in ("train", "valid")}
    tokens = {split: [builder.response(run.corpus.explanations[r]) for r in rows] for split, rows in texts.items()}
    return unigram_loss(tokens["train"], tokens["valid"], len(builder.tokenizer))


def ccr(run: Run) -> dict:
    """Trains the encoder that tells whether a text is about given concepts."""
    config, folder = run.config, run.folder.stage("ccr")
    evidence = run.evidence("ccr")
    name = config.ccr.model or str(folder / "base")
    if not config.ccr.model and world()[0] == 0:
        texts = [run.corpus.explanations[record] for record in run.corpus.rows("train").tolist()]
        create_encoder(texts + run.corpus.concepts, config.ccr.new_model, Path(name), config.seed)
    barrier()
    pl.seed_everything(config.seed, verbose=False)
    encoder, tokenizer = load_encoder(name)
    run.folder.note_revision("ccr", commit_of(name))
    fit = config.ccr.fit
    data = ContrastiveData(run.corpus, evidence, tokenizer, fit.batch_size, fit.accumulate, config.seed)
    module = CCRModule(config.ccr, encoder, tokenizer)
    reads = f"{name} and {run.folder.export('rating')}"
    accuracy = run.fit("ccr", module, data, "ccr/valid/retrieval_accuracy", "max", reads)
    pairs = sum(bool(run.corpus.mentions[record]) for record in run.corpus.rows("valid").tolist())
    figures = {"valid_retrieval_accuracy": accuracy}
    return run.summary("ccr", figures, weak_ccr(accuracy, pairs, fit.batch_size))


def high_quality_texts(run: Run) -> list[str]:
    """The set H; says what each filter left."""
    config = run.config.hqar.high_quality
    if config.file:
        texts = read_high_quality(config.file)
        if run.corpus.manifest["source"].get("format") not in UNTOUCHED:
            # By capitals and "great!" for "great !" the discriminator would know them, whatever they say.
            texts = [tokenised(text) for text in texts]
        log.info("hqar: %d high-quality explanations from %s", len(texts), config.file)
        return texts
    records, steps = select_high_quality(run.corpus, config)
    log.info("hqar: high-quality set by filters: %s", ", ".join(f"{name} {count}" for name, count in steps))
    return [run.corpus.explanations[record] for record in records.tolist()]


def hqar(run: Run) -> dict:
    """Trains the discriminator of high-quality texts against samples of the fine-tuned model."""
    config = run.config
    source = run.folder.need("explanation", "hqar")
    tokenizer = load_tokenizer(str(source / "lm"))
    builder = run.builder("hqar", tokenizer)
    samples = [row["explanation"] for row in read_jsonl(source / "samples.jsonl")]
    high = high_quality_texts(run)
    # As many of each, drawn by lot: record order is the order of the source file.
    count, rng = min(len(high), len(samples)), np.random.Generator(np.random.Philox(key=[config.seed, 4]))
    real, sampled = (
        [builder.response(texts[i]) for i in rng.permutation(len(texts))[:count]] for texts in (high, samples)
    )
    pl.seed_everything(config.seed, verbose=False)
    discriminator = new_discriminator(str(source / "lm"), config.hqar.layers, begin_token(tokenizer))
    if (source / "lm" / "adapter_config.json").is_file():
        run.folder.learning["hqar"] = "trunk and head"  # an earlier version trained the head alone
    module = HQARModule(config.hqar, discriminator)
    fit = config.hqar.fit
    data = QualityData(real, sampled, tokenizer.pad_token_id, fit.batch_size, fit.accumulate, config.seed)
    reads = f"{count} of {len(high)} high-quality texts, {count} of {len(samples)} samples of {source}"
    loss = run.fit("hqar", module, data, "hqar/valid/loss", "min", reads)
    run.stop_if_taken()
    if world()[0] == 0:
        write_jsonl(run.folder.export("hqar") / "high_quality.jsonl", [{"explanation": text} for text in high])
    figures = {"valid_loss": loss, "high_quality_texts": len(high), "used": count}
    return run.summary("hqar", figures, weak_hqar(loss, config.hqar.smoothing))


def weak_rewards(run: Run) -> list[str]:
    """What there is to say of the reward models before PPO is paid by them, whoever trained them, and when."""
    said: list[str] = []
    weights = {"ccr": run.config.ppo.lambda_ccr, "hqar": run.config.ppo.lambda_hqar}
    for name in [name for name, weight in weights.items() if weight]:
        marker = run.folder.marker(name)
        weak = list(marker["summary"].get("warnings", []))
        if name == "hqar":  # an earlier version did not look
            weak += weak_hqar(marker["summary"]["valid_loss"], marker["config"]["hqar.smoothing"])
        said += [f"is paid by the {name} stage: {sentence}" for sentence in dict.fromkeys(weak)]
    return said


def ppo(run: Run) -> dict:
    """Fine-tunes the explainer by PPO on both rewards; keeps the policy that is best on held-out prompts."""
    config = run.config
    source = run.folder.need("explanation", "ppo")
    tokenizer = load_tokenizer(str(source / "lm"))
    builder = run.builder("ppo", tokenizer)
    pl.seed_everything(config.seed, verbose=False)
    scorer = run.scorer("ppo", tokenizer)
    run.warn("ppo", weak_rewards(run))
    adversary = None
    if config.ppo.discriminator_every:
        high = read_jsonl(run.folder.need("hqar", "ppo") / "high_quality.jsonl")
        real = [builder.response(row["explanation"]) for row in high]
        fill, lr = tokenizer.pad_token_id, config.ppo.discriminator_lr
        adversary = Adversary(scorer.discriminator, real, fill, config.hqar.smoothing, lr, config.seed)
    prompts = RolloutPrompts(builder, config.ppo.rollout_batch_size, config.seed, config.ppo.samples_per_prompt)
    policy = load_explainer(source)
    check_context(policy.lm, config.prompt.max_prompt_tokens, config.prompt.max_new_tokens)
    module = PPOModule(
        config.ppo,
        policy,
        tokenizer,
        scorer,
        prompts,
        config.prompt.max_new_tokens,
        config.seed,
        adversary,
    )
    held_out = HeldOutEvaluation(
        run.folder.export("ppo"),
        (run.corpus.user_R.tolist(), run.corpus.item_R.tolist()),
        train_knowledge(run.corpus),
        config.ppo.eval_every,
        {"ccr": config.ppo.lambda_ccr, "hqar": config.ppo.lambda_hqar},
        config.ppo.max_distinct_2_drop,
        run.folder.lock.taken_by,
    )
    run.fit_stage(
        "ppo",
        module,
        None,
        [
            StopOnNonFinite(config.loss_spike, of_gradient=True),
            Throughput("ppo", config.ppo.mini_batch_size / config.ppo.accumulate / config.ppo.epochs),
            PPOGuards(config.ppo.guards),
            held_out,
        ],
        ", ".join(str(run.folder.export(name)) for name in ("explanation", "ccr", "hqar")),
        max_epochs=config.ppo.iterations,
        accumulate_grad_batches=config.ppo.accumulate,
        gradient_clip_val=config.ppo.clip or None,
    )
    return run.summary("ppo", {"held_out_before": held_out.history[0], "held_out_kept": held_out.kept}, [])


TRAINED: dict[str, Callable[[Run], dict]] = {
    "rating": rating,
    "explanation": explanation,
    "ccr": ccr,
    "hqar": hqar,
    "ppo": ppo,
}


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: Path) -> list[dict]:
    """Reads what `write_jsonl` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
