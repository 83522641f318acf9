"""Write resnets/models/costs.json: parameters and multiply-adds of all models of the catalog.

    make reference

`resnets info` lists them from this file; counting them anew takes ten seconds.
"""

import json
from pathlib import Path

from resnets.models import build, catalog, cost

FILE = Path(__file__).parents[1] / "resnets" / "models" / cost.COSTS


def main() -> None:
    """Count all and write the file."""
    lines = []
    for name in catalog.list_models():
        with cost.shapes_only():
            counted = cost.count_cost(build(catalog.spec(name)))
        lines.append(f"{json.dumps(name)}: {[counted.parameters, counted.multiply_adds]}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
