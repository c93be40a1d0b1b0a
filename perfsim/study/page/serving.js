/* What the page of a served load does: it draws steps, caches and queues from compact data, and filters requests. */
"use strict";
perfsim.served = (() => {
  const { element, escaped, rgba, soon, time } = perfsim.tools;
  const NEAR = 0.3; /* share of a cache from which on its size is shown */
  const MOST_BARS = 3000, LOW = [0.52, 0.06], BAND = 0.42; /* prompts above, decodes below */

  const { format: count } = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
  const facts = (title, rows) => `<b>${escaped(title)}</b><table>${rows.filter(([, text]) => text !== "")
    .map(([name, text]) => `<tr><th align="left">${name}</th><td>${escaped(text)}</td></tr>`).join("")}</table>`;

  /* The first row that ends after an instant, and the first that begins at another or later. */
  const search = (values, wanted, above) => {
    let low = 0, high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (above ? values[middle] > wanted : values[middle] >= wanted) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  const seen = (rows, from, to) => [search(rows.end, from, true), search(rows.start, to, false)];

  const steps = (of) => soon(of.image, () => drawSteps(of));
  const drawSteps = (of) => {
    const { plot } = of, from = plot.x_range.start, to = plot.x_range.end;
    const windows = of.replicas.map(({ data }) => seen(data, from, to));
    const rows = windows.reduce((sum, [first, last]) => sum + last - first, 0);
    const number = windows.reduce((sum, [first, last], lane) => {
      const { steps } = of.replicas[lane].data;
      for (let i = first; i < last; i++) sum += steps[i];
      return sum;
    }, 0);
    const bars = rows <= MOST_BARS;
    if (bars) drawBars(of, windows);
    else drawMeans(of, windows, from, to);
    const many = `${count(number)} steps in this window`;
    const together = rows < number ? ` Alike or neighbouring ones share one of ${count(rows)} bars.` : "";
    element(of.status).textContent = bars ? `${many}, at their simulated times.${together}`
      : `${many}: each column shows the mean over its time. Zoom in to see each.`;
  };

  const told = (of, lane, i) => {
    const { data } = of.replicas[lane], length = data.end[i] - data.start[i];
    const together = data.steps[i] > 1, mean = together ? ", mean over time" : "";
    return facts(of.labels[lane] + (together ? `, ${count(data.steps[i])} steps` : ""), [
      ["start", `${data.start[i].toPrecision(9)} s`], ["takes", time(length)],
      ["decodes", data.decodes[i] > 0 ? count(data.decodes[i]) + mean : ""],
      ["prompts", data.prompts[i] ? `${count(data.prompts[i])}, ${count(data.prompt_tokens[i])} tokens` : ""],
      ["host", `${(100 * data.host[i] / length).toFixed(1)} % of the time`],
      ["KV blocks", `${together ? "at most " : ""}${count(data.blocks[i])}`],
      ["requests", `${count(data.running[i])} running, ${count(data.waiting[i])} waiting`],
    ]);
  };

  const drawBars = (of, windows) => {
    const drawn = { left: [], right: [], bottom: [], top: [], colour: [], tip: [] };
    windows.forEach(([first, last], lane) => {
      const { data } = of.replicas[lane], floor = of.labels.length - lane - 1;
      for (let i = first; i < last; i++) {
        [data.tokens[i] / of.tallest.tokens, data.decodes[i] / of.tallest.decodes].forEach((height, part) => {
          if (!(height > 0)) return;
          drawn.left.push(data.start[i]); drawn.right.push(data.end[i]);
          drawn.bottom.push(floor + LOW[part]); drawn.top.push(floor + LOW[part] + BAND * Math.max(height, 0.02));
          drawn.colour.push(of.colours[part]); drawn.tip.push(told(of, lane, i));
        });
      }
    });
    of.bars.data = drawn;
    const Grid = of.image.data.image[0].constructor;
    of.image.data = { image: [new Grid(1, [1, 1])], x: [0], dw: [1] };
  };

  /* Means over the time of each column of pixels. */
  const means = (data, name, [first, last], from, to, width) => {
    const pixel = (to - from) / width, sum = new Float64Array(width), { start, end, [name]: values } = data;
    for (let i = first; i < last; i++) {
      if (!(values[i] > 0)) continue;
      const a = Math.max(start[i], from), b = Math.min(end[i], to);
      const until = Math.min(width - 1, Math.floor((b - from) / pixel));
      for (let x = Math.max(0, Math.floor((a - from) / pixel)); x <= until; x++) {
        const part = Math.min(b, from + (x + 1) * pixel) - Math.max(a, from + x * pixel);
        if (part > 0) sum[x] += values[i] * part / pixel;
      }
    }
    return sum;
  };

  const drawMeans = (of, windows, from, to) => {
    const { plot } = of, lanes = of.labels.length, width = Math.max(50, Math.round(plot.inner_width));
    const high = Math.max(16, Math.min(120, Math.round(plot.inner_height / lanes)));
    const Grid = of.image.data.image[0].constructor;
    const picture = new Grid(lanes * high * width, [lanes * high, width]);
    windows.forEach((window, lane) => {
      const { data } = of.replicas[lane], floor = (lanes - lane - 1) * high;
      ["tokens", "decodes"].forEach((name, part) => {
        const colour = rgba(of.colours[part]), bottom = floor + Math.round(LOW[part] * high);
        means(data, name, window, from, to, width).forEach((mean, x) => {
          const rows = mean > 0 ? Math.max(1, Math.round(BAND * high * mean / of.tallest[name])) : 0;
          for (let y = 0; y < rows; y++) picture[(bottom + y) * width + x] = colour;
        });
      });
    });
    of.bars.data = { left: [], right: [], bottom: [], top: [], colour: [], tip: [] };
    of.image.data = { image: [picture], x: [from], dw: [to - from] };
  };

  /* What a replica holds: as it is where there is room, else the most of each column of pixels; nothing while idle. */
  const curves = (of) => soon(of.limit, () => drawCurves(of));
  const drawCurves = (of) => {
    const { plot } = of, from = plot.x_range.start, to = plot.x_range.end;
    const chosen = of.labels.indexOf(of.choice.value), { data } = of.replicas[chosen];
    const [first, last] = seen(data, from, to), width = Math.max(50, Math.round(plot.inner_width));
    const limit = of.limits[chosen];
    let top = 1;
    for (const [name, words, source] of of.drawn) {
      const points = last - first <= width ? exact(data, name, first, last) : most(data, name, first, last, from, to, width);
      if (!points.length || points[0][0] > from) points.unshift([from, 0]);
      points.push([to, 0]);
      top = Math.max(top, ...points.map(([, value]) => value));
      source.data = { x: points.map(([x]) => x), y: points.map(([, value]) => value),
        tip: points.map(([x, value]) => `<b>${count(value)} ${escaped(words)}</b>${limit > 0 ? `, ${(100 * value / limit).toFixed(1)} %` : ""}<br>from ${x.toPrecision(7)} s on`) };
    }
    of.limit.visible = limit > 0;
    if (limit > 0) of.limit.location = limit;
    plot.y_range.end = 1.08 * (limit > 0 && top > NEAR * limit ? Math.max(top, limit) : top);
  };
  const exact = (data, name, first, last) => {
    const points = [];
    for (let i = first; i < last; i++) {
      points.push([data.start[i], data[name][i]]);
      if (i + 1 < last && data.start[i + 1] > data.end[i] || i + 1 === last) points.push([data.end[i], 0]);
    }
    return points;
  };
  const most = (data, name, first, last, from, to, width) => {
    const pixel = (to - from) / width, high = new Float64Array(width), { start, end, [name]: values } = data;
    for (let i = first; i < last; i++) {
      const until = Math.min(width - 1, Math.floor((end[i] - from) / pixel));
      for (let x = Math.max(0, Math.floor((start[i] - from) / pixel)); x <= until; x++) high[x] = Math.max(high[x], values[i]);
    }
    return Array.from(high, (value, x) => [from + x * pixel, value]);
  };

  const filter = (of) => {
    const { data } = of.source, indices = [];
    const least = (field) => { const value = Number(field.value_input); return value > 0 ? value : -Infinity; };
    const ttft = least(of.ttft), tpot = least(of.tpot), which = of.which.value;
    const fits = { all: () => true, preempted: (i) => data.preemptions[i] > 0,
      "with a cached prefix": (i) => data.cached_tokens[i] > 0, "not ended": (i) => !(data.finish[i] >= 0) }[which];
    const above = (value, limit) => limit === -Infinity || value >= limit;
    for (let i = 0; i < data.request.length; i++) {
      const here = of.replica.value === "all" || Number(of.replica.value) === data.replica[i];
      if (here && fits(i) && above(data.ttft[i], ttft) && above(data.tpot[i], tpot)) indices.push(i);
    }
    of.view.filter.indices = indices;
    element(of.status).textContent = count(indices.length);
  };

  /* Show the time of the request that was clicked. */
  const go = (of) => {
    const [i] = of.source.selected.indices, range = perfsim.model(of.range);
    if (i === undefined || !range) return;
    const { sent, finish } = of.source.data, [, last] = range.bounds;
    const end = finish[i] >= 0 ? finish[i] : last, margin = 0.05 * (end - sent[i]);
    range.setv({ start: Math.max(range.bounds[0], sent[i] - margin), end: Math.min(last, end + margin) });
  };

  return { steps, curves, filter, go };
})();
