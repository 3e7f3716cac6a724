"""What people type from other trainers, and what it is called here: the table behind "did you mean ...?".

Names of arguments of transformers, TRL, peft, axolotl, LLaMA-Factory, alpaca-lora and Stanford Alpaca's own script. A
name counts alone and below a section (`learning_rate`, `train.learning_rate`), with `-` for `_`, and as an option
(`--learning_rate 1e-4`).
"""

BATCH = "train.global_batch_size (over all devices and accumulation; what fits at once is chosen for you)"
FILE = "data_source=json data_source.path=FILE (or data_source=NAME)"
MODEL = "model.weights=ORG/NAME (a hub id or a folder)"
LENGTH = "train.max_length"

SETTINGS = {
    # model
    "model.path": "model.weights",
    "model_name": MODEL,
    "model_name_or_path": MODEL,
    "base_model": MODEL,
    "pretrained_model_name_or_path": MODEL,
    "model_id": MODEL,
    "weights": "model.weights",
    "attn_implementation": "model.attention",
    "flash_attn": "model.attention",
    "flash_attention": "model.attention",
    "torch_dtype": "model.dtype",
    "load_in_4bit": "adapter=qlora",
    "load_in_8bit": "adapter=qlora_8bit",
    "quantization_bit": "adapter=qlora",
    "quantization": "adapter=qlora",
    # adapter
    "r": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target": "adapter.targets",
    "lora_target_modules": "adapter.targets",
    "lora_target_linear": "adapter.targets",
    "target_modules": "adapter.targets",
    "use_lora": "adapter=lora",
    "use_peft": "adapter=lora",
    "use_qlora": "adapter=qlora",
    "peft": "adapter=lora",
    "lora": "adapter=lora",
    "qlora": "adapter=qlora",
    "finetuning_type": "adapter=lora (or full, qlora, ...)",
    # optimizer and schedule
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "optim": "optimizer=NAME",
    "optimizer_name": "optimizer=NAME",
    "lr_scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "scheduler": "optimizer.schedule",
    "warmup_ratio": "optimizer.warmup (below 1 a share, from 1 on steps)",
    "warmup_steps": "optimizer.warmup (below 1 a share, from 1 on steps)",
    "weight_decay": "optimizer.weight_decay",
    "adam_beta1": "optimizer.betas=[0.9,0.999]",
    "adam_beta2": "optimizer.betas=[0.9,0.999]",
    "adam_epsilon": "optimizer.eps",
    "gradient_clipping": "train.max_grad_norm",
    # batches and length
    "batch_size": BATCH,
    "train_batch_size": BATCH,
    "micro_batch_size": BATCH,
    "per_device_train_batch_size": BATCH,
    "gradient_accumulation_steps": BATCH,
    "per_device_eval_batch_size": "evaluation.quick.batch_size",
    "eval_batch_size": "evaluation.quick.batch_size",
    "max_seq_length": LENGTH,
    "max_seq_len": LENGTH,
    "seq_length": LENGTH,
    "seq_len": LENGTH,
    "sequence_len": LENGTH,
    "model_max_length": LENGTH,
    "max_len": LENGTH,
    "cutoff_len": LENGTH,
    "sample_packing": "train.packing",
    "group_by_length": "train.packing (on by default)",
    # training
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "epoch": "train.epochs",
    "epochs": "train.epochs",
    "steps": "train.max_steps",
    "num_steps": "train.max_steps",
    "max_train_steps": "train.max_steps",
    "seed": "train.seed",
    "random_seed": "train.seed",
    "data_seed": "train.seed",
    "bf16": "train.precision=bf16",
    "fp16": "train.precision=fp16",
    "fp32": "train.precision=fp32",
    "tf32": "train.precision=fp32",
    "mixed_precision": "train.precision",
    "gradient_checkpointing": "train.activation_checkpointing",
    "torch_compile": "train.compile",
    "completion_only_loss": "train.train_on_prompt",
    "assistant_only_loss": "train.train_on_prompt",
    "train_on_inputs": "train.train_on_prompt",
    "train_on_input": "train.train_on_prompt",
    "val_set_size": "train.eval_rows",
    "val_size": "train.eval_rows",
    "eval_steps": "train.eval_every_steps",
    "eval_strategy": "train.eval_every_steps",
    "evaluation_strategy": "train.eval_every_steps",
    "save_steps": "train.save_every_steps",
    "save_strategy": "train.save_every_epoch",
    "save_total_limit": "train.keep_checkpoints",
    "load_best_model_at_end": "train.keep_best",
    "logging_steps": "train.log_every_steps",
    "resume_from_checkpoint": "train.resume",
    "resume": "train.resume",
    # data and prompt
    "data": FILE,
    "datasets": FILE,
    "dataset": FILE,
    "data_path": FILE,
    "data_file": FILE,
    "data_files": FILE,
    "dataset_name": FILE,
    "dataset_path": FILE,
    "train_file": FILE,
    "max_samples": "data_source.limit",
    "max_train_samples": "data_source.limit",
    "prompt_template": "template=NAME",
    "prompt_template_name": "template=NAME",
    "template_name": "template=NAME",
    "prompt_style": "template=NAME",
    "chat_template": "template=NAME (template=tokenizer is the model's own)",
    # devices
    "fsdp": "parallelism=fsdp",
    "ddp": "parallelism=ddp",
    "deepspeed": "parallelism=fsdp",
    "gpus": "parallelism=ddp parallelism.devices=N",
    "num_gpus": "parallelism=ddp parallelism.devices=N",
    "num_processes": "parallelism=ddp parallelism.devices=N",
    "nproc_per_node": "parallelism=ddp parallelism.devices=N",
    "devices": "parallelism.devices",
    "nnodes": "parallelism.nodes",
    "num_nodes": "parallelism.nodes",
    # places and W&B
    "output": "output_dir",
    "out": "output_dir",
    "out_dir": "output_dir",
    "output_path": "output_dir",
    "output_dir": "output_dir",
    "save_dir": "output_dir",
    "run_name": "name",
    "experiment_name": "name",
    "exp_name": "name",
    "report_to": "tracker=NAME (auto, online, offline, disabled)",
    "wandb": "tracker=NAME (auto, online, offline, disabled)",
    "logger": "tracker=NAME (auto, online, offline, disabled)",
    "use_wandb": "tracker=NAME (auto, online, offline, disabled)",
    "wandb_mode": "tracker.mode",
    "wandb_project": "tracker.project",
    "wandb_entity": "tracker.entity",
    "wandb_group": "tracker.group",
    "wandb_run_name": "output_dir (W&B shows the folder's name)",
    "tags": "extra_tags",
    "config": "experiment=NAME (or --config-dir DIR)",
    "dry_run": "sweep.dry_run (of one run: python -m alpaca.plan)",
}

