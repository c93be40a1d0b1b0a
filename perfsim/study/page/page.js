/* What the page does: it opens the pictures, draws timelines and memory from compact data, searches and filters. */
"use strict";
const perfsim = (() => {
  const PICO = 1e-12, MOST_BARS = 6000;

  const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const element = (id) => document.getElementById(id);

  /* Texts of quantities. */
  const scaled = (value, units) => {
    for (const [size, unit] of units) if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(4))} ${unit}`;
    return `${Number(value.toPrecision(4))} ${units[units.length - 1][1]}`;
  };
  const time = (s) => scaled(s, [[1, "s"], [1e-3, "ms"], [1e-6, "us"], [1e-9, "ns"], [1e-12, "ps"]]);
  const bytes = (n) => scaled(n, [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]]);

  /* A tick of the axis of time, in the unit of the last tick, with as many digits as tell neighbours apart. */
  const timeTick = (tick, ticks) => {
    const last = Math.max(...ticks.map(Math.abs));
    const [size, unit] = [[1, "s"], [1e-3, "ms"], [1e-6, "us"], [1e-9, "ns"]].find(([s]) => last >= s) || [1, "s"];
    const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) / size : 1;
    const digits = Math.min(12, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
    return `${(tick / size).toFixed(digits).replace(/\B(?=(\d{3})+(?!\d|\w))(?<!\.\d*)/g, ",")} ${unit}`;
  };

  /* One drawing a frame, however many ranges change in between. */
  const waiting = new Set();
  const soon = (model, draw) => {
    if (waiting.has(model)) return;
    waiting.add(model);
    requestAnimationFrame(() => { waiting.delete(model); draw(); });
  };

  /* Call f(row, start, length, kept, first, last) for each row of a player that is seen between two instants in ps: of a
     kept microbatch that comes again and again, from its first to its last repetition that is seen. */
  const spans = (player, from, to, f) => {
    const rows = player.operator.length;
    for (let kept = 0; kept < player.microbatch.length; kept++) {
      const repeats = player.repeats[kept];
      for (let row = 0; row < rows; row++) {
        const start = player.start[kept * rows + row], length = player.length[kept * rows + row];
        if (!(length > 0) || start >= to) continue;
        let first = 0, last = 0;
        if (repeats > 1) {
          first = Math.max(0, Math.floor((from - start - length) / player.growth[row]) + 1);
          last = Math.min(repeats - 1, Math.ceil((to - start) / player.growth[row]) - 1);
        } else if (start + length <= from) continue;
        if (first <= last) f(row, start, length, kept, first, last);
      }
    }
  };

  /* Call f(row, start, end, microbatch) for each execution. */
  const visit = (player, from, to, f) => {
    spans(player, from, to, (row, start, length, kept, first, last) => {
      for (let again = first; again <= last; again++) {
        const begin = start + again * player.growth[row];
        f(row, begin, begin + length, player.microbatch[kept] + again * player.cycle);
      }
    });
  };

  const visible = (of, plot) => {
    const count = of.lanes.length, { start, end } = plot.y_range;
    return of.lanes.map((_, lane) => lane).filter((lane) => count - lane > start && count - lane - 1 < end);
  };

  const seen = (player, from, to) => {
    let count = 0;
    spans(player, from, to, (row, start, length, kept, first, last) => { count += last - first + 1; });
    return count;
  };

  const timeline = (of) => soon(of.image, () => drawTimeline(of));
  const drawTimeline = (of) => {
    const { plot } = of;
    const from = plot.x_range.start / PICO, to = plot.x_range.end / PICO;
    const lanes = visible(of, plot);
    const counts = of.players.map((player) => seen(player, from, to));
    const blurred = of.players.map((player) => player.overview && player.overview.start < to && player.overview.end > from);
    const total = lanes.reduce((sum, lane) => sum + counts[of.lanes[lane]], 0);
    const blur = lanes.some((lane) => blurred[of.lanes[lane]]), bars = total <= MOST_BARS && !blur;
    if (bars) drawBars(of, lanes, from, to);
    else drawShares(of, from, to);
    const many = `${total.toLocaleString("en")} executions in this window`, shares = "each colour is as high as its share of the time";
    if (blur) element(of.status).textContent = `Of some executions in this window the page holds no more than sums: ${shares}.`;
    else element(of.status).textContent = bars ? `${many}, each at its simulated time.` : `${many}: ${shares}. Zoom in to see each.`;
  };

  const drawBars = (of, lanes, from, to) => {
    const { plot, kinds, bands } = of;
    const count = of.lanes.length, pixel = (to - from) / Math.max(plot.inner_width, 1);
    const data = { left: [], right: [], bottom: [], top: [], colour: [], tip: [] };
    const words = { x: [], y: [], text: [], colour: [] };
    const tall = plot.inner_height / (plot.y_range.end - plot.y_range.start);
    for (const lane of lanes) {
      const player = of.players[of.lanes[lane]], floor = count - lane - 1;
      visit(player, from, to, (row, start, end, microbatch) => {
        const operator = player.operator[row], kind = of.kind_of[operator], [low, high] = bands[kind];
        data.left.push(start * PICO); data.right.push(end * PICO);
        data.bottom.push(floor + low); data.top.push(floor + high);
        data.colour.push(kinds[kind].colour);
        const layer = of.layers[operator] < 0 ? "" : ` of layer ${of.layers[operator]}`;
        const details = of.details[of.variant[microbatch] * of.names.length + operator] || "";
        const facts = [["where", `${of.labels[lane]}, stage ${of.stages[operator]}`], ["microbatch", microbatch],
          ["kind", kinds[kind].name], ["start", `${(start * PICO).toPrecision(9)} s`], ["takes", time((end - start) * PICO)]];
        const told = facts.map(([name, text]) => `<tr><th align="left">${name}</th><td>${escaped(text)}</td></tr>`).join("");
        data.tip.push(`<b>${escaped(of.names[operator] + layer)}</b><table>${told}${details}</table>`);
        const shown = Math.min(end, to) - Math.max(start, from);
        if (shown / pixel > 7 * of.names[operator].length + 8 && (high - low) * tall > 11) {
          words.x.push(Math.max(start, from) * PICO); words.y.push(floor + (low + high) / 2);
          words.text.push(of.names[operator]); words.colour.push(kinds[kind].ink);
        }
      });
    }
    of.bars.data = data;
    of.words.data = words;
    const Grid = of.image.data.image[0].constructor;
    of.image.data = { image: [new Grid(1, [1, 1])], x: [0], dw: [1] };
  };

  /* Time of each kind in each pixel, for each player. */
  const sharesOf = (player, of, from, to, width) => {
    const pixel = (to - from) / width, sums = of.kinds.map(() => new Float64Array(width));
    const add = (sum, start, end, weight) => {
      const a = Math.max(start, from), b = Math.min(end, to);
      const first = Math.max(0, Math.floor((a - from) / pixel)), last = Math.min(width - 1, Math.floor((b - from) / pixel));
      for (let x = first; x <= last; x++) {
        const part = Math.min(b, from + (x + 1) * pixel) - Math.max(a, from + x * pixel);
        if (part > 0) sum[x] += weight * part / pixel;
      }
    };
    visit(player, from, to, (row, start, end) => add(sums[of.kind_of[player.operator[row]]], start, end, 1));
    const { overview } = player;
    if (overview) {
      const bins = overview.shares.length / of.kinds.length, bin = (overview.end - overview.start) / bins;
      for (let kind = 0; kind < of.kinds.length; kind++) {
        for (let at = 0; at < bins; at++) {
          const share = overview.shares[kind * bins + at] / 255, start = overview.start + at * bin;
          if (share > 0 && start < to && start + bin > from) add(sums[kind], start, start + bin, share);
        }
      }
    }
    return sums;
  };

  const rgba = (colour) => {
    const n = parseInt(colour.slice(1), 16);
    return ((255 << 24) | ((n & 255) << 16) | (n & 0xff00) | (n >> 16)) >>> 0;
  };

  /* A lane of so many rows of pixels, the lowest first: the kinds of a band stand on each other. */
  const paintLane = (shares, of, rows, width) => {
    const lane = new Uint32Array(rows * width), colours = of.kinds.map((kind) => rgba(kind.colour));
    const members = new Map();
    of.bands.forEach((band, kind) => members.set(String(band), [...(members.get(String(band)) ?? []), kind]));
    for (const kinds of members.values()) {
      const [low, high] = of.bands[kinds[0]];
      const bottom = Math.round(low * rows), height = Math.max(1, Math.round(high * rows) - bottom);
      for (let x = 0; x < width; x++) {
        let share = 0, y = 0;
        for (const kind of kinds) {
          share += shares[kind][x];
          for (const until = Math.min(height, share * height); y + 0.5 < until; y++) lane[(bottom + y) * width + x] = colours[kind];
        }
      }
    }
    return lane;
  };

  const drawShares = (of, from, to) => {
    const { plot } = of;
    const count = of.lanes.length, width = Math.max(50, Math.round(plot.inner_width));
    const rows = Math.max(12, Math.min(60, Math.round(plot.inner_height / count)));
    const Grid = of.image.data.image[0].constructor;
    const picture = new Grid(count * rows * width, [count * rows, width]);
    const painted = of.players.map((player) => paintLane(sharesOf(player, of, from, to, width), of, rows, width));
    of.lanes.forEach((player, lane) => picture.set(painted[player], (count - lane - 1) * rows * width));
    const none = { left: [], right: [], bottom: [], top: [], colour: [], tip: [] };
    of.bars.data = none;
    of.words.data = { x: [], y: [], text: [], colour: [] };
    of.image.data = { image: [picture], x: [from * PICO], dw: [(to - from) * PICO] };
  };

  /* Memory: steps as they are where they have room, else the least and the most of each pixel. */
  const memory = (of) => soon(of.source, () => drawMemory(of));
  const drawMemory = (of) => {
    const curve = of.curves.find((one) => one.label === of.choice.value) || of.curves[0];
    const from = of.plot.x_range.start / PICO, to = of.plot.x_range.end / PICO;
    const xs = [], ys = [];
    let before = curve.bytes.length ? [curve.time[0], curve.bytes[0]] : [0, 0];
    const each = (t, b) => {
      if (t < from) before = [t, b];
      else if (t <= to) { xs.push(t); ys.push(b); }
    };
    const rest = curve.first + curve.cycle;
    for (let i = 0; i < curve.first; i++) each(curve.time[i], curve.bytes[i]);
    for (let again = 0; again < curve.times; again++) {
      for (let i = curve.first; i < rest; i++) each(curve.time[i] + again * curve.growth, curve.bytes[i]);
    }
    for (let i = rest; i < curve.time.length; i++) each(curve.time[i], curve.bytes[i]);
    xs.unshift(Math.max(from, before[0])); ys.unshift(before[1]);
    const width = Math.max(50, Math.round(of.plot.inner_width)), pixel = (to - from) / width;
    const exact = xs.length <= 2 * width;
    const data = { x: [], y: [], tip: [] };
    const push = (t, b, tip) => { data.x.push(t * PICO); data.y.push(b / 1e9); data.tip.push(tip); };
    if (exact) xs.forEach((t, i) => push(t, ys[i], `<b>${bytes(ys[i])}</b><br>from ${(t * PICO).toPrecision(9)} s on`));
    else {
      let at = 0, held = ys[0];
      for (let x = 0; x < width; x++) {
        let least = held, most = held;
        for (const end = from + (x + 1) * pixel; at < xs.length && xs[at] < end; at++) {
          held = ys[at]; least = Math.min(least, held); most = Math.max(most, held);
        }
        const tip = `<b>${bytes(least)} to ${bytes(most)}</b><br>around ${time((from + x * pixel) * PICO)}`;
        push(from + x * pixel, most, tip); push(from + (x + 0.5) * pixel, least, tip);
      }
    }
    if (data.x.length) push(Math.max(to, xs[xs.length - 1]), ys[ys.length - 1], data.tip[data.tip.length - 1]);
    of.limit.location = curve.capacity / 1e9;
    const whole = of.height.value === "up to the capacity";
    of.plot.y_range.end = 1.08 * (whole ? Math.max(curve.capacity, curve.peak) : curve.peak) / 1e9;
    of.source.data = data;
  };

  /* The DAG: all of it in the beginning, letters as large as their boxes allow, and search. */
  const fitted = (plot, left, right, bottom, top) => {
    const shape = plot.inner_width / Math.max(plot.inner_height, 1);
    const width = Math.max(right - left, (top - bottom) * shape), height = width / shape;
    const x = (left + right) / 2, y = (bottom + top) / 2;
    plot.x_range.setv({ start: x - width / 2, end: x + width / 2 });
    plot.y_range.setv({ start: y - height / 2, end: y + height / 2 });
  };
  const dagFit = (of) => fitted(of.plot, 0, of.width, -of.height, 0);
  const dagScale = (of) => soon(of.names, () => {
    const unit = of.plot.inner_width / (of.plot.x_range.end - of.plot.x_range.start);
    const size = (points, least) => ({ value: `${Math.min(22, Math.max(points * unit, least)).toFixed(1)}px` });
    const readable = of.letters * unit >= 5.5;
    for (const [text, letters] of [[of.names, of.letters], [of.shapes, 0.9 * of.letters]]) {
      text.visible = readable;
      for (const glyph of [text.glyph, text.selection_glyph, text.nonselection_glyph]) glyph.text_font_size = size(letters, 1);
    }
    of.frames.glyph.text_font_size = size(20, 1);
    of.frames.visible = 20 * unit >= 5.5;
    of.arrows.glyph.size = { value: Math.min(9, 7 * unit) };
  });
  const dagSearch = (of, from) => {
    const sought = from.value_input.trim().toLowerCase(), { data } = of.nodes;
    const status = element(of.status);
    if (!sought) {
      of.nodes.selected.indices = [];
      status.textContent = "";
      return;
    }
    const found = data.words.map((words, i) => (words.includes(sought) ? i : -1)).filter((i) => i >= 0);
    of.nodes.selected.indices = found.length ? found : [-1];
    status.textContent = found.length ? `${found.length} found; the others are pale.` : "Nothing found.";
    if (!found.length) return;
    const xs = found.map((i) => data.x[i]), ys = found.map((i) => data.y[i]);
    fitted(of.plot, Math.min(...xs) - 250, Math.max(...xs) + 250, Math.min(...ys) - 120, Math.max(...ys) + 120);
  };

  const tableFilter = (of) => {
    const { data } = of.source, sought = of.words.value_input.trim().toLowerCase();
    const fits = (choice, value) => choice.value === "all" || choice.value === value;
    const indices = [];
    for (let i = 0; i < data.operator.length; i++) {
      const words = `${data.operator[i]} ${data.shape[i]} ${data.source[i]}`.toLowerCase();
      if (words.includes(sought) && fits(of.kind, data.kind[i]) && fits(of.bound, data.bound[i])) indices.push(i);
    }
    of.view.filter.indices = indices;
    element(of.status).textContent = indices.length;
  };

  /* Opening: one picture after the other, so that the page answers in between. */
  const model = (name) => {
    for (const doc of Bokeh.documents) {
      const found = doc.get_model_by_name(name);
      if (found) return found;
    }
    return null;
  };
  const opened = new Set();
  const embed = async (inside) => {
    for (const script of document.querySelectorAll("script.item")) {
      const { place } = script.dataset, target = element(place);
      if (opened.has(place) || !inside.contains(target) || target.closest("[hidden]")) continue;
      opened.add(place);
      await Bokeh.embed.embed_item(JSON.parse(script.textContent));
      document.documentElement.dataset.open = "true";
      await new Promise((next) => (window.requestIdleCallback ?? setTimeout)(next));
    }
  };
  const choose = async (plan) => {
    for (const article of document.querySelectorAll("article.plan")) article.hidden = article.id !== plan;
    for (const tab of document.querySelectorAll(".tab")) tab.setAttribute("aria-pressed", tab.dataset.plan === plan);
    await embed(element(plan));
  };
  const inside = (view) => [view, ...(view.child_views ?? []).flatMap(inside)];
  const repaint = () => {
    for (const root of Bokeh.index.roots) for (const view of inside(root)) view.repaint?.();
  };
  const open = async () => {
    for (const tab of document.querySelectorAll(".tab")) {
      tab.addEventListener("click", async () => {
        await choose(tab.dataset.plan);
        element(tab.dataset.plan).scrollIntoView();
      });
    }
    for (const button of document.querySelectorAll("button[data-range]")) {
      button.addEventListener("click", () => {
        model(button.dataset.range)?.setv({ start: Number(button.dataset.start), end: Number(button.dataset.end) });
      });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    await embed(document.body);
    document.documentElement.dataset.complete = "true";
  };

  const tools = { element, escaped, rgba, soon, time };
  return { open, model, timeTick, timeline, memory, dagFit, dagScale, dagSearch, tableFilter, tools };
})();
