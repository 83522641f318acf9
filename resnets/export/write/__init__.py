"""Write models in each format."""
