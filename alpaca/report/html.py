"""A comparison as one self-contained page."""

from alpaca.report.records import Comparison


def page(comparison: Comparison) -> str:
    """The page."""
    return f"<!doctype html><title>{comparison.title}</title>"
