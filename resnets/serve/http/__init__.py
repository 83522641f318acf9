"""HTTP connections and request bodies, with limits for untrusted clients."""
