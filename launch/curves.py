"""The curves of a stage in metrics.csv, which a run that goes on continues where its checkpoint left them."""

import csv
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger

from callbacks.durable import sync
from lightning_modules.collectives import world


def continued_csv(run_dir: Path, stage: str, rows: int) -> CSVLogger:
    """A logger whose file begins with the first `rows` rows that it already has (rank 0 writes).

    Lightning's own deletes the file: the curves of a run that was interrupted would begin in their middle.
    """
    logger = CSVLogger(run_dir, name=stage, version="")
    if world()[0] == 0:
        path = run_dir / stage / "metrics.csv"
        kept = path.with_name("metrics.kept.csv")
        if not kept.is_file() and path.is_file() and rows:
            path.rename(kept)  # a start that is cut off here finds it again
        experiment = logger.experiment
        if kept.is_file():
            with kept.open(encoding="utf-8", newline="") as file:
                experiment.metrics = [row for _, row in zip(range(rows), csv.DictReader(file), strict=False)]
            experiment.save()
            if path.is_file():
                sync(path)
            kept.unlink()
    return logger
