"""Code that every exported notebook has: the check of the weights, and its figures. Texts only; nothing runs here."""

from typing import Final

CHECK_WEIGHTS: Final = '''
def check_weights(model, expected):
    """Raise where the weight files are not those of the run. Only files that are on this machine can be checked."""
    import hashlib
    from pathlib import Path

    from tracing.models.hub import find

    folder = Path(find(model).folder)
    for name, wanted in expected.items():
        digest = hashlib.sha256()
        with open(folder / name, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != wanted:
            raise ValueError(f"{name} in {folder.name} has other weights than the run's: the numbers would differ.")
    print(f"{len(expected)} weight files are those of the run." if expected else "The weights were not checked.")
'''.strip()

SHOW: Final = '''
try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None


def labels(axis):
    return [tick.label for tick in axis.ticks]


def image(values, quantity, rows, columns, title):
    """A map with layer 0 at the bottom, coloured over the quantity's fixed domain."""
    low, high = quantity.domain
    colours = "RdBu_r" if quantity.scale == "diverging" else "viridis"
    figure, axes = plt.subplots(figsize=(2 + 0.4 * len(columns), 1.5 + 0.3 * len(rows)))
    drawn = axes.imshow(values, origin="lower", aspect="auto", cmap=colours, vmin=low, vmax=high)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    figure.colorbar(drawn, label=f"{quantity.title} ({quantity.unit})" if quantity.unit else quantity.title)
    plt.show()


def draw(result):
    """The figure of a result; False where its type is better read as a table."""
    kind = type(result).__name__
    if kind == "Grid":
        quantity = result.quantities[0]
        image(result.planes[quantity.key], quantity, labels(result.rows), labels(result.columns), result.title)
    elif kind == "Bars":
        quantity = result.quantities[0]
        figure, axes = plt.subplots(figsize=(2 + 0.25 * len(result.axis), 3))
        axes.bar(range(len(result.axis)), result.values[quantity.key])
        axes.set_xticks(range(len(result.axis)), labels(result.axis), rotation=90)
        axes.set_ylabel(quantity.title)
        axes.set_title(result.title)
        plt.show()
    elif kind == "Curve":
        figure, axes = plt.subplots()
        for line in result.series:
            axes.plot(result.x, line.y, label=line.title)
            if line.low is not None:
                axes.fill_between(result.x, line.low, line.high, alpha=0.2)
        axes.set_xscale("log" if result.log_x else "linear")
        axes.set_xlabel(f"{result.x_title} ({result.x_unit})" if result.x_unit else result.x_title)
        axes.set_ylabel(result.quantity.title)
        axes.set_title(result.title)
        axes.legend()
        plt.show()
    elif kind == "Attention":
        quantity = result.quantities[0]
        plane = result.planes[quantity.key]
        image(plane[0, 0], quantity, list(result.tokens), list(result.tokens), f"{result.title}: layer 0, head 0")
    else:
        return False
    return True


for name, result in results.items():
    if plt is None or not draw(result):
        print(f"{result.title} ({name})")
        if hasattr(result, "top"):
            for source, reader, score in result.top(20):
                print(f"  {source} -> {reader}  {score:.4g}")
        else:
            print("\\n".join(result.to_csv().splitlines()[:30]))
'''.strip()