# Options of a group under other names.
OPTIONS = {
    "adapter": {"none": "full", "null": "full", "sft": "full", "peft": "lora"},
    "tracker": {
        "none": "disabled",
        "null": "disabled",
        "no": "disabled",
        "off": "disabled",
        "wandb": "auto",
        "on": "online",
    },
    "parallelism": {
        "deepspeed": "fsdp",
        "zero": "fsdp",
        "none": "single",
        "gpu": "single",
        "cpu": "single",
        "auto": "single",
    },
    "evaluation": {"all": "[quick,loss,generate]", "false": "none", "off": "none"},
    "data_source": {"file": "json", "jsonl": "json", "csv": "json", "parquet": "json", "local": "json", "hf": "hub"},
    "template": {"chat": "tokenizer", "default": "alpaca"},
    "optimizer": {
        "adam": "adamw",
        "adamw_torch": "adamw",
        "adamw_bnb_8bit": "adamw_8bit",
        "paged_adamw": "paged_adamw_8bit",
    },
}

# Sections whose settings have names of their own, so that the nearest there is the better answer.
OWN_NAMES = ("evaluation", "generation", "sweep", "hydra")


def setting(key: str) -> str | None:
    """What `key` of another trainer is called here; None if it is not known."""
    key = key.replace("-", "_").lower()
    section, _, last = key.rpartition(".")
    if section.partition(".")[0] in OWN_NAMES:
        return None
    return SETTINGS.get(key) or SETTINGS.get(last)
