"""`resnets.open_data`, `check_data` and `pack_data`."""
