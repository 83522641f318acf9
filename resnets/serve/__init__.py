"""The HTTP server: models, batching, admission control and the page to try them."""
