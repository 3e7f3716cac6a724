"""The sections about training: update rule, devices, loop."""

from dataclasses import dataclass

from alpaca.config.fields import NOTHING, TRAINING, setting

BEST = ("eval/loss", "eval/perplexity", "eval/bits_per_byte", "eval/token_accuracy", "eval/watch_rougeL")


@dataclass
class OptimizerConfig:
    """Update rule, learning rate and schedule."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    kind: str = setting(
        "adamw",
        TRAINING,
        "The update rule.",
        choices=(
            "adamw",
            "adamw_8bit",
            "paged_adamw_8bit",
            "adafactor",
            "lion",
            "muon",
            "schedule_free",
            "sgd",
        ),
    )
    lr: float | None = setting(None, TRAINING, "Peak learning rate; null is adapter.default_lr x lr_factor", above=0)
    lr_factor: float = setting(1.0, TRAINING, "What this update rule multiplies adapter.default_lr by", above=0)
    betas: list[float] = setting([0.9, 0.999], TRAINING, "Decay rates of the two moments; empty for rules without.")
    eps: float | None = setting(1e-8, TRAINING, "Added to the denominator; null for rules without one. It", above=0)
    momentum: float | None = setting(
        None, TRAINING, "Decay rate of the summed gradients of sgd and muon; null elsewhere. It", at_least=0, at_most=1
    )
    weight_decay: float = setting(
        0.0, TRAINING, "Decoupled weight decay (sgd adds it to the gradient); 0 in the recipe", at_least=0
    )
    schedule: str = setting(
        "cosine", TRAINING, "Learning rate after warm-up.", choices=("cosine", "linear", "constant", "wsd")
    )
    warmup: float = setting(
        0.03, TRAINING, "Warm-up: a share of all steps below 1, a number of steps from 1 on; it", at_least=0
    )
    decay_share: float = setting(
        0.1, TRAINING, "With schedule=wsd the share of all steps over which the rate falls to 0; it", above=0, at_most=1
    )
    state_precision: str = setting(
        "fp32",
        TRAINING,
        "Storage of adamw's two moments; bf16 halves the optimizer's memory and rounds them by chance.",
        choices=("fp32", "bf16"),
    )


@dataclass
class ParallelismConfig:
    """How many devices work on one run, and how they share it. Never changes the experiment."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    sharding: str = setting(
        "none",
        NOTHING,
        "none: one device; replicate: a full copy on each (DDP); full: weights, gradients and optimizer state split "
        "(FSDP2); grad_op: whole weights stay from forward to backward; hybrid: split in a node, copied across nodes.",
        choices=("none", "replicate", "full", "grad_op", "hybrid"),
    )
    offload: bool = setting(False, NOTHING, "Keep split weights and optimizer state in the host's memory.")
    devices: int | None = setting(
        None, NOTHING, "Devices on each node; null is 1 on CPU and all accelerators otherwise", at_least=1
    )
    nodes: int = setting(1, NOTHING, "Machines that take part; the same command is run on each", at_least=1)
    rendezvous: str | None = setting(
        None, NOTHING, "HOST:PORT where several machines meet: the name of one of them and a free port."
    )
    timeout_s: float = setting(
        600, NOTHING, "A rank that does not move for so long is named and the run ends; it", above=0
    )


@dataclass
class TrainConfig:
    """The loop: what makes a step, how long it goes on, what is computed in which precision."""

    seed: int = setting(
        0, TRAINING, "Order of the examples, initial adapter weights and dropout", at_least=0, at_most=2**32 - 1
    )
    epochs: float = setting(3.0, TRAINING, "Passes over the training rows", above=0)
    max_steps: int | None = setting(None, TRAINING, "Stop after this many optimizer steps", at_least=1)
    global_batch_size: int = setting(128, TRAINING, "Examples per optimizer step over all ranks", at_least=1)
    micro_batch_tokens: int | None = setting(
        None, NOTHING, "Tokens one rank pushes through the model at once; null chooses by rule", at_least=16
    )
    max_length: int = setting(512, TRAINING, "Longest example in tokens, prompt and response", at_least=8)
    over_length: str = setting(
        "truncate",
        TRAINING,
        "A longer row: truncate cuts the end of its response, drop leaves it out, error stops.",
        choices=("truncate", "drop", "error"),
    )
    train_on_prompt: bool = setting(
        False, TRAINING, "Labels on the prompt's tokens too; held-out rows are scored on responses all the same."
    )
    train_on_eos: bool = setting(
        True, TRAINING, "Label on the EOS that ends a response; without it nothing learns to stop."
    )
    cache: bool = setting(True, NOTHING, "Keep tokenised rows in the cache folder and take them from there.")
    precision: str = setting(
        "auto",
        TRAINING,
        "Compute precision; auto is bf16 where the device does it well, else fp32.",
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    packing: str = setting(
        "on",
        NOTHING,
        "on: a micro-batch is one flat sequence without padding where that is exact; off: padded rows.",
        choices=("on", "off"),
    )
    share_prefix: str = setting(
        "auto",
        NOTHING,
        "Compute token prefixes that prompts have in common once; auto is on wherever it is exact.",
        choices=("auto", "on", "off"),
    )
    activation_checkpointing: str = setting(
        "off",
        NOTHING,
        "Make activations again in the backward pass instead of keeping them: on every layer, or every second one.",
        choices=("off", "on", "selective"),
    )
    compile: bool = setting(False, NOTHING, "Compile each layer with torch.compile; the first steps take minutes.")
    self_check: bool = setting(
        True,
        NOTHING,
        "Before training, compare the micro-batch with its examples one by one; if they differ, take a slower layout.",
    )
    max_grad_norm: float | None = setting(
        1.0, TRAINING, "Clip the gradient to this norm; null does not clip. It", above=0
    )
    save_every_steps: int | None = setting(None, NOTHING, "Optimizer steps between two checkpoints", at_least=1)
    save_every_epoch: bool = setting(
        True, NOTHING, "A checkpoint after every epoch, the last one for scoring and saving to fall back on."
    )
    keep_checkpoints: int = setting(
        0, NOTHING, "Newest checkpoints left when the run is finished; while it runs at least one is kept", at_least=0
    )
    rehearse_save: bool = setting(
        True, NOTHING, "After the first step save everything once and discard it, so that trouble shows at once."
    )
    resume: str = setting(
        "auto",
        NOTHING,
        "auto: go on with the newest unfinished run of the same signature; never: begin a new one; or a run directory.",
    )
    on_oom: str = setting(
        "stop",
        NOTHING,
        "Out of memory: stop with advice, or halve_micro_batch and repeat the step (one device).",
        choices=("stop", "halve_micro_batch"),
    )
    force: bool = setting(
        False, NOTHING, "Start although the plan says that memory cannot suffice (python -m alpaca.plan)."
    )
    eval_every_steps: int | None = setting(
        None, NOTHING, "Steps between two measurements of held-out loss and watched answers while training", at_least=1
    )
    keep_best: str | None = setting(
        None,
        TRAINING,
        "Measured at every eval_every_steps and at the end: the run's result is the model that was best in it, and not "
        "the last one. Null keeps the last.",
        choices=BEST,
    )
    eval_rows: int = setting(128, TRAINING, "Rows held out, chosen by a hash of their text", at_least=0)
    log_every_steps: int = setting(1, NOTHING, "Steps between two lines of metrics.jsonl", at_least=1)
