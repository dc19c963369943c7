"""Lengths of the texts and how well predicted ratings are calibrated, as inline SVG."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.report_charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, number, ticks
from launch.report_html import Html, join, tag
from metrics.phrases import tokenize

BINS = 24
CALIBRATION_BINS = 8
REFERENCE = "Reference"
PALETTE = 6  # classes s0 to s5 of report.css

Records = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float]]


def plots(predictions: Mapping[str, Records]) -> Html:
    """How long texts are, and what users gave where the systems predicted x; empty without predictions."""
    if not predictions:
        return Html()
    figures = [_lengths(predictions), *_calibration(predictions)]
    return tag("div", *figures, class_="charts wide")


def _lengths(predictions: Mapping[str, Records]) -> Html:
    lengths = {name: [len(tokenize(row["explanation"])) for row in rows] for name, rows in predictions.items()}
    lengths[REFERENCE] = [len(tokenize(row["reference"])) for row in next(iter(predictions.values()))]
    step = max(1, -(-(max(max(values, default=0) for values in lengths.values()) + 1) // BINS))
    series: dict[str, Points] = {}
    for name, values in lengths.items():
        counts = [0] * (max(values, default=0) // step + 1)
        for value in values:
            counts[value // step] += 1
        series[name] = [((place + 0.5) * step, 100 * count / max(len(values), 1)) for place, count in enumerate(counts)]
    means = {name: f"mean {sum(values) / max(len(values), 1):.1f}" for name, values in lengths.items()}
    told = "Share of texts (%) by number of words" + (f", {step} at a time." if step > 1 else ".")
    return _figure("Words of a text", series, means, told, diagonal=False)


def _calibration(predictions: Mapping[str, Records]) -> list[Html]:
    alike: list[tuple[list[str], Points]] = []  # systems that share one rating model are drawn once
    for name, rows in predictions.items():
        pairs = [
            (row["predicted_rating"], row["rating"])
            for row in rows
            if row.get("rating") is not None and row.get("predicted_rating") is not None
        ]
        points = calibration(pairs)
        names = next((names for names, known in alike if known == points), None)
        if names is not None:
            names.append(name)
        elif points:
            alike.append(([name], points))
    if not alike:
        return []
    series = {", ".join(names): points for names, points in alike}
    gaps = {name: sum(abs(mean - given) for mean, given in points) / len(points) for name, points in series.items()}
    told = {name: f"mean gap {gap:.2f}" for name, gap in gaps.items()}
    note = (
        f"Records in {CALIBRATION_BINS} equal parts by predicted rating: mean rating given over mean rating predicted. "
        "On the diagonal, predictions are right on average."
    )
    return [_figure("Calibration of ratings", series, told, note, diagonal=True)]


def calibration(pairs: Sequence[tuple[float, float]]) -> Points:
    """(mean predicted, mean given) of equal parts of the records, in ascending order of the prediction."""
    ordered = sorted(pairs)
    parts = min(CALIBRATION_BINS, len(ordered))
    edges = [len(ordered) * part // parts for part in range(parts + 1)] if parts else []
    points = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        part = ordered[low:high]
        points.append((sum(p for p, _ in part) / len(part), sum(r for _, r in part) / len(part)))
    return points


def _figure(title: str, series: Mapping[str, Points], told: Mapping[str, str], note: str, diagonal: bool) -> Html:
    legend = [
        tag("span", tag("i", class_=f"swatch s{place % PALETTE}"), f"{name} ", tag("b", told[name]), class_="key")
        for place, name in enumerate(series)
    ]
    caption = tag("figcaption", tag("span", title, class_="title"), tag("span", *legend, class_="legend"))
    return tag("figure", caption, _svg(title, series, diagonal), tag("p", note, class_="note"))


def _svg(title: str, series: Mapping[str, Points], diagonal: bool) -> Html:
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points] + ([] if diagonal else [0.0])
    both = [*xs, *ys] if diagonal else []
    x_ticks, y_ticks = (ticks(min(values), max(values)) for values in (both or [0.0, *xs], both or ys))
    x, y = _scale(x_ticks, LEFT, WIDTH - RIGHT), _scale(y_ticks, HEIGHT - BOTTOM, TOP)
    parts = [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(t), y2=y(t), class_="grid") for t in y_ticks]
    parts += [tag("text", number(t), x=LEFT - 8, y=y(t) + 4, text_anchor="end") for t in y_ticks]
    parts += [tag("text", number(t), x=x(t), y=HEIGHT - 6, text_anchor="middle") for t in x_ticks]
    if diagonal:
        ends = x_ticks[0], x_ticks[-1]
        parts.append(tag("polyline", points=" ".join(f"{x(t)},{y(t)}" for t in ends), class_="line diagonal"))
    for place, (name, points) in enumerate(series.items()):
        path = " ".join(f"{x(a)},{y(b)}" for a, b in points)
        parts.append(tag("polyline", points=path, class_=f"line s{place % PALETTE}"))
        for a, b in points:
            dot = tag("title", f"{name}: {number(a)}, {number(b)}")
            parts.append(tag("circle", dot, cx=x(a), cy=y(b), r=3, class_=f"dot s{place % PALETTE}"))
    told = "; ".join(f"{name}: {len(points)} points" for name, points in series.items())
    return tag("svg", join(parts), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {told}")


def _scale(places: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, span = places[0], places[-1] - places[0]
    return lambda value: round(start + (value - low) / span * (end - start), 1)
