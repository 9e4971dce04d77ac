"""The command line: parses, calls a pipeline, translates errors. The only place that prints."""
