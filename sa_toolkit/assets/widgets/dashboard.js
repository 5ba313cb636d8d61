
// A run as it goes: curves over steps, and which residues of one chain the losses kept. `common.js` goes before.
//
// `data` holds the curves and how far the run is, `kept` the chain. Python sends both about once a
// second; what is pointed at and how much curves are smoothed stays here, since a kernel that
// trains answers nothing.

const COLORS = ['#2a83cc', '#d55e00', '#009e73', '#b65f94'];
const KEPT = [42, 131, 204, 255], LEFT = [213, 94, 0, 180], NOTHING = [0, 0, 0, 0];
const SMOOTH = [1, 3, 5, 9, 17, 33]; // points averaged
const WORDS = { 1: 'kept', 0: 'left out', '.': 'not counted' };

function draw(parent, tag, className, attributes = {}) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  node.setAttribute('class', className);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

// ---- numbers ----

const known = value => value !== null && value !== undefined;

function words(value) {
  if (!known(value)) return '–';
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString('en');
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

// Means of `width` points around each
function smoothed(values, width) {
  const half = (width - 1) / 2;
  return values.map((_, k) => {
    const near = values.slice(Math.max(0, k - half), k + half + 1).filter(known);
    return near.length ? near.reduce((sum, value) => sum + value, 0) / near.length : null;
  });
}

function range(lists) {
  const all = lists.flat().filter(known);
  if (!all.length) return [0, 1];
  const low = Math.min(...all), high = Math.max(...all), size = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const room = (high - low > 1e-6 * size ? high - low : size) * 0.1; // a flat curve differs by rounding only
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

function ticks([low, high], most) {
  const rough = (high - low) / most, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(k => k * unit).find(size => size >= rough) ?? 10 * unit, res = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) res.push([k * step, step]);
  return res;
}

const tickText = ([value, step]) => Math.abs(value) >= 10000 ? `${+(value / 1000).toFixed(1)}k` : value.toFixed(within(Math.ceil(-Math.log10(step) - 1e-9), 0, 6));

// The last point at or before a step
const placeOf = (line, step) => line.x.findLastIndex(x => x <= step);

// ---- one chart ----

function chart(parent) {
  const box = add(parent, 'div', 'sa-chart'), head = add(box, 'div', 'sa-chart-head'), frame = add(box, 'div', 'sa-plot');
  const svg = draw(frame, 'svg', 'sa-svg', { viewBox: '0 0 1000 1000', preserveAspectRatio: 'none', role: 'img' });
  let panel, shown, xs, ys;
  const px = x => (x - xs[0]) / (xs[1] - xs[0]) * 1000, py = y => 1000 - (y - ys[0]) / (ys[1] - ys[0]) * 1000;

  const path = (x, y) => {
    let res = '', pen = 'M';
    y.forEach((value, k) => {
      if (!known(value)) { pen = 'M'; return; }
      res += `${pen}${px(x[k]).toFixed(1)} ${py(value).toFixed(1)}`;
      pen = 'L';
    });
    return res;
  };
  const curve = (line, k) => {
    const look = { stroke: COLORS[k % COLORS.length] };
    if (!line.dots) {
      draw(svg, 'path', 'sa-raw', { d: path(line.x, line.y), ...look });
      return draw(svg, 'path', 'sa-line', { d: path(line.x, shown[k]), ...look });
    }
    draw(svg, 'path', 'sa-dashes', { d: path(line.x, line.y), ...look });
    const places = line.x.map((x, i) => known(line.y[i]) ? `M${px(x).toFixed(1)} ${py(line.y[i]).toFixed(1)}h0` : '').join('');
    return draw(svg, 'path', 'sa-dots', { d: places, ...look });
  };
  const label = (className, text, place) => { Object.assign(add(frame, 'span', `sa-tick ${className}`, text).style, place); };
  const values = at => {
    head.replaceChildren();
    add(head, 'span', 'sa-chart-title', panel.title);
    for (const [k, line] of panel.lines.entries()) {
      const here = at === null ? line.x.length - 1 : placeOf(line, at), number = shown[k][here];
      const key = add(head, 'span', 'sa-value');
      add(key, 'span', line.dots ? 'sa-key-dot' : 'sa-key-line').style.background = COLORS[k % COLORS.length];
      add(key, 'span', '', `${line.name ? line.name + ' ' : ''}${words(number)}`);
    }
  };
  return {
    box,
    update(next, steps, width) {
      panel = next;
      shown = panel.lines.map(line => line.dots ? line.y : smoothed(line.y, width));
      xs = [-0.02 * steps[1], steps[1] * 1.02]; // room for the first dot and the last
      ys = range(shown);
      svg.replaceChildren();
      frame.querySelectorAll('.sa-tick').forEach(node => node.remove());
      svg.setAttribute('aria-label', `${panel.title} over steps`);
      for (const tick of ticks(ys, 4)) {
        draw(svg, 'path', 'sa-grid', { d: `M0 ${py(tick[0]).toFixed(1)}H1000` });
        label('sa-tick-y', tickText(tick), { top: `${py(tick[0]) / 10}%` });
      }
      for (const tick of ticks(xs, 4)) if (Number.isInteger(tick[0])) label('sa-tick-x', tickText(tick), { left: `${px(tick[0]) / 10}%` });
      panel.lines.forEach(curve);
    },
    point(at) {
      values(at);
      svg.querySelector('.sa-at')?.remove();
      if (at !== null) draw(svg, 'path', 'sa-at', { d: `M${px(at).toFixed(1)} 0V1000` });
    },
    step: event => {
      const area = svg.getBoundingClientRect();
      return Math.round(within(xs[0] + (event.clientX - area.left) / area.width * (xs[1] - xs[0]), 0, xs[1] / 1.02));
    },
  };
}

// ---- all charts ----

function chartsPanel(root, model) {
  const grid = add(root, 'div', 'sa-charts'), charts = [];
  grid.tabIndex = 0;
  grid.setAttribute('role', 'group');
  grid.setAttribute('aria-label', 'Curves over steps. Left and right arrow move along the steps, Escape shows the last values.');
  let at = null, width = SMOOTH[2], steps = [0, 1];
  const point = next => { at = next; for (const one of charts) one.point(at); root.dataset.at = at ?? ''; };
  const draw = () => {
    const { panels, step, steps: all } = model.get('data');
    steps = [0, Math.max(step || 0, 1)];
    root.dataset.step = step ?? '';
    while (charts.length > panels.length) charts.pop().box.remove();
    while (charts.length < panels.length) {
      const one = chart(grid);
      one.box.addEventListener('pointermove', event => point(one.step(event)));
      charts.push(one);
    }
    panels.forEach((panel, k) => charts[k].update(panel, steps, width));
    point(at);
  };
  grid.addEventListener('pointerleave', () => point(null));
  grid.addEventListener('keydown', event => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === 'Escape') point(null);
    else if (!move) return;
    else point(within((at ?? steps[1]) + move * Math.max(1, Math.round(steps[1] / 100)), ...steps));
    event.preventDefault();
    event.stopPropagation();
  });
  return { draw, smooth: next => { width = next; draw(); } };
}

