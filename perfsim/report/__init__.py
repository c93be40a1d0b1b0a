"""SO WHAT: tables, pictures and files of a run."""
