"""What stays of a job: its folder and checkpoints, predictions and tables, pictures, the display, MLflow.

Nothing here starts a job, an actor or a session.
"""
