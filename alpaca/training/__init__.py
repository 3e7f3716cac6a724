"""What a rank does: the Trainer subclass, metering and the worker."""
