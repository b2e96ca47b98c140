"""The record of a job and its display: folders, predictions, tables, pictures, MLflow.

Files here are written and read; jobs, actors and the driver are not known.
"""
