"""The record of a job and its display: folders, predictions, tables, pictures, MLflow.

These modules write and read files. They do not depend on jobs, actors or the driver.
"""
