"""Turns the results of compare_with_llama_bench.py into a table, sections of pages and a picture."""

import sys
from pathlib import Path

from throughput_results import FORMATS, SIDES, Job, Results, bar, short_phases


def figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def cell(results: Results, job: Job, phase: str) -> str:
    """`2,312 : 1,107 = 2.1 × (≥ 1.8)`, the ratio in bold where it reaches its bar."""
    ours, theirs = (results.rate(job, side, phase) for side in SIDES)
    wanted = bar(job.model, job.format, job.concurrency, phase)
    ratio = f"{ours / theirs:.2f} ×"
    if wanted is not None:
        ratio = f"**{ratio}**" if ours / theirs >= wanted else ratio
        ratio += f" (≥ {wanted:g})"
    return f"{figure(ours)} : {figure(theirs)} = {ratio}"


def tables(results: Results) -> str:
    """A table a model: a row a job and phase, a column a format."""
    text = []
    for model, title in (("small", "SmolLM2-135M"), ("big", "1.43 B llama shape")):
        jobs = [job for job in results.jobs() if job.model == model]
        formats = [name for name in FORMATS if any(job.format == name for job in jobs)]
        if not jobs:
            continue
        text.append(f"| {title}: tokens/s | " + " | ".join(formats) + " |")
        text.append("|---|" + "--:|" * len(formats))
        kinds = sorted(
            {(job.concurrency, job.input_tokens, job.output_tokens) for job in jobs},
            key=lambda kind: kind[0] or 0,
        )
        for phase in ("prefill", "decode"):
            for kind in kinds:
                cells = []
                for name in formats:
                    job = next((j for j in jobs if j == Job(model, name, *kind)), None)
                    cells.append(cell(results, job, phase) if job else "")
                text.append(f"| {row_name(kind, phase)} | " + " | ".join(cells) + " |")
        text.append("")
    return "\n".join(text)


def row_name(kind: tuple, phase: str) -> str:
    concurrency, input_tokens, output_tokens = kind
    if concurrency is None:
        from_empty = "" if phase == "prefill" else " from empty"
        return f"{phase} {input_tokens if phase == 'prefill' else output_tokens}{from_empty}"
    sequences = f"{concurrency} sequence" + ("s" if concurrency > 1 else "")
    if phase == "prefill":
        return f"prefill {input_tokens:,}, {sequences}"
    return f"decode {output_tokens:,} after {input_tokens:,}, {sequences}"


def ourselves(results: Results) -> str:
    """What fewer bytes bring: quantized files against F16, where weights dominate."""
    lines = []
    for model in ("small", "big"):
        jobs = {job.format: job for job in results.jobs()
                if job.model == model and job.concurrency is None}  # fmt: skip
        if "F16" not in jobs:
            continue
        f16 = jobs.pop("F16")
        sizes = results.document["bytes"]
        base = results.rate(f16, "quantkit", "decode")
        for name in (name for name in FORMATS if name in jobs):
            rate = results.rate(jobs[name], "quantkit", "decode")
            smaller = sizes[f"{model}/F16"] / sizes[f"{model}/{name}"]
            lines.append(f"{title_of(model)} {name}: {rate / base:.2f} × F16's decode with "
                         f"1/{smaller:.2f} of its bytes")  # fmt: skip
    return "Against ourselves: " + "; ".join(lines) + "." if lines else ""


def shows_bandwidth(job: Job) -> bool:
    return job.model == "big" and job.concurrency is None


def bandwidth(results: Results) -> str:
    """How much of the memory's speed decoding the big model reaches."""
    words = []
    for job in results.jobs():
        profile = results.document["profiles"].get(job.name)
        if not profile or not shows_bandwidth(job):
            continue
        decode = next(phase for phase in profile["phases"] if phase["name"] == "decode")
        read = sum(one["bytes"] for one in decode["operations"]) / decode["seconds"]
        limit = profile["limits"]["model"]["bytes_per_second"]
        words.append(f"{job.format} {read / 1e9:.1f} of {limit / 1e9:.1f} GB/s ({read / limit:.0%})")
    return "Memory reads of one sequence's decode, 1.43 B: " + "; ".join(words) + "." if words else ""


def title_of(model: str) -> str:
    return {"small": "SmolLM2", "big": "1.43 B"}[model]


def limits(results: Results) -> str:
    """For each row that falls short, where quantkit's time goes and how near the limits that is."""
    lines = []
    for job in results.jobs():
        profile = results.document["profiles"].get(job.name)
        for phase in short_phases(results, job):
            wanted = bar(job.model, job.format, job.concurrency, phase)
            kind = (job.concurrency, job.input_tokens, job.output_tokens)
            line = f"- {title_of(job.model)} {job.format}, {row_name(kind, phase)}: "
            line += f"{results.ratio(job, phase):.2f} × instead of {wanted:g} ×"
            if profile:
                line += f". {limit_of(profile, phase)}"
            lines.append(line)
    return "\n".join(lines)


def limit_of(profile: dict, phase: str) -> str:
    """The largest operations of a phase, each with its share and how near its limit it is."""
    found = next(one for one in profile["phases"] if one["name"] == phase)
    largest = sorted(found["operations"], key=lambda one: -one["seconds"])[:3]
    words = []
    for one in largest:
        near = ""
        if one["least_seconds"] > 0:
            near = f" (at {one['least_seconds'] / one['seconds']:.0%} of its limit)"
        words.append(f"{one['operation']} {one['share']:.0%}{near}")
    share = found["least_seconds"] / found["seconds"]
    return f"Bound by {found['bound']}, {share:.0%} of the limit in all: {'; '.join(words)}"


