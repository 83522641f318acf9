"""The HTTP server: models, batching, admission control and a web page."""
