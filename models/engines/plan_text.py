"""What a TensorRT plan says of itself, read from its bytes: tensors with their types, products with what they read.

TensorRT's own inspector needs a GPU's driver. A plan carries its schedule as text, though, and that is enough to see
in which arithmetic a product runs. The text is not a documented format: what is not found there is not reported, and
a plan of another version may show nothing. Knows bytes; knows nothing of how a plan is made or run.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

_TENSOR = re.compile(rb'tensor=\{ [^\n]*?name="([^"]+)"[^\n]*? type=([a-z0-9_]+)')
_PRODUCT = re.compile(
    rb'(?:fully_connected|gemm|matmul|convolution)=\{ name="([^"]+)" output=\{[^}]*\} input=\{([^}]*)\}'
)
_TARGETS = re.compile(rb"accelerators=\{([a-z0-9 ]+)\}")
_BATCHES = re.compile(rb"value at index 0 is out of bounds \[(\d+), (\d+)\]")
_NAME = re.compile(rb'"([^"]+)"')


@dataclass(frozen=True)
class PlanProduct:
    """A product (of matrices, or a convolution) in a plan.

    name:  of its node in the ONNX graph
    types: of the tensors that it reads, as the plan calls them: half, int8, fp8_e4m3, float
    """

    name: str
    types: tuple[str, ...]


@dataclass(frozen=True)
class PlanFacts:
    """What was found.

    products:    products by name, the same for all GPUs that the plan is for
    num_tensors: tensors of each type
    targets:     GPUs that it is for: sm80 and so on
    batches:     smallest and largest number of frames of its optimisation profile; None where it is not told
    """

    products: tuple[PlanProduct, ...]
    num_tensors: Mapping[str, int]
    targets: tuple[str, ...]
    batches: tuple[int, int] | None

    def num_products(self, kind: str) -> int:
        """Return the number of products that read two tensors of type `kind` (its beginning: int8, fp8, half)."""
        return sum(sum(found.startswith(kind) for found in product.types) >= 2 for product in self.products)


def read_plan(plan: bytes) -> PlanFacts:
    """Return the facts that the text in a plan tells; nothing is found in other bytes."""
    types = {name: kind.decode() for name, kind in _TENSOR.findall(plan)}
    products: dict[str, PlanProduct] = {}
    for name, inputs in _PRODUCT.findall(plan):
        found = (types.get(read) or types.get(read.split(b"^")[0]) for read in _NAME.findall(inputs))
        text = name.decode(errors="replace")
        products.setdefault(text, PlanProduct(text, tuple(kind for kind in found if kind)))
    targets = {target.decode() for found in _TARGETS.findall(plan) for target in found.split()}
    batches = _BATCHES.search(plan)
    return PlanFacts(
        products=tuple(products.values()),
        num_tensors=dict(Counter(types.values())),
        targets=tuple(sorted(targets, key=lambda target: (len(target), target))),
        batches=(int(batches[1]), int(batches[2])) if batches else None,
    )
