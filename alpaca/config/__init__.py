"""The schema: one dataclass per section of a run's configuration, plain values only.

Every field is made by `setting()`, which carries what the field means, which part of a result it can
change (`affects`) and the values it may take. `alpaca/checks.py` enforces the values,
`alpaca/signature.py` hashes the fields that affect training, `alpaca/cli.py` registers the schema with
Hydra as the first entry of the defaults list, so that an unknown key anywhere is an error.
"""

from dataclasses import dataclass, field

from alpaca.config.data import DataSourceConfig, FilterConfig, TemplateConfig
from alpaca.config.engine import EngineConfig
from alpaca.config.evaluation import (
    DecodeConfig,
    EvaluationConfig,
    GenerateConfig,
    LmEvalConfig,
    LossConfig,
    QuickConfig,
    SafetyConfig,
)
from alpaca.config.fields import EVALUATION, GENERATION, NOTHING, TRAINING, setting
from alpaca.config.generation import GenerationConfig, TaskFilterConfig
from alpaca.config.judge import JudgeConfig
from alpaca.config.model import AdapterConfig, ModelConfig
from alpaca.config.training import OptimizerConfig, ParallelismConfig, TrainConfig

__all__ = [
    "EVALUATION",
    "GENERATION",
    "NOTHING",
    "TRAINING",
    "AdapterConfig",
    "Config",
    "DataSourceConfig",
    "DecodeConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FilterConfig",
    "GenerateConfig",
    "GenerationConfig",
    "JudgeConfig",
    "LmEvalConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelismConfig",
    "QuickConfig",
    "SafetyConfig",
    "SweepConfig",
    "TaskFilterConfig",
    "TemplateConfig",
    "TrackerConfig",
    "TrainConfig",
    "setting",
]


@dataclass
class TrackerConfig:
    """Weights & Biases. The run directory is always written, whatever is chosen here."""

    name: str = setting("", NOTHING, "Name of the YAML.")
    mode: str = setting(
        "auto",
        NOTHING,
        "auto is what WANDB_MODE says, else online when a key is configured, else offline.",
        choices=("auto", "online", "offline", "disabled"),
    )
    project: str | None = setting(None, NOTHING, "W&B project; null is WANDB_PROJECT, else alpaca.")
    entity: str | None = setting(None, NOTHING, "W&B user or team; null is WANDB_ENTITY, else the key's default.")
    group: str | None = setting(None, NOTHING, "W&B group; null is WANDB_RUN_GROUP, else the run's name.")


@dataclass
class SweepConfig:
    """How the runs of a multirun are worked off."""

    parallel_jobs: int = setting(
        1, NOTHING, "Runs of a multirun at once on this machine, each with accelerators of its own", at_least=1
    )
    dry_run: bool = setting(
        False, NOTHING, "Show the runs of a multirun, what each costs and what is already there; start none."
    )
    retry_failed: bool = setting(
        True, NOTHING, "Run failed runs of a sweep again, from a checkpoint where there is one; false leaves them."
    )
    objective: str = setting(
        "eval/loss",
        NOTHING,
        "Metric of a run's summary that a searching sweeper, such as Optuna's, gets for it: hydra/sweeper=optuna.",
    )
    baseline: str | None = setting(
        None,
        NOTHING,
        "Settings of the runs that the report compares the others with, as adapter.rank=8; null is the first job's.",
    )
    one_at_a_time: list[str] = setting(
        [],
        NOTHING,
        "Changes, each one or more overrides: beside the grid as it is, a multirun has the grid with each of them.",
    )


@dataclass
class Config:
    """A run: `python -m alpaca.run` composes one of these from `conf/` and the command line."""

    name: str = setting("run", NOTHING, "Folder under outputs/ and W&B group of runs that belong together.")
    output_dir: str | None = setting(None, NOTHING, "Folder of this run; null is outputs/<name>/<time>-<signature>.")
    notes: str = setting("", NOTHING, "Free text, logged with the run.")
    extra_tags: list[str] = setting([], NOTHING, "W&B tags beside the computed ones.")
    model: ModelConfig = field(default_factory=ModelConfig)
    data_source: DataSourceConfig = field(default_factory=DataSourceConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
