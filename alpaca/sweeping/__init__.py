"""A sweep: runs that answer a question together. Which ones, what is already there, and how each ended.

A sweep's folder (`outputs/sweeps/<name>`, or `output_dir`) holds a directory for each run and `sweep.yaml`,
written before the first run begins, so that a run that never began is known to be missing:

    name: lora_rank                                  the sweep, and the W&B group of its runs
    question: Does a higher LoRA rank ...            first comment of sweeps/NAME.yaml, empty for a plain -m grid
    read: compare eval/loss of each rank with ...    how to read the answer, from the same comment
    baseline: adapter.rank=8                         `sweep.baseline`; left out where there is none
    jobs:
    - overrides: [sweep=lora_rank, adapter.rank=4]   all that the run is given
      differs: [adapter.rank=4]                      what sets it apart within the sweep
      folder: adapter.rank=4-0123456789              its directory beside this file; null for a refused job
      signature: '0123456789'                        null where it could not be found
      variant: '9876543210'                          the signature without the seed; null likewise
      error: "adapter.rank=0: ..."                   only for a job that was refused before it began

`expansion` makes the jobs, `record` keeps the file, `sweep` works them off, `closing` and `wandb_mark` say how a
run ended whose own process could not, `job` is the first thing a job's process runs. `elsewhere` keeps list and report
of jobs that another launcher runs, `folder` takes back what Hydra made for nothing, `damage` names damaged files.
"""
