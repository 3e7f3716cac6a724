"""What a rank does: preparation, the loop, metering and the worker."""
