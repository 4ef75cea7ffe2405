"""Metrics, intervals, calibration and promotion; knows numbers."""
