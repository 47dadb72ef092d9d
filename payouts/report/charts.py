"""The report's two charts as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from payouts.report.figures import SETTLE_STEPS, ProgressSeries, Times

_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 26
_FOOT = _HEIGHT - 6
WAY_CLASSES = {"webhook": "done", "poll": "accepted", "reply": "done"}
"""The CSS class, and so the colour, of each way to settle."""


def duration(seconds: float) -> str:
    """Return a length of time in words, such as `2 min 46 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{rest} s" if rest and not hours else ""]
    return " ".join(part for part in parts if part)


def progress_chart(progress: ProgressSeries) -> str:
    """Return the SVG of the rows sent and settled over time."""
    max_count = max(progress.sent[-1], progress.settled[-1])
    moments = [progress.begin, (progress.begin + progress.end) / 2, progress.end]
    day = "%H:%M:%S" if progress.end - progress.begin < 86_400 else "%d %b %H:%M"
    labels = "".join(
        f'<text x="{_x(place):.1f}" y="{_FOOT}" text-anchor="{anchor}">{datetime.fromtimestamp(moment, UTC):{day}}</text>'
        for place, anchor, moment in zip((0, 0.5, 1), ("start", "middle", "end"), moments, strict=True)
    )
    settled, sent = _line(progress.settled, max_count), _line(progress.sent, max_count)
    base = _y(0, max_count)
    return _picture(
        f"{progress.sent[-1]} rows sent and {progress.settled[-1]} settled between the first request and the last settlement",
        _grid(max_count)
        + f'<path class="done" d="{settled} V{base:.1f} H{_LEFT} Z" fill="currentColor" opacity=".14"/>'
        + f'<path class="done" d="{settled}" fill="none" stroke="currentColor" stroke-width="2"/>'
        + f'<path class="sent" d="{sent}" fill="none" stroke="currentColor" stroke-width="1.5" stroke-dasharray="4 3"/>'
        + labels,
    )


def times_chart(times: Mapping[str, Times]) -> str:
    """Return the SVG of the times to settle, with one bar per way to settle."""
    used = [place for each in times.values() for place, count in enumerate(each.bars) if count]
    first, last = min(used), max(used)
    steps = SETTLE_STEPS[first : last + 1]
    max_count = max(max(each.bars) for each in times.values())
    room = (_WIDTH - _LEFT - _RIGHT) / len(steps)
    wide = min(28.0, room * 0.8 / len(times))
    bars, labels = [], []
    every = math.ceil(len(steps) / 8)
    for place, step in enumerate(steps):
        middle = _LEFT + room * (place + 0.5)
        words = f"over {duration(SETTLE_STEPS[-2])}" if math.isinf(step) else f"up to {duration(step)}"
        if place % every == 0:
            label = "more" if math.isinf(step) else duration(step)
            labels.append(f'<text x="{middle:.1f}" y="{_FOOT}" text-anchor="middle">{label}</text>')
        left = middle - wide * len(times) / 2
        for number, (way, each) in enumerate(times.items()):
            count = each.bars[first + place]
            if count:
                shape = _bar(left + wide * number, wide, count, max_count)
                colour = WAY_CLASSES[way]
                bars.append(
                    f'<rect class="{colour}" fill="currentColor" {shape}><title>{words}: {count:,} by {way}</title></rect>'
                )
    return _picture(
        "How long rows took from the first request to their settlement", _grid(max_count) + "".join(bars) + "".join(labels)
    )


def _bar(left: float, wide: float, count: int, max_count: int) -> str:
    base = _y(0, max_count)
    high = max(1.5, base - _y(count, max_count))
    return f'x="{left + 1:.1f}" y="{base - high:.1f}" width="{wide - 2:.1f}" height="{high:.1f}" rx="1.5"'


def _picture(title: str, inside: str) -> str:
    return f'<div class="scroll"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">{inside}</svg></div>'


def _grid(max_count: int) -> str:
    lines = []
    for value in sorted({0, max_count // 2, max_count}):
        y = _y(value, max_count)
        lines.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>'
        )
    return "".join(lines)


def _line(grown: Sequence[int], max_count: int) -> str:
    points = [f"{_x((place + 1) / len(grown)):.1f} {_y(value, max_count):.1f}" for place, value in enumerate(grown)]
    return f"M{_LEFT} {_y(0, max_count):.1f} L{' L'.join(points)}"


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(value: int, max_count: int) -> float:
    return _HEIGHT - _BOTTOM - value / max(1, max_count) * (_HEIGHT - _BOTTOM - _TOP)
