"""Pages and figures: one base template and one theme for every report of the product."""
