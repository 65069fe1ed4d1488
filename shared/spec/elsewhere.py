"""Fields of job specs that other services and libraries have, and what a job has instead: said when one is refused."""

from __future__ import annotations

from collections.abc import Collection

NAMES_BY_ANSWER = {
    "gradq sends no notifications; wait with `gradq wait`, GET /v1/jobs/{id}?until=terminal, or the event stream": """
        webhook webhooks webhook_url callback callbacks callback_url notify notification notifications on_success
        on_failure on_complete email slack""",
    "a spec is one job; submit one for each combination, with a label in common to list and compare them by": """
        sweep sweeps grid grid_search param_grid search_space parameter_space hyperparameters trials n_trials matrix
        tune tuner runs repeat replicas""",
    "a job is queued when it is submitted; submit it from cron or a systemd timer, with an Idempotency-Key": """
        cron crontab cron_schedule timer run_at start_at schedule_at start_time not_before delay recurring interval""",
    "jobs do not wait for each other; submit the next when the first has ended, with init_from for its weights": """
        depends_on dependencies needs requires parent parents workflow pipeline dag""",
    "jobs run no code of their own; architecture, loss, optimizer and the other fields describe the training": """
        command cmd script code entrypoint entry_point image docker_image container args arguments env environment
        requirements""",
    "it is set on the worker: `gradq worker --slots … --threads …`": """
        num_workers workers threads num_threads cpus cpu memory resources instance_type""",
    "the owner is that of the token; labels may name teams and projects": """
        owner user username project team group namespace""",
    "gradients are not clipped; a smaller lr, or a schedule with a warm-up, keeps a loss from diverging": """
        clip clip_grad grad_clip gradient_clip clip_norm max_grad_norm gradient_clipping""",
}
"""What there is instead -> names of fields elsewhere."""

NAMES_BY_FIELD = {
    "architecture": "model net network arch model_type model_name backbone layers",
    "lr": "learning_rate learningrate step_size alpha eta",
    "epochs": """num_epochs n_epochs max_epochs num_train_epochs iterations n_iter max_iter steps max_steps num_steps
        train_steps""",
    "batch_size": "batch bs minibatch mini_batch_size minibatch_size train_batch_size per_device_train_batch_size",
    "schedule": "scheduler lr_scheduler lr_schedule lr_decay decay warmup warmup_steps",
    "dataset": "data train_data training_data data_dir data_path train_dataset",
    "loss": "criterion loss_fn loss_function objective",
    "labels": "tags tag metadata annotations",
    "name": "title job_name run_name display_name description experiment experiment_name",
    "seed": "random_seed random_state manual_seed rng_seed",
    "device": "gpu gpus num_gpus n_gpus accelerator cuda use_cuda use_gpu",
    "precision": "dtype fp16 bf16 amp mixed_precision half",
    "max_seconds": "timeout time_limit max_time max_runtime max_duration timeout_seconds",
    "max_attempts": "retries max_retries num_retries retry restarts max_restarts backoff_limit",
    "validation": "val_split validation_split val_fraction valid_size val_size test_size test_split",
    "augment": "augmentation augmentations transform transforms data_augmentation",
    "early_stopping": "early_stop patience early_stopping_patience",
    "init_from": """pretrained weights initial_weights checkpoint_path resume resume_from load_from restore_from
        finetune_from""",
    "init": "initializer weight_init initialization kernel_initializer",
    "deterministic": "reproducible determinism cudnn_deterministic",
    "priority": "queue priority_class nice",
    "gradients": "backward backprop autograd",
}
"""A field of a job -> its names elsewhere."""

_ANSWERS = {name: answer for answer, names in NAMES_BY_ANSWER.items() for name in names.split()}
_FIELDS = {name: field for field, names in NAMES_BY_FIELD.items() for name in names.split()}


def instead_of(name: str, fields: Collection[str]) -> str | None:
    """What there is instead of a field with this name, which no spec has; None if the name is not a usual one.

    `fields`: those that the spec has.
    """
    field = field_meant(name)
    return f"use '{field}'" if field in fields else _ANSWERS.get(_plain(name))


def field_meant(name: str) -> str | None:
    """The field of a job that has this name elsewhere; None if there is none."""
    return _FIELDS.get(_plain(name))


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")
