"""HTTP connections and request bodies: bounded parsing, limits and orderly closing."""
