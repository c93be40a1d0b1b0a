"""Reading of Hugging Face's ``config.json``: from the names and defaults of its classes to the fields of a model."""
