"""What a job leaves behind and what people watch: folders, predictions, pictures, the display, MLflow.

Files here are written and read; jobs, actors and the driver are not known.
"""
