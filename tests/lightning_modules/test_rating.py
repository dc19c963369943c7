"""The rating stage: what is fitted, and that a batch never reads what it wrote itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.graph import GraphConfig, build_graph
from datamodules.importers.embedded import write_embedded
from datamodules.rating import RatingData
from datamodules.sampling import make_sampler
from lightning_modules.rating import RatingConfig, RatingModule
from models.hgt import HGTConfig

SIZE, LAYERS = 24, 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_embedded(30, 20, 5, tmp_path_factory.mktemp("rating") / "corpus")


def module_of(corpus, leave_one_out=True, sampled=False):
    torch.manual_seed(0)
    config = RatingConfig(model=HGTConfig(width=8, heads=2, layers=LAYERS, dropout=0.0, mlp_width=8))
    made = RatingModule(config, build_graph(corpus, GraphConfig()), corpus, leave_one_out, sampled)
    made.logged = {}
    made.log = lambda name, value, **options: made.logged.update({name: float(value)})
    return made


def batches(corpus, module, ranks=1, accumulate=1):
    """The parts of the first optimizer step."""
    graph = GraphConfig(sampling="neighbor" if module.sampled else "full", neighbors=0)
    sampler = make_sampler(module.graph, graph, LAYERS, 7)
    for rank in range(ranks):
        data = RatingData(corpus, SIZE, accumulate, 7, sampler, module.leave_one_out)
        data.trainer = SimpleNamespace(world_size=ranks, global_rank=rank)
        yield from (batch for _, batch in zip(range(accumulate), data.train_dataloader(), strict=False))


def mean_square(corpus, module, records, graph_records):
    """The mean squared error of `records` on the graph that `graph_records` alone make."""
    states = module.model.encode(build_graph(corpus, GraphConfig(), graph_records).edges())
    users, items = (torch.from_numpy(column[records].astype(np.int64)) for column in (corpus.user_R, corpus.item_R))
    return float((module.model.rate(states, users, items) - torch.from_numpy(corpus.rating_R[records])).square().mean())


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_the_loss_is_the_squared_error_on_the_graph_that_the_other_records_make(corpus, leave_one_out, sampled):
    module = module_of(corpus, leave_one_out, sampled)
    (batch,) = batches(corpus, module)
    records, train = batch.record_B.numpy(), corpus.rows("train")
    others = np.setdiff1d(train, records)
    blind, seeing = (mean_square(corpus, module, records, of) for of in (others, train))
    assert abs(blind - seeing) > 1e-3, "the test has no power if nothing would leak"
    assert float(module.training_step(batch, 0)) == pytest.approx(blind if leave_one_out else seeing, rel=1e-4)


@pytest.mark.parametrize(("ranks", "accumulate"), [(2, 1), (1, 3), (2, 2)])
def test_the_parts_of_a_step_hide_the_whole_of_it_and_average_to_its_loss(corpus, ranks, accumulate):
    module = module_of(corpus)
    (whole,) = batches(corpus, module)
    parts = [float(module.training_step(batch, 0)) for batch in batches(corpus, module, ranks, accumulate)]
    assert len(parts) == ranks * accumulate
    assert np.mean(parts) == pytest.approx(float(module.training_step(whole, 0)), rel=1e-4)


@torch.no_grad()
def test_validation_reads_the_whole_graph_and_clips_to_the_scale(corpus):
    module = module_of(corpus)
    module.model.mlp[-1].bias.fill_(9.0)  # all predictions lie above the scale
    data = RatingData(corpus, SIZE, 1, 7)
    data.trainer = SimpleNamespace(world_size=1, global_rank=0)
    for batch in data.val_dataloader():
        module.validation_step(batch, 0)
    module.on_validation_epoch_end()
    expected = np.sqrt(np.square(5.0 - corpus.rating_R[corpus.rows("valid")]).mean())
    assert module.logged["rating/valid/rmse"] == pytest.approx(expected, rel=1e-5)