function smoothing(root, charts) {
  const row = add(root, 'label', 'sa-smooth', 'smoothing '), slider = add(row, 'input', '');
  Object.assign(slider, { type: 'range', min: 0, max: SMOOTH.length - 1, value: 2 });
  const said = add(row, 'span', 'sa-end');
  const say = () => { said.textContent = SMOOTH[slider.value] > 1 ? `mean of ${SMOOTH[slider.value]} points` : 'none'; };
  slider.addEventListener('input', () => { say(); charts.smooth(SMOOTH[slider.value]); });
  slider.addEventListener('keydown', event => event.stopPropagation()); // a notebook would take the arrow keys
  say();
}

// ---- kept residues ----

function strip(parent, className, colors) {
  const canvas = add(parent, 'canvas', className);
  canvas.width = colors.length;
  canvas.height = 1;
  const image = new ImageData(colors.length, 1);
  colors.forEach((color, k) => image.data.set(color, 4 * k));
  canvas.getContext('2d').putImageData(image, 0, 0);
}

const CHOICE = { 1: KEPT, 0: LEFT, '.': NOTHING };
const share = (times, seen) => seen ? [...KEPT.slice(0, 3), Math.round(25 + 230 * times / seen)] : NOTHING;

function residueWords(kept, i) {
  const said = kept.rows.map(({ name, now, excess, times, seen }) => {
    const known = now[i] === '.' ? '' : ` (excess ${excess[i] >= 0 ? '+' : '−'}${Math.abs(excess[i]).toFixed(2)})`;
    return `${name}: ${WORDS[now[i]]}${known}${seen[i] ? `, ${times[i]} of ${seen[i]} times` : ''}`;
  });
  return [kept.names[i], ...said].join(' · ');
}

function keptLegend(parent) {
  for (const [color, text] of [[KEPT, 'kept'], [LEFT, 'left out']]) {
    const key = add(parent, 'span', 'sa-key');
    add(key, 'span', 'sa-swatch').style.background = `rgba(${color.map((c, k) => k < 3 ? c : c / 255)})`;
    add(key, 'span', '', text);
  }
  const key = add(parent, 'span', 'sa-key', 'below: share of the times it was kept so far');
  add(key, 'span', 'sa-end', '0');
  add(key, 'span', 'sa-scale').style.backgroundImage = `linear-gradient(to right, rgba(${KEPT.slice(0, 3)},0.1), rgb(${KEPT.slice(0, 3)}))`;
  add(key, 'span', 'sa-end', '1');
}

