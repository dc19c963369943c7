"""Curves of the stages as inline SVG, drawn here so that a report needs no network and no script."""

import math
from dataclasses import dataclass
from itertools import pairwise

from launch.report_folder import Curve
from launch.report_html import Html, join, tag

WIDTH, HEIGHT = 400, 208
LEFT, RIGHT, TOP, BOTTOM = 50, 8, 10, 26
MAX_POINTS = 120  # of a curve; a longer one is drawn as means of neighbouring steps

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Which logged figures one chart shows."""

    title: str
    train: str = ""
    valid: str = ""
    optional: bool = False  # no word of it where nothing was logged


CHARTS: dict[str, tuple[Chart, ...]] = {
    "rating": (
        Chart("Squared error of the rating", train="rating/train/mse"),
        Chart("RMSE of the rating", valid="rating/valid/rmse"),
    ),
    "explanation": (
        Chart("Loss", train="explanation/train/loss", valid="explanation/valid/loss"),
        Chart("Perplexity", valid="explanation/valid/perplexity"),
    ),
    "ccr": (
        Chart("Contrastive loss", train="ccr/train/loss", valid="ccr/valid/loss"),
        Chart("Retrieval accuracy", valid="ccr/valid/retrieval_accuracy"),
    ),
    "hqar": (
        Chart("Discriminator loss", train="hqar/train/loss", valid="hqar/valid/loss"),
        Chart("Accuracy by token", valid="hqar/valid/token_accuracy"),
        Chart("Accuracy by text", valid="hqar/valid/text_accuracy"),
    ),
    "ppo": (
        Chart("Concept consistent reward (CCR)", train="ppo/reward/ccr", valid="ppo/valid/ccr"),
        Chart("High-quality alignment reward (HQAR)", train="ppo/reward/hqar", valid="ppo/valid/hqar"),
        Chart("Weighted sum of standardised rewards", train="ppo/reward/total"),
        Chart("KL to the fine-tuned policy", train="ppo/kl"),
        Chart("KL coefficient", train="ppo/kl_coef"),
        Chart("Distinct-2", train="ppo/distinct_2", valid="ppo/valid/distinct_2"),
        Chart("CMR of held-out prompts", valid="ppo/valid/cmr"),
    ),
    "ppo updates": (
        Chart("Approximate KL of an update", train="ppo/approx_kl"),
        Chart("Share of clipped ratios", train="ppo/clip_fraction"),
        Chart("Probability ratio", train="ppo/ratio"),
        Chart("Entropy", train="ppo/entropy"),
        Chart("Policy loss", train="ppo/policy_loss"),
        Chart("Value loss", train="ppo/value_loss"),
        Chart("Explained variance of the value", train="ppo/explained_variance"),
        Chart("Share of texts that end", train="ppo/end_rate"),
        Chart("Tokens a text", train="ppo/length"),
        Chart("Distinct-1", train="ppo/distinct_1"),
        Chart("Discriminator loss", train="ppo/discriminator/loss", optional=True),
        Chart("Discriminator accuracy by token", train="ppo/discriminator/token_accuracy", optional=True),
    ),
}


def charts(group: str, curves: dict[str, Curve]) -> Html:
    """The charts of a group of `CHARTS`; names those whose figures were not logged."""
    figures, absent = [], []
    for chart in CHARTS[group]:
        shown = {
            kind: curves[name] for kind, name in (("train", chart.train), ("valid", chart.valid)) if name in curves
        }
        if any(curve.points for curve in shown.values()):
            figures.append(_figure(chart.title, shown))
        elif not chart.optional:
            absent.append(chart.title)
    note = [tag("p", f"Nothing logged yet of: {', '.join(absent)}.", class_="note")] if absent else []
    return join([tag("div", *figures, class_="charts"), *note])


def _figure(title: str, curves: dict[str, Curve]) -> Html:
    series = {kind: thin_out(curve.points) for kind, curve in curves.items() if curve.points}
    legend = [
        tag("span", tag("i", class_=kind), f"{kind} ", tag("b", number(points[-1][1])), class_="key")
        for kind, points in series.items()
    ]
    notes = [
        f"{kind}: each point is the mean of up to {math.ceil(len(curve.points) / MAX_POINTS)} steps."
        for kind, curve in curves.items()
        if len(curve.points) > MAX_POINTS
    ]
    notes += [
        f"{kind}: values that are not finite, hence not drawn: {curve.not_finite}."
        for kind, curve in curves.items()
        if curve.not_finite
    ]
    caption = tag("figcaption", tag("span", title, class_="title"), tag("span", *legend, class_="legend"))
    return tag("figure", caption, _svg(title, series), *(tag("p", note, class_="note") for note in notes))


def thin_out(points: list[tuple[int, float]]) -> Points:
    """At most MAX_POINTS points, each the mean of as many neighbours (the last of fewer)."""
    width = math.ceil(len(points) / MAX_POINTS)
    parts = [points[start : start + width] for start in range(0, len(points), width)]
    return [(sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts]


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers, the first at or below `low`, the last at or above `high`."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [position * step for position in range(first, last + 1)]


def number(value: float) -> str:
    """A value with about four significant digits."""
    text = f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _svg(title: str, series: dict[str, Points]) -> Html:
    steps = sorted({step for points in series.values() for step, _ in points})
    values = [value for points in series.values() for _, value in points]
    y_ticks = ticks(min(values), max(values))
    last, span_y = steps[-1], y_ticks[-1] - y_ticks[0]

    def x(step: float) -> float:
        return round(LEFT + step / (last or 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - y_ticks[0]) / span_y * (HEIGHT - TOP - BOTTOM), 1)

    drawn = {kind: [(x(step), y(value)) for step, value in points] for kind, points in series.items()}
    parts = [_y_axis([(y(tick), tick) for tick in y_ticks]), _x_axis(last)]
    parts += [_line(kind, points) for kind, points in drawn.items()]
    parts += _hover(series, [(x(step), step) for step in steps])
    told = "; ".join(
        f"{kind} from {number(points[0][1])} at step {points[0][0]:,.0f} to {number(points[-1][1])} at step "
        f"{points[-1][0]:,.0f}"
        for kind, points in series.items()
    )
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {told}")


def _y_axis(places: list[tuple[float, float]]) -> Html:
    parts = []
    digits = max(0, -math.floor(math.log10(places[1][1] - places[0][1]) + 1e-9))
    for place, tick in places:
        label = f"{tick:,.{digits}f}" if digits <= 5 else f"{tick:.1e}"
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="grid"))
        parts.append(tag("text", label.replace("-", "\N{MINUS SIGN}"), x=LEFT - 8, y=place + 4, text_anchor="end"))
    return join(parts)


def _x_axis(last: float) -> Html:
    ends = (("0", LEFT, "start"), (f"step {last:,.0f}", WIDTH - RIGHT, "end"))
    return join(tag("text", label, x=place, y=HEIGHT - 6, text_anchor=anchor) for label, place, anchor in ends)


def _line(kind: str, points: Points) -> Html:
    path = tag("polyline", points=" ".join(f"{x},{y}" for x, y in points), class_=f"line {kind}")
    dotted = points if len(points) == 1 or (kind == "valid" and len(points) <= 30) else []
    return join([path, *(tag("circle", cx=x, cy=y, r=3, class_=f"dot {kind}") for x, y in dotted)])


def _hover(series: dict[str, Points], places: list[tuple[float, float]]) -> list[Html]:
    """One invisible band a step, over the whole height, whose tooltip tells the values there."""
    edges = [LEFT, *((a + b) / 2 for (a, _), (b, _) in pairwise(places)), WIDTH - RIGHT]
    lookup = {kind: dict(points) for kind, points in series.items()}
    bands = []
    for (left, right), (_, step) in zip(pairwise(edges), places, strict=True):
        told = ", ".join(f"{kind} {number(values[step])}" for kind, values in lookup.items() if step in values)
        title = tag("title", f"step {step:,.0f}: {told}")
        box = {"x": round(left, 1), "y": TOP, "width": round(right - left, 1), "height": HEIGHT - TOP - BOTTOM}
        bands.append(tag("rect", title, class_="hit", **box))
    return bands
