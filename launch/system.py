"""What the engine has to know of a system: its stages, and what each of them depends on.

A stage states each fact once. The order of stages, which keys make a finished stage stale, which splits a corpus must
have and which keys may change when a checkpoint is gone on from are all derived from it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One trained part of a system: it reads folders, trains one network and writes one folder."""

    name: str  # folder of the run, section of the config and prefix of its figures: a role, such as "explanation"
    needs: tuple[str, ...] = ()  # stages whose products it reads
    keys: tuple[str, ...] = ()  # sections that its product depends on beside its own and those of its needs
    splits: tuple[str, ...] = ("train", "valid")  # splits of the corpus that it reads
    length: tuple[str, ...] = ("fit.epochs", "fit.patience")  # keys of its section that say how long, not what


@dataclass(frozen=True)
class System:
    """A published method: stages in the order in which they are trained."""

    name: str
    stages: tuple[Stage, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the stages, in their order."""
        return tuple(stage.name for stage in self.stages)

    def stage(self, name: str) -> Stage:
        """The stage of that name; KeyError if there is none."""
        return {stage.name: stage for stage in self.stages}[name]

    def depends(self, name: str) -> tuple[str, ...]:
        """What the product of a stage depends on: prefixes of config keys.

        A change of any of these keys makes a finished stage stale: seed, corpus, what the stages it needs depend on,
        and its own sections. Hardware, sharding and logging are not among them: a run may go on elsewhere.
        """
        stage = self.stage(name)
        inherited = [prefix for needed in stage.needs for prefix in self.depends(needed)]
        own = [f"{section}." for section in (*stage.keys, name)]
        return tuple(dict.fromkeys(["seed", "data.", *inherited, *own]))  # each once, in order

    def length(self, name: str) -> set[str]:
        """The config keys of a stage that say how long it runs, not what it computes."""
        return {f"{name}.{key}" for key in self.stage(name).length}