function keptPanel(root, model) {
  const box = add(root, 'div', 'sa-kept');
  let at = null;
  const draw = () => {
    const kept = model.get('kept');
    box.replaceChildren();
    box.hidden = !kept.rows?.length;
    if (box.hidden) return;
    root.dataset.kept = kept.step;
    const head = add(box, 'div', 'sa-kept-head');
    add(head, 'span', 'sa-chart-title', `Kept residues of ${kept.id}`);
    add(head, 'span', 'sa-subtitle', `as of step ${kept.step.toLocaleString('en')}, the last with this chain`);
    const track = add(box, 'div', 'sa-strips'), n = kept.names.length;
    track.tabIndex = 0;
    track.setAttribute('role', 'group');
    track.setAttribute('aria-label', 'Residues along the sequence. Left and right arrow move from one to the next.');
    for (const { name, now, times, seen } of kept.rows) {
      add(track, 'span', 'sa-strip-name', name);
      const pair = add(track, 'div', 'sa-strip-pair');
      strip(pair, 'sa-now', [...now].map(c => CHOICE[c]));
      strip(pair, 'sa-share', times.map((count, k) => share(count, seen[k])));
    }
    add(track, 'span', 'sa-strip-name');
    const axis = add(track, 'div', 'sa-axis'), mark = add(axis, 'span', 'sa-mark'), readout = add(box, 'div', 'sa-readout');
    mark.style.height = `${24 * kept.rows.length}px`;
    for (const [i, text] of kept.ticks) add(axis, 'span', 'sa-tick sa-tick-x', text).style.left = `${(i + 0.5) / n * 100}%`;
    const show = next => {
      at = next === null ? null : within(next, 0, n - 1);
      mark.hidden = at === null;
      if (at !== null) mark.style.left = `${(at + 0.5) / n * 100}%`;
      readout.textContent = at === null ? 'Point at a residue, or move with the arrow keys.' : residueWords(kept, at);
    };
    const residue = event => {
      const area = axis.getBoundingClientRect();
      return event.clientX < area.left ? null : Math.floor((event.clientX - area.left) / area.width * n);
    };
    track.addEventListener('pointermove', event => show(residue(event)));
    track.addEventListener('pointerleave', () => { if (document.activeElement !== track) show(null); });
    track.addEventListener('keydown', event => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === 'Escape') show(null);
      else if (!move) return;
      else show((at ?? (move > 0 ? -1 : n)) + move);
      event.preventDefault();
      event.stopPropagation();
    });
    show(at);
    keptLegend(add(box, 'div', 'sa-legend'));
  };
  return { draw };
}

// ---- the view ----

function headPanel(root, model) {
  const head = add(root, 'div', 'sa-head');
  const title = add(head, 'span', 'sa-title'), said = add(head, 'span', 'sa-subtitle');
  const bar = add(add(root, 'div', 'sa-bar'), 'div', 'sa-done');
  return {
    draw() {
      const { title: name, state, said: text, step, steps } = model.get('data');
      title.textContent = name;
      said.textContent = text;
      root.dataset.state = state;
      bar.style.width = `${100 * (step || 0) / Math.max(1, steps || 1)}%`;
    },
  };
}

function render({ model, el }) {
  const root = add(el, 'div', 'sa-view sa-dashboard'); // Jupyter styles `el` itself, so it stays bare
  root.dataset.lmSuppressShortcuts = 'true';
  root.style.setProperty('--sa-accent', COLORS[0]);
  const head = headPanel(root, model), charts = chartsPanel(root, model);
  smoothing(root, charts);
  const kept = keptPanel(root, model);
  const due = new Set();
  let waiting;
  const later = panel => () => { // drawn once a frame at most, and not at all in a hidden tab
    due.add(panel);
    waiting ??= requestAnimationFrame(() => { waiting = undefined; for (const one of due) one.draw(); due.clear(); });
  };
  const events = [['change:data', later(head)], ['change:data', later(charts)], ['change:kept', later(kept)]];
  for (const [event, listener] of events) model.on(event, listener);
  for (const panel of [head, charts, kept]) panel.draw();
  return () => {
    for (const [event, listener] of events) model.off(event, listener);
    if (waiting !== undefined) cancelAnimationFrame(waiting);
    root.remove();
  };
}

export default { render };
