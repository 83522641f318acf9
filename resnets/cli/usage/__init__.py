"""The arguments of commands: `--help`, usage errors and the reference page are made from them."""