def machine_line(results: Results) -> str:
    machine = results.document.get("machine", {})
    versions = {side: sorted({run["version"] for run in results.document["runs"]
                              if run["side"] == side}) for side in SIDES}  # fmt: skip
    threads = sorted({run["threads"] for run in results.document["runs"]})
    load = max((run["load_before"] for run in results.document["runs"]), default=0)
    return (
        f"{machine.get('cpu', 'unknown processor')}, {machine.get('cores', '?')} cores; threads tried: "
        f"{', '.join(map(str, threads))}; {', '.join(versions['quantkit'])} against "
        f"{', '.join(versions['llama.cpp'])}, each phase with what is faster, flash attention or none; "
        f"load average before a run at most {load:.1f}"
    )


def report(results: Results) -> str:
    parts = [tables(results), "tokens/s, quantkit : llama.cpp = ratio (bar); "
             "bold where the bar is reached. " + machine_line(results) + "."]  # fmt: skip
    for paragraph in (ourselves(results), bandwidth(results)):
        if paragraph:
            parts += ["", paragraph]
    short = limits(results)
    if short:
        parts += ["", "What falls short, and what limits it:", "", short]
    return "\n".join(parts) + "\n"


def fill(page: Path, sections: dict[str, str]):
    """Puts each section between its marks in a page, where the page has them."""
    text = page.read_text()
    filled = 0
    for name, section in sections.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin in text and end in text and section:
            start = text.index(begin) + len(begin)
            text = f"{text[:start]}\n{section.strip()}\n{text[text.index(end):]}"
            filled += 1
    if not filled:
        sys.exit(f"{page}: expected marks such as <!-- throughput:begin -->, found none")
    page.write_text(text)


# The picture.

PANEL, HEIGHT, LEFT, TOP, BOTTOM = 300, 320, 56, 64, 48
# Room in a panel beside the first and the last point.
INSET = 22
COLOURS = {"quantkit": "#1f6feb", "llama.cpp": "#bf5700"}


def picture(results: Results) -> str:
    """Decode tokens/s against concurrency, a panel a format, as SVG."""
    jobs = [job for job in results.jobs() if job.concurrency is not None]
    formats = [name for name in reversed(FORMATS) if any(job.format == name for job in jobs)]
    if not formats:
        sys.exit("no long job is in the results: nothing to draw")
    highest = max(results.rate(job, side, "decode") for job in jobs for side in SIDES)
    step = next(s for s in (10, 20, 50, 100, 200, 500, 1000) if highest / s <= 8)
    top = -(-highest // step) * step
    width = LEFT + PANEL * len(formats)
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13" fill="#24292f">',
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>',
    ]

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - rate / top * (HEIGHT - TOP - BOTTOM)

    def text(x: float, y: float, words: str, rest: str = ""):
        svg.append(f'<text x="{x:.1f}" y="{y:.1f}" {rest}>{words}</text>')

    for panel, name in enumerate(formats):
        own = sorted((job for job in jobs if job.format == name), key=lambda job: job.concurrency)
        left, right = LEFT + panel * PANEL, LEFT + (panel + 1) * PANEL - 24
        places = {
            job.concurrency: left + INSET + (right - left - 2 * INSET) * index / max(len(own) - 1, 1)
            for index, job in enumerate(own)
        }
        text((left + right) / 2, TOP - 16, f"{name}", 'text-anchor="middle" font-weight="bold"')
        rate = 0
        while rate <= top:
            svg.append(
                f'<line x1="{left}" x2="{right}" y1="{y(rate):.1f}" y2="{y(rate):.1f}" '
                'stroke="#d0d7de"/>'
            )
            if panel == 0:
                text(left - 8, y(rate) + 4, f"{rate:g}", 'text-anchor="end"')
            rate += step
        for concurrency, x in places.items():
            text(x, HEIGHT - BOTTOM + 18, str(concurrency), 'text-anchor="middle"')
        for side in SIDES:
            points = [(places[job.concurrency], y(results.rate(job, side, "decode"))) for job in own]
            path = " ".join(f"{x:.1f},{height:.1f}" for x, height in points)
            colour = COLOURS[side]
            svg.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
            for (x, height), job in zip(points, own):
                svg.append(f'<circle cx="{x:.1f}" cy="{height:.1f}" r="3.5" fill="{colour}"/>')
                label = figure(results.rate(job, side, "decode"))
                is_above = side == "quantkit" or height > y(0) - 20
                beside = height - 8 if is_above else height + 17
                text(x, beside, label, f'text-anchor="middle" font-size="11" fill="{colour}"')
    sample = jobs[0]
    last = sample.input_tokens + sample.output_tokens
    text(8, 20, f"decode tokens/s in total at a context of {sample.input_tokens:,} to {last:,}")
    text((LEFT + width) / 2, HEIGHT - 8, "sequences at once", 'text-anchor="middle"')
    for index, side in enumerate(SIDES):
        x = width - 190 + 96 * index
        svg.append(f'<circle cx="{x}" cy="16" r="4" fill="{COLOURS[side]}"/>')
        text(x + 9, 20, side)
    return "\n".join(svg) + "\n</svg>\n"
