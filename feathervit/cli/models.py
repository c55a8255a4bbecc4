"""The verbs `models` and `recipes`."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import MODELS, to_dict
from ..recipes import RECIPES
from ..weights import list_weights
from .flags import JsonFlag
from .printing import new_table, print_json, print_result


@dataclass
class Models(JsonFlag):
    """List the named models with their parameters, multiply-accumulates, tokens and sources."""

    def execute(self) -> int:
        from ..models import create_model
        from ..models.cost import cost

        rows = []
        for name, known in MODELS.items():
            costs = cost(create_model(name, num_classes=100), known.img_size, 3)
            rows.append(
                {
                    "name": name,
                    "parameters": costs.parameters,
                    "macs": costs.macs,
                    "tokens": costs.tokens,
                    "img_size": known.img_size,
                    "patch_size": known.patch_size,
                    "source": known.source,
                }
            )
        if self.json:
            print_json({"models": rows, "weights": list_weights()})
            return 0
        table = new_table("name", "parameters", "MMACs", "tokens", "image", "patch", "source")
        for r in rows:
            size = [str(r["tokens"]), f"{r['img_size']} px", f"{r['patch_size']} px", r["source"]]
            table.add_row(r["name"], f"{r['parameters']:,}", f"{r['macs'] / 1e6:.0f}", *size)
        print_result(table)
        print("With a head of 100 classes; all experts are computed. Use timm:NAME for any timm model.")
        print(
            f"Weights that come with the package (--from, evaluate, export, pretrained=True): {', '.join(list_weights())}."
        )
        return 0


@dataclass
class Recipes(JsonFlag):
    """List the recipes with their sources, requirements and expected results."""

    def execute(self) -> int:
        rows = [
            {"name": r.name, "source": r.source, "needs": r.needs, "expected": r.expected, "cost": r.cost}
            for r in RECIPES.values()
        ]
        if self.json:
            print_json({"recipes": [row | {"config": to_dict(RECIPES[row["name"]].config)} for row in rows]})
            return 0
        table = new_table("name", "source", "needs", "expected", "cost")
        for row in rows:
            table.add_row(*row.values())
        print_result(table)
        return 0
