"""W&B that fails, at its start or at every call, never ends a run."""

import logging

import pytest
import pytorch_lightning as pl
import torch
import wandb
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from launch.wandb_logger import GuestWandbLogger


class Down:
    """A W&B run of which everything fails."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        self.asked.append(name)
        raise OSError("W&B is\ndown")


class Line(pl.LightningModule):
    """The smallest module that logs."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, index):
        self.log("loss", loss := (self.weight * batch).sum())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture(params=["at its start", "at every call"])
def down(request, monkeypatch):
    run = Down()

    def init(**options):
        if request.param == "at its start":
            raise run.refused
        return run

    run.refused = wandb.errors.CommError("no answer in 90 s")
    monkeypatch.setattr(wandb, "init", init)
    return run


def test_a_run_goes_on_to_its_end_without_it(tmp_path, down, caplog):
    logger = GuestWandbLogger(project="p", save_dir=tmp_path, id="one")
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=1,
        logger=[CSVLogger(tmp_path, version=""), logger],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    caplog.set_level(logging.WARNING, "llm2er")
    trainer.fit(Line(), DataLoader(torch.ones(2, 1)))
    logger.log_table("samples", columns=["a"], data=[["b"]])
    logger.log_hyperparams({"lr": 1})
    logger.close()
    assert trainer.global_step == 6
    told = [record.message for record in caplog.records if record.name == "llm2er"]
    assert len(told) == 1  # and not once a step
    assert "W&B failed (" in told[0]
    assert told[0].endswith("; the run goes on without it, see metrics.csv")
    assert len((tmp_path / "lightning_logs" / "metrics.csv").read_text().splitlines()) == 7
    assert len(down.asked) <= 2  # nothing more is tried
